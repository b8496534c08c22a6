"""ONNX Runtime finds what PyTorch finds, with none of it installed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mtseg.core import metadata
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.data.images import square
from mtseg.data.shapes import draw
from mtseg.inference.onnx_export import export
from mtseg.inference.onnx_network import OnnxNetwork
from mtseg.inference.onnx_precision import quantise, to_float16
from mtseg.inference.torch_network import TorchNetwork
from tests import tiny
from tests.scenes import make_tasks

pytestmark = pytest.mark.slow  # an export takes 10 to 30 s

TASKS = make_tasks(3, background=False)
SEEN = [(0, 0, 0), (1, 1, 2), (2, 0, 1)]
HEADS = {"softmax": (), "combinations": SEEN}


def shorten(backbone):
    """Of the blocks of a kind that follow each other keep two, whose operations are those of all: an export takes time
    by the number of operations."""
    for layer in list(backbone.modules()):
        if isinstance(layer, nn.ModuleList) and hasattr(layer[0], "attn"):  # Swin's blocks: without and with a shift
            del layer[2:]
        for i, (name, block) in enumerate(layer.named_children() if isinstance(layer, nn.Sequential) else ()):
            same = getattr(block, "use_res_connect", False) or getattr(block, "has_skip", False)
            if i > 1 and (same or getattr(block, "shortcut", block) is None):
                setattr(layer, name, nn.Identity())


def make(backbone, seen):
    """A network whose batch norm has seen images, and whose labels are as sure as trained ones."""
    network = tiny.network(TASKS, seen=seen, model={"backbone": backbone, "unseen_combinations": 0.1 if seen else 1})
    shorten(network.backbone)
    with torch.no_grad():
        for head in network.decoder.heads.values():
            head.weight *= 5
        for seed in range(8):
            network([tiny.example(TASKS, 1, seed=seed), tiny.example(TASKS, 1, seed=seed + 100)])
    return network.eval()


def described(network, seen):
    square = {"size": tiny.SIDE, "pixel_mean": network.backbone.pixel_mean, "pixel_std": network.backbone.pixel_std}
    tasks = [{"name": task.name, "classes": task.classes, "background": task.background} for task in TASKS]
    return Metadata(
        version="1", licence=None, tasks=tasks, model=tiny.params().model, seen=seen, input=square, data={}, params={},
        detections=network.detections, ranking="product_quality", filter=tiny.PARAMS.filter, scores={}, step=0,
    )  # fmt: skip


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
    network = make("efficientnet_lite0", SEEN)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(network, path, described(network, SEEN))
    return network, path


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_of_any_size_gives_the_detections_of_pytorch(exported, count):
    network, path = exported
    given, found = images(count), OnnxNetwork(path, "cpu", threads=1)
    for ours, theirs in zip(found.detect(*given), TorchNetwork(network).detect(*given), strict=True):
        assert_same(ours, theirs)


def test_the_file_describes_itself_and_holds_no_trace_of_this_machine(exported):
    network, path = exported
    assert metadata.read(path) == described(network, SEEN)
    assert not any(text in path.read_bytes() for text in (b"site-packages", b"/mtseg/", b"pytorch"))


def test_the_same_network_gives_the_same_bytes(exported, tmp_path):
    network, path = exported
    export(network, tmp_path / "again.onnx", described(network, SEEN))
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_smaller_file_takes_and_gives_the_same_arrays_and_about_the_same_values(exported, tmp_path, precision):
    _, path = exported
    squares = images(5)[0]
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
