"""ONNX Runtime finds what PyTorch finds, with none of it installed, and int8 finds what float32 finds.

For int8 the network has learned its images, so that its detections are no ties. Over two seeds their scores differ by
0.004 to 0.006 on average; by 0.020 to 0.031 if calibrated on one image, and by 0.019 to 0.043 on black ones.
"""

import contextlib
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

import mtseg
from mtseg.cli import main
from mtseg.cli.export import _squares
from mtseg.core import metadata
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.core.tables import Predictions
from mtseg.data.images import square
from mtseg.data.shapes import draw
from mtseg.inference import torch_network
from mtseg.inference.onnx_export import export
from mtseg.inference.onnx_network import OnnxNetwork
from mtseg.inference.onnx_precision import quantise, to_float16
from mtseg.inference.torch_network import TorchNetwork
from mtseg.model import backbones
from mtseg.model.mask2former import Mask2Former
from tests import tiny
from tests.cli.conftest import start
from tests.scenes import make_tasks

pytestmark = pytest.mark.slow  # an export takes some 8 s: each is used for all that can be asked of it

TASKS = make_tasks(3)
COUNT, STEPS = 8, 80
CERTAIN, CLOSE, OVERLAP = 0.5, 0.03, 0.9  # score, mean difference of scores (7 bits: about 0.01), mask IoU
SEEN = [(0, 0, 0), (1, 1, 2), (2, 0, 1)]
BACKBONES = ("efficientnet_lite0", "mobilenetv3_large", "resnet50", "swin_t")


def shorten(backbone):
    """Keep a block of each kind where others follow that do the same to features of the same size: an export takes time
    by the number of operations."""
    swin = [layer for layer in backbone.modules() if isinstance(layer, nn.ModuleList) and hasattr(layer[0], "attn")]
    for i, blocks in enumerate(swin):
        del blocks[0 if i else 2 :]  # the second block has shifted windows
    known = set()
    for layer in [module for module in backbone.modules() if isinstance(module, nn.Sequential)]:
        for name, block in layer.named_children():
            same = getattr(block, "use_res_connect", False) or getattr(block, "has_skip", False)
            if same or getattr(block, "shortcut", block) is None:
                kind = tuple(map(type, block.modules()))
                if kind in known:
                    setattr(layer, name, nn.Identity())
                known.add(kind)


class Several(Backbone):
    """The features of several backbones side by side: one export for all of them."""

    def __init__(self, names):
        super().__init__()
        self.parts = nn.ModuleList(backbones.build(name, freeze_norm=False) for name in names)
        self.pixel_mean, self.pixel_std = self.parts[0].pixel_mean, self.parts[0].pixel_std
        shorten(self)
        self.scales = [dict.fromkeys(part.output_shape(), 1.0) for part in self.parts]

    def balance(self, x):
        """With random weights, let no backbone be too faint to be missed."""
        with torch.no_grad():
            self.scales = [{level: 1 / float(y.std()) for level, y in part(x).items()} for part in self.parts]

    def forward(self, x):
        features = [part(x) for part in self.parts]
        return {
            level: torch.cat([found[level] * own[level] for found, own in zip(features, self.scales, strict=True)], 1)
            for level in features[0]
        }

    def output_shape(self):
        shapes = [part.output_shape() for part in self.parts]
        return {
            level: ShapeSpec(channels=sum(own[level].channels for own in shapes), stride=shape.stride)
            for level, shape in shapes[0].items()
        }

    @contextlib.contextmanager
    def exporting(self):
        with contextlib.ExitStack() as stack:
            for part in self.parts:
                if hasattr(part, "exporting"):
                    stack.enter_context(part.exporting())
            yield


def described(network, seen):
    square = {"size": tiny.SIDE, "pixel_mean": network.backbone.pixel_mean, "pixel_std": network.backbone.pixel_std}
    tasks = [{"name": task.name, "classes": task.classes, "background": task.background} for task in network.tasks]
    return Metadata(
        version=mtseg.__version__, licence=None, tasks=tasks, model=tiny.params().model, seen=seen, input=square,
        detections=network.detections, ranking="product_quality", filter=tiny.PARAMS.filter, step=0,
        data={}, params={}, scores={},
    )  # fmt: skip


def painted(seed):
    """An example with two rectangles on plain grey, whose red, green and blue show the labels of the three tasks."""
    example = tiny.example(TASKS, 2, seed=seed)
    image, found = torch.full((3, tiny.SIDE, tiny.SIDE), 120, dtype=torch.uint8), example["instances"]
    for mask, labels in zip(found.gt_masks.tensor, found.gt_labels, strict=True):
        image[:, mask] = (30 + 90 * labels)[:, None].to(torch.uint8)
    return example | {"image": image}


