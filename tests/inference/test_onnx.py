"""ONNX Runtime finds what PyTorch finds, with none of it installed, and int8 finds what float32 finds.

For int8 the network has learned its images, so that its detections are no ties. Over three seeds their scores differ by
0.005 on average; by 0.017 to 0.028 if calibrated on one image, and by 0.011 to 0.079 on black ones.
"""

import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from mtseg.core import metadata
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.data.images import square
from mtseg.data.shapes import draw
from mtseg.inference import torch_network
from mtseg.inference.onnx_export import export
from mtseg.inference.onnx_network import OnnxNetwork
from mtseg.inference.onnx_precision import quantise, to_float16
from mtseg.inference.torch_network import TorchNetwork
from tests import tiny
from tests.scenes import make_tasks

pytestmark = pytest.mark.slow  # an export takes 10 to 30 s, and each is used for all that can be asked of it

TASKS = make_tasks(3)
COUNT, STEPS = 8, 80
CERTAIN, CLOSE, OVERLAP = 0.5, 0.01, 0.9  # score, mean difference of scores, mask IoU
SEEN = [(0, 0, 0), (1, 1, 2), (2, 0, 1)]
HEADS = {"softmax": (), "combinations": SEEN}


def shorten(backbone):
    """Of the blocks of a kind that follow each other keep those whose operations are those of all: an export takes time
    by the number of operations."""
    swin = [layer for layer in backbone.modules() if isinstance(layer, nn.ModuleList) and hasattr(layer[0], "attn")]
    for i, layer in enumerate(swin):
        del layer[1 if i else 2 :]  # the second block has shifted windows
    for layer in list(backbone.modules()):
        for i, (name, block) in enumerate(layer.named_children() if isinstance(layer, nn.Sequential) else ()):
            same = getattr(block, "use_res_connect", False) or getattr(block, "has_skip", False)
            if i > 1 and (same or getattr(block, "shortcut", block) is None):
                setattr(layer, name, nn.Identity())


def make(backbone, seen):
    """A network whose batch norm has seen images, and whose labels are as sure as trained ones."""
    chosen = {"backbone": backbone, "unseen_combinations": 0.1 if seen else 1, "decoder_layers": 1}
    tasks = make_tasks(3, background=not seen)  # a softmax over combinations has one for all tasks
    network = tiny.network(tasks, seen=seen, model=chosen)
    shorten(network.backbone)
    with torch.no_grad():
        for head in network.decoder.heads.values():
            head.weight *= 5
        for seed in range(8):
            network([tiny.example(tasks, 1, seed=seed), tiny.example(tasks, 1, seed=seed + 100)])
    return network.eval()


