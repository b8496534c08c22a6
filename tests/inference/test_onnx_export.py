"""Networks that cannot be exported; those that can are in test_onnx.py."""

import numpy as np
import pytest

import mtseg
from mtseg.core.errors import UserError
from mtseg.core.metadata import Metadata
from mtseg.inference.onnx_export import export
from mtseg.inference.onnx_precision import CALIBRATION, calibration_rows
from tests import tiny
from tests.scenes import make_tasks

TASKS = make_tasks(3)


def test_a_backbone_of_timm_that_bakes_in_a_batch_is_one_line(tmp_path):
    network = tiny.network(TASKS).eval()
    forward = network.backbone.forward
    network.backbone.forward = lambda x: forward(x.reshape(2, *x.shape[1:]))  # the exporter gives it two images
    pixels = {"pixel_mean": network.backbone.pixel_mean, "pixel_std": network.backbone.pixel_std}
    known = Metadata(
        version=mtseg.__version__, licence=None, model=tiny.params().model, seen=(), detections=network.detections,
        tasks=[{"name": task.name, "classes": task.classes, "background": task.background} for task in TASKS],
        input={"size": tiny.SIDE, **pixels}, step=0, ranking="product_quality", filter=tiny.FILTER, data={}, params={},
        scores={},
    )  # fmt: skip
    of_timm = known.model_copy(update={"model": known.model.model_copy(update={"backbone": "timm/baked"})})
    with pytest.raises(UserError, match="timm/baked cannot be exported to ONNX .*safetensors") as error:
        export(network, tmp_path / "model.onnx", of_timm)
    assert "\n" not in str(error.value) and not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("count", [1, 49, 50, 51, 99, 1000])
def test_calibration_spreads_over_all_images(count):
    rows = calibration_rows(count)
    assert len({*rows}) == len(rows) == min(count, CALIBRATION)
    assert rows[0] == 0 and count - rows[-1] <= -(-count // CALIBRATION)
    assert count == 1 or np.ptp(np.diff(rows)) <= 1
