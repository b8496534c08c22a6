"""Before any test imports PyTorch."""

import gc
import os

import pytest

# The tests' tensors are small: a second thread costs more than it gives, ten times more beside another busy process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DVC_NO_ANALYTICS"] = "1"  # repositories of tests send no reports, whose files would stay behind


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """A tiny model with random weights, complete."""
    from tests import scenes, tiny  # here: tests that need no PyTorch do not wait for it

    return tiny.segmenter(tmp_path_factory.mktemp("model") / "segmenter.safetensors", scenes.make_tasks(3))


@pytest.fixture(scope="session")
def onnx_segmenter(tmp_path_factory, segmenter):
    """A file of ONNX Runtime with the tasks of that model, which starts in a third of the time."""
    from mtseg.core import metadata
    from tests import onnx_files

    known = metadata.read(segmenter)
    return onnx_files.write(tmp_path_factory.mktemp("model") / "segmenter.onnx", known, onnx_files.outputs(known))


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, or a worker would begin one of them when the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """The modules and tests are no garbage: to look through them again and again takes a twelfth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