def described(network, seen):
    square = {"size": tiny.SIDE, "pixel_mean": network.backbone.pixel_mean, "pixel_std": network.backbone.pixel_std}
    tasks = [{"name": task.name, "classes": task.classes, "background": task.background} for task in network.tasks]
    return Metadata(
        version="1", licence=None, tasks=tasks, model=tiny.params().model, seen=seen, input=square, data={}, params={},
        detections=network.detections, ranking="product_quality", filter=tiny.PARAMS.filter, scores={}, step=0,
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network after 80 steps on 8 images, its file, and these images."""
    network = tiny.network(TASKS, model={"backbone": "efficientnet_lite0"}).train()
    data = [painted(seed) for seed in range(COUNT)]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        sum(network(data).values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(network, path, described(network, ()))
    return network, path, np.stack([example["image"].permute(1, 2, 0).numpy() for example in data])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_of_any_size_gives_the_detections_of_pytorch(exported, count):
    network, path, _ = exported
    given, found = images(count), OnnxNetwork(path, "cpu", threads=1)
    for ours, theirs in zip(found.detect(*given), TorchNetwork(network).detect(*given), strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_masks_of_large_images_are_in_memory_one_image_at_a_time(exported, monkeypatch, kind):
    monkeypatch.setattr(torch_network, "READ_AT_ONCE", 1)  # any image is large
    network, path, _ = exported
    detects = OnnxNetwork(path, "cpu", threads=1) if kind == "onnx" else TorchNetwork(network)
    made, before = 0, None
    for number, found in enumerate(map(weakref.ref, detects.detect(*images(3)))):
        assert before is None or before() is None
        made, before = number + 1, found
    assert made == 3


def test_the_file_describes_itself_and_holds_no_trace_of_this_machine(exported):
    network, path, _ = exported
    assert metadata.read(path) == described(network, ())
    assert not any(text in path.read_bytes() for text in (b"site-packages", b"/mtseg/", b"pytorch"))


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_smaller_file_takes_and_gives_the_same_arrays_and_about_the_same_values(exported, tmp_path, precision):
    _, path, squares = exported
    files = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for file in files:
        if precision == "float16":
            to_float16(path, file)
        else:
            quantise(path, file, squares)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < (0.6 if precision == "float16" else 0.4) * path.stat().st_size
    assert metadata.read(files[0]) == metadata.read(path).model_copy(update={"precision": precision})
    whole, small = (OnnxNetwork(file, "cpu", threads=1).session for file in (path, files[0]))
    for ours, theirs in zip(whole.get_outputs(), small.get_outputs(), strict=True):
        assert (ours.name, ours.type, ours.shape) == (theirs.name, theirs.type, theirs.shape)
    masks = (session.run(["masks"], {"image": squares})[0].ravel() for session in (whole, small))
    assert np.corrcoef(*masks)[0, 1] > (0.999 if precision == "float16" else 0.95)


def detections(network, squares):
    """{(image, query, labels): (score, mask)}"""
    size = [(tiny.SIDE, tiny.SIDE)] * len(squares)
    rows = {}
    for number, found in enumerate(network.detect(squares, size, size)):
        probability = np.ones(len(found.query))
        for task, labels in zip(TASKS, found.labels.T, strict=True):
            logits = torch.from_numpy(found.logits[task.name])
            probability *= logits.softmax(1).numpy()[np.arange(len(labels)), labels]
        for i, score in enumerate(probability * found.mask_quality):
            rows[number, int(found.query[i]), tuple(found.labels[i].tolist())] = score, found.masks[found.mask[i]]
    return rows


def test_int8_finds_the_detections_of_float32(exported, tmp_path):
    _, path, squares = exported
    quantise(path, tmp_path / "int8.onnx", squares)
    whole, small = (detections(OnnxNetwork(file, "cpu", threads=1), squares) for file in (path, tmp_path / "int8.onnx"))
    certain = {key for found in (whole, small) for key, (score, _) in found.items() if score >= CERTAIN}
    assert len(certain) >= COUNT, "the network has learned its images"
    assert np.mean([abs(whole[key][0] - small[key][0]) for key in certain]) < CLOSE
    for mask, theirs in ((whole[key][1], small[key][1]) for key in certain):
        assert (mask & theirs).sum() >= OVERLAP * (mask | theirs).sum()


def test_predicting_imports_no_pytorch(exported):
    code = (
        "import sys, numpy as np\n"
        "from mtseg.inference.onnx_network import OnnxNetwork\n"
        f"OnnxNetwork({str(exported[1])!r}).detect(np.zeros((1, 64, 64, 3), 'uint8'), [(64, 64)], [(9, 9)])\n"
        "print({'torch', 'torchvision', 'detectron2', 'timm', 'onnx'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], text=True, capture_output=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_device_that_is_not_there_and_a_broken_file_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="device: cuda is not available"):
        OnnxNetwork(exported[1], "cuda")
    with pytest.raises(UserError, match="device: gpu is unknown, allowed are"):
        OnnxNetwork(exported[1], "gpu")
    (tmp_path / "broken.onnx").write_bytes(exported[1].read_bytes()[:1000])
    with pytest.raises(UserError, match="broken.onnx is broken"):
        OnnxNetwork(tmp_path / "broken.onnx")


# Backbones and heads are independent, and an export takes 10 s: each kind of both is here, in `exported`, or in the
# test of the command.
PAIRS = [("mobilenetv3_large", "combinations"), ("resnet50", "softmax"), ("swin_t", "combinations")]


@pytest.mark.parametrize(("backbone", "heads"), PAIRS)
def test_other_backbones_and_heads_give_the_detections_of_pytorch(tmp_path, backbone, heads):
    network, given = make(backbone, HEADS[heads]), images(3)
    export(network, tmp_path / "model.onnx", described(network, HEADS[heads]))
    found = OnnxNetwork(tmp_path / "model.onnx", "cpu", threads=1)
    for ours, theirs in zip(found.detect(*given), TorchNetwork(network).detect(*given), strict=True):
        assert_same(ours, theirs)
