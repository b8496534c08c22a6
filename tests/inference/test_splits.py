"""Predictions of a split that is interrupted and continued."""

import numpy as np
import PIL.Image
import pytest

from mtseg.inference import splits
from mtseg.inference.torch_network import predict
from tests import tiny
from tests.scenes import SIZE, make_tasks, scene

TASKS = make_tasks(2)
GIVEN = tiny.params()


def test_an_interrupted_prediction_keeps_its_parts_and_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    images, network = scene(TASKS, count=5), tiny.network(TASKS)
    rng = np.random.default_rng(0)
    for name in images.file_name:
        PIL.Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / name)
    whole = predict(network, images, root=tmp_path, input=GIVEN.input, batch=1, progress=False)
    monkeypatch.setattr(splits, "PART", 1)
    batches, predicted, limit = splits.predict_batches, [], 3

    def stopped(model, images, **given):
        for image, found in zip(images, batches(model, images, **given), strict=True):
            if len(predicted) == limit:
                raise KeyboardInterrupt
            predicted.append(image.id)
            yield found

    def run():
        return splits.predict_in_parts(
            network, images, work=tmp_path / "work", root=tmp_path, input=GIVEN.input, batch=1
        )

    monkeypatch.setattr(splits, "predict_batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    first, _, third = sorted((tmp_path / "work").iterdir())
    third.write_bytes(third.read_bytes()[:-9])
    first.unlink()
    predicted, limit = [], None
    found = run()
    one, _, *others = images.id
    assert predicted == [one, *others], "the second image was done, and its part is whole"
    assert len(found) and all(np.array_equal(found.column(name), whole.column(name)) for name in whole.names)