def images(count):
    """Drawn scenes of lit and textured objects, padded as for prediction."""
    drawn = [draw(np.random.default_rng([count, i]), 96 - 7 * i, 6)[0] for i in range(count)]
    squares, content = zip(*(square(pixels, tiny.SIDE) for pixels in drawn), strict=True)
    return np.stack(squares), content, [pixels.shape[:2] for pixels in drawn]


def keys(found):
    return list(zip(found.query.tolist(), map(tuple, found.labels.tolist()), strict=True))


def assert_same(ours, theirs):
    """The order may differ where scores are nearly equal, and so may the last that are among the k best."""
    mine, other = ({key: row for row, key in enumerate(keys(found))} for found in (ours, theirs))
    for found, rows, others in ((ours, mine, other), (theirs, other, mine)):
        certainty = np.ones(len(found.query)) if found.probabilities is None else found.probabilities.prod(1)
        alone = [row for key, row in rows.items() if key not in others]
        assert len(alone) <= 2 and (certainty[alone] < certainty.min() + 1e-3).all()
    a, b = np.array([(row, other[key]) for key, row in mine.items() if key in other]).T
    assert np.abs(ours.mask_quality[a] - theirs.mask_quality[b]).max() < 1e-3
    assert set(ours.logits) == set(theirs.logits)
    for name, logits in ours.logits.items():
        assert np.abs(logits[a] - theirs.logits[name][b]).max() < 1e-3
    assert (ours.probabilities is None) == (theirs.probabilities is None)
    if ours.probabilities is not None:
        assert np.abs(ours.probabilities[a] - theirs.probabilities[b]).max() < 1e-3
    one, other = ours.masks[ours.mask[a]], theirs.masks[theirs.mask[b]]
    union = (one | other).sum((1, 2))
    assert ((one & other).sum((1, 2)) >= 0.99 * union).all() and union.any()


