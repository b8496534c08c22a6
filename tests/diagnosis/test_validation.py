"""Stored predictions compared with the validation of the same weights in training."""

import numpy as np
import pandas as pd
import pytest

from mtseg.checks.findings import Finding
from mtseg.diagnosis import validation
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.summary import spread, summary
from tests.diagnosis.answers import healthy, split
from tests.scenes import SIZE, make_tasks, scene

TASKS = make_tasks(3)
VALIDATED = pd.DataFrame({"step": [100, 200], "joint_AP": [5.0, 6.0]})


def test_predictions_that_score_less_than_the_weights_did():
    (finding,) = validation.lower(VALIDATED, 1.0, "best", detections=100)
    assert finding.cause == "prediction_differs"
    assert not validation.lower(VALIDATED, 5.9, "best", detections=100)
    assert not validation.lower(VALIDATED, 1.0, "best", detections=3), "fewer detections score less by themselves"


def then(whole: Split) -> list[list[float]]:
    return summary(whole.images, whole.predictions, TASKS).tolist()


def test_a_summary_has_the_numbers_of_each_image():
    whole = split(*healthy(TASKS), TASKS)
    rows = np.array(then(whole))
    assert rows.shape == (40, 6 + 3)
    own = whole.predictions[whole.predictions.image_id == whole.images.id[7]]
    number, total, quality, side, x, _, shape, *_ = rows[7]
    assert number == len(own)
    assert total == pytest.approx(own.score.sum(), abs=1e-4)
    assert quality == pytest.approx(np.average(own.mask_quality, weights=own.score), abs=1e-4)
    assert side == pytest.approx(np.average(np.sqrt(own.area) / SIZE, weights=own.score), abs=1e-4)
    assert x == pytest.approx(np.average((own.box[:, 0] + own.box[:, 2] / 2) / SIZE, weights=own.score), abs=1e-4)
    first = next(iter(own.labels.values()))
    assert shape == pytest.approx(np.average(first / (TASKS[0].num_classes - 1), weights=own.score), abs=1e-4)
    assert not summary(whole.images, whole.predictions[:0], TASKS).any(), "nothing was predicted"


def with_columns(whole: Split, **columns: np.ndarray) -> Split:
    return Split(Evaluation(whole.images, whole.predictions.replace(**columns), tasks=TASKS, ranking="product_quality"))


def test_rounding_changes_predictions_by_less():
    whole, rng = split(*healthy(TASKS), TASKS), np.random.default_rng(0)
    noise = rng.uniform(0.98, 1.02, len(whole.predictions))
    rounded = with_columns(whole, score=whole.predictions.score * noise, box=whole.predictions.box * noise[:, None])
    assert not validation.difference(whole, then(whole), detections=100)
    assert not validation.difference(rounded, then(whole), detections=100)


CHANGED = {
    "score": lambda table: {"score": table.score * 0.7},
    "quality": lambda table: {"mask_quality": np.ones(len(table))},
    "place": lambda table: {"box": table.box + [4, 0, 0, 0]},
    "label": lambda table: {f"labels.{TASKS[2].name}": np.zeros(len(table), int)},
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_other_predictions_of_some_images_are_found(change, share):
    whole = split(*healthy(TASKS), TASKS)
    ((name, values),) = CHANGED[change](whole.predictions).items()
    kept = whole.image >= share * len(whole.images)
    values[kept] = whole.predictions.column(name)[kept]
    now, known = with_columns(whole, **{name: values}), then(whole)
    found = validation.difference(now, known, detections=100)
    assert found.finding.cause == "prediction_differs" and found.number == 1
    assert found.share == pytest.approx(share, abs=0.03)
    collapse = Finding("collapse_to_class", "error", "all are circles", "change")
    assert found.explains(collapse) == (change != "label"), "it says more than that labels differ"
    assert not validation.difference(now, known, detections=3), "a validation keeps more detections"
    assert not validation.difference(now, [], detections=100), "weights of an older version have no summary"
    assert not validation.difference(now, known[:-1], detections=100), "it is of another split"


def test_predictions_that_were_left_out():
    images, rows = healthy(TASKS)
    whole, some = split(images, rows, TASKS), split(images, rows[::2], TASKS)
    assert validation.difference(some, then(whole), detections=100).number == pytest.approx(0.5)


def test_a_sample_is_spread_over_all():
    images = scene(TASKS, count=30)
    assert spread(images, 4).id.tolist() == [1, 11, 20, 30]
    assert len(spread(images, 99)) == 30