@dataclass(frozen=True, repr=False)
class Exported:
    network: Mask2Former
    model: Path  # .safetensors
    whole: Path
    int8: Path
    shots: Path
    squares: np.ndarray  # of the shots


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network after 80 steps on 8 images, and the files that `mtseg export` makes of it."""
    folder = tmp_path_factory.mktemp("onnx")
    chosen = {"decoder_layers": 1}
    network = tiny.network(TASKS, model=chosen).train()
    data = [painted(seed) for seed in range(COUNT)]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        sum(network(data).values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    model = tiny.segmenter(folder / "model.safetensors", TASKS, trained=network, model=chosen)
    squares = np.stack([example["image"].permute(1, 2, 0).numpy() for example in data])
    (folder / "shots").mkdir()
    for i, pixels in enumerate(squares):
        PIL.Image.fromarray(pixels).save(folder / f"shots/{i}.png")
    whole, int8 = folder / "whole.onnx", folder / "int8.onnx"
    for path, chosen in ((whole, ()), (int8, ("--precision", "int8", "--calibration", str(folder / "shots")))):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(model), "--out", str(path), *chosen])
        assert ended.value.code == 0
    loaded = TorchNetwork.load(model, metadata.read(model), device="cpu").network
    return Exported(loaded, model, whole, int8, folder / "shots", squares)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_of_any_size_gives_the_detections_of_pytorch(exported, count):
    given, found = images(count), OnnxNetwork(exported.whole, "cpu", threads=1)
    for ours, theirs in zip(
        found.detect(*given), TorchNetwork(exported.network, compiled=False).detect(*given), strict=True
    ):
        assert_same(ours, theirs)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_masks_of_large_images_are_in_memory_one_image_at_a_time(exported, monkeypatch, kind):
    monkeypatch.setattr(torch_network, "READ_AT_ONCE", 1)  # any image is large
    given = OnnxNetwork(exported.whole, "cpu", threads=1), TorchNetwork(exported.network, compiled=False)
    detects = given[kind == "torch"]
    made, before = 0, None
    for number, found in enumerate(map(weakref.ref, detects.detect(*images(3)))):
        assert before is None or before() is None
        made, before = number + 1, found
    assert made == 3


def test_the_file_describes_itself_and_holds_no_trace_of_this_machine(exported):
    assert metadata.read(exported.whole) == metadata.read(exported.model)
    assert not any(text in exported.whole.read_bytes() for text in (b"site-packages", b"/mtseg/", b"pytorch"))


def test_the_command_predicts_without_pytorch_what_pytorch_predicts(exported, tmp_path):
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'torchvision', 'detectron2', 'timm', 'onnx'}\n"
        "atexit.register(lambda: print(heavy & {*sys.modules}))\n"
        "from mtseg.cli import main\n"
        "main()\n"
    )
    process = start("predict", exported.shots, "--weights", exported.whole, "--out", tmp_path, "--score", 0, code=code)
    printed, err = process.communicate(timeout=120)
    assert process.returncode == 0 and f"{COUNT} images" in printed and printed.endswith("set()\n"), err
    expected = mtseg.load(exported.model, device="cpu").predict(exported.shots, score=0.0)
    found = Predictions.read(tmp_path / "predictions.parquet", expected.tasks)
    assert len(found) and found.query.tolist() == expected.query.tolist()
    assert found.score == pytest.approx(expected.score, abs=1e-3)


def test_the_same_model_and_images_give_the_same_bytes(exported, tmp_path):
    quantise(exported.whole, tmp_path / "again.onnx", _squares(exported.shots, tiny.SIDE))  # of the other export
    assert (tmp_path / "again.onnx").read_bytes() == exported.int8.read_bytes()
    for name in ("one", "two"):
        to_float16(exported.whole, tmp_path / f"{name}.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def weights(path):
    """Bytes of all tensors."""
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_smaller_file_takes_and_gives_the_same_arrays_and_about_the_same_values(exported, tmp_path, precision):
    small = exported.int8
    if precision == "float16":
        to_float16(exported.whole, small := tmp_path / "small.onnx")
    assert weights(small) < (0.6 if precision == "float16" else 0.45) * weights(exported.whole)
    assert metadata.read(small) == metadata.read(exported.whole).model_copy(update={"precision": precision})
    one, other = (OnnxNetwork(file, "cpu", threads=1).session for file in (exported.whole, small))
    for ours, theirs in zip(one.get_outputs(), other.get_outputs(), strict=True):
        assert (ours.name, ours.type, ours.shape) == (theirs.name, theirs.type, theirs.shape)
    masks = (session.run(["masks"], {"image": exported.squares})[0].ravel() for session in (one, other))
    assert np.corrcoef(*masks)[0, 1] > (0.999 if precision == "float16" else 0.95)


def detections(path, squares):
    """{(image, query, labels): (score, mask)}"""
    size = [(tiny.SIDE, tiny.SIDE)] * len(squares)
    rows = {}
    for number, found in enumerate(OnnxNetwork(path, "cpu", threads=1).detect(squares, size, size)):
        probability = np.ones(len(found.query))
        for task, labels in zip(TASKS, found.labels.T, strict=True):
            logits = torch.from_numpy(found.logits[task.name])
            probability *= logits.softmax(1).numpy()[np.arange(len(labels)), labels]
        for i, score in enumerate(probability * found.mask_quality):
            rows[number, int(found.query[i]), tuple(found.labels[i].tolist())] = score, found.masks[found.mask[i]]
    return rows


def test_int8_finds_the_detections_of_float32(exported):
    whole, small = (detections(path, exported.squares) for path in (exported.whole, exported.int8))
    certain = {key for found in (whole, small) for key, (score, _) in found.items() if score >= CERTAIN}
    assert len(certain) >= COUNT, "the network has learned its images"
    assert np.mean([abs(whole[key][0] - small[key][0]) for key in certain]) < CLOSE
    for mask, theirs in ((whole[key][1], small[key][1]) for key in certain):
        assert (mask & theirs).sum() >= OVERLAP * (mask | theirs).sum()


def test_a_device_that_is_not_there_and_a_broken_file_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="device: cuda is not available"):
        OnnxNetwork(exported.whole, "cuda")
    with pytest.raises(UserError, match="device: gpu is unknown, allowed are"):
        OnnxNetwork(exported.whole, "gpu")
    (tmp_path / "broken.onnx").write_bytes(exported.whole.read_bytes()[:1000])
    with pytest.raises(UserError, match="broken.onnx is broken"):
        OnnxNetwork(tmp_path / "broken.onnx")


def test_every_kind_of_backbone_and_a_softmax_over_combinations_give_the_detections_of_pytorch(tmp_path, monkeypatch):
    tasks = make_tasks(3, background=False)  # such a softmax has one for all tasks
    backbone = Several(BACKBONES)
    monkeypatch.setattr(backbones, "build", lambda *_, **__: backbone)
    network = tiny.network(tasks, seen=SEEN, model={"unseen_combinations": 0.1})
    with torch.no_grad():
        for head in network.decoder.heads.values():
            head.weight *= 5  # labels as sure as trained ones
        for seed in range(8):  # batch norm sees images
            network([tiny.example(tasks, 1, seed=seed), tiny.example(tasks, 1, seed=seed + 100)])
    backbone.eval().balance(torch.randn(2, 3, tiny.SIDE, tiny.SIDE))
    export(network, tmp_path / "model.onnx", described(network, SEEN))
    given, found = images(3), OnnxNetwork(tmp_path / "model.onnx", "cpu", threads=1)
    for ours, theirs in zip(found.detect(*given), TorchNetwork(network, compiled=False).detect(*given), strict=True):
        assert_same(ours, theirs)
