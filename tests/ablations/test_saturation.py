import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.structures import Instances

from ablations import saturation, studies
from mtseg.core.errors import UserError
from mtseg.data.shapes import grid
from mtseg.inference.torch_network import description
from tests import tiny

ROOT = Path(__file__).parents[2]
COMMITTED = pd.read_csv(ROOT / saturation.RESULTS, dtype=saturation.KEY, keep_default_na=False)
ROWS = pd.DataFrame(
    [
        {"queries": q, "seed": 0, "objects": objects, "shown": k, "commit": "abc1234"}
        | dict(missed=m, low=m - 1, high=m + 1, missed_masks=m / 2)
        for objects in saturation.OBJECTS
        for q, k, m in ((20, 10, 4.0), (20, 50, 62.0), (100, 10, 6.0), (100, 50, 30.0))
    ]
)


class Finder:
    """In the place of a model: predicts the first `most` objects of a scene, with this score and class."""

    def __init__(self, tasks, most, *, score=0.9, label=None):
        self.tasks, self.most, self.score, self.label, self.scenes = tasks, most, score, label, {}
        self.num_queries = most

    def eval(self):
        return self

    def __call__(self, batch):
        return [self.found(self.scenes[image["image_id"]]) for image in batch]

    def found(self, scene):
        masks = torch.from_numpy(scene.masks[: self.most])
        labels = [self.tasks[0].index(self.label or label) for label in scene.labels[: self.most]]
        return Instances(
            scene.image.shape[:2], scores=torch.full((len(masks),), self.score), pred_classes=torch.tensor(labels),
            mask=torch.arange(len(masks)),
        ), masks  # fmt: skip


@pytest.fixture(scope="module")
def tasks():
    shape = tiny.PARAMS.tasks[0].model_copy(update={"class_weights": None})
    return (shape,)


def missed(finder, shown, repeats=3, alike=False):
    found = list(itertools.islice(saturation.scenes(shown, alike=alike), repeats))
    finder.scenes = dict(enumerate(found))
    return saturation.missed(finder, found)


@pytest.mark.parametrize("alike", [True, False])
def test_the_object_of_a_cell_does_not_depend_on_the_other_cells(alike):
    few, many = (grid(3, 192, 10, cells, alike=alike) for cells in ([7, 42], range(100)))
    assert few[1] == [many[1][cell] for cell in (7, 42)] and len(few[2]) == 2 and len(many[2]) == 100
    assert (len({*many[1]}) == 1) == alike == (len({mask.sum() for mask in many[2]}) == 1)
    assert many[2].sum(axis=0).max() == 1  # no overlap
    for mask, cell in zip(few[2], (7, 42), strict=True):
        assert (mask == many[2][cell]).all()
        assert np.abs(few[0][mask].astype(int) - many[0][mask]).max() <= 2  # the same colours there
    assert (few[0] != many[0]).any()


def test_the_share_missed_is_that_of_the_objects_without_a_hit(tasks):
    assert missed(Finder(tasks, 100), 40).max() == 0
    assert missed(Finder(tasks, 10), 40) == pytest.approx(0.75)


def test_a_wrong_class_or_a_low_score_is_a_miss_though_the_mask_is_there(tasks):
    low = missed(Finder(tasks, 100, score=saturation.SCORE - 0.01), 20)
    assert (low[:, 0] == 1).all() and (low[:, 1] == 0).all()
    labels = {scene.labels[0] for scene in itertools.islice(saturation.scenes(1, alike=True), 3)}
    wrong = next(name for name in tasks[0].classes if name not in labels)
    other = missed(Finder(tasks, 100, label=wrong), 20, alike=True)
    assert (other[:, 0] == 1).all() and (other[:, 1] == 0).all()


def test_an_untrained_network_of_a_checkpoint_misses_everything(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(saturation, "SHOWN", (5, 100))
    monkeypatch.setattr(saturation, "REPEATS", 3)
    run = studies.runs(studies.read("saturation"), "embedded", params=ROOT / "params.yaml")[1]
    tiny.save(tmp_path / "last.safetensors", tiny.network(tasks), description(tasks, tiny.params().model))
    rows = saturation.measure(tmp_path / "last.safetensors", run, commit="abc1234")
    assert [*zip(rows["objects"], rows["shown"], strict=True)] == [*itertools.product(saturation.OBJECTS, (5, 100))]
    assert (rows["low"] <= rows["missed"]).all() and (rows["missed"] <= rows["high"]).all()
    assert (rows["missed"] > 90).all() and {*rows["params"]} == {run.digest} and {*rows["queries"]} == {6}


def test_no_limit_on_detections_leaves_a_query_out(tasks, tmp_path):
    tasks = (*tasks, tiny.PARAMS.tasks[1].model_copy(update={"classes": tuple("abcdefghi"), "background": False}))
    seen = [*itertools.product(range(4), range(9))]
    network = tiny.network(tasks, seen=seen, model={"unseen_combinations": 0.01})
    built = tiny.params().model.model_copy(update={"unseen_combinations": 0.01})
    tiny.save(tmp_path / "last.safetensors", network, description(tasks, built) | {"seen": seen})
    scene = next(saturation.scenes(3, alike=True))
    ((found, _),) = saturation.read_model(tmp_path / "last.safetensors").eval()([saturation._example(0, scene.image)])
    assert found.query.bincount(minlength=6).tolist() == [36] * 6


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The runs of the study, in a working folder without csv file and page."""
    monkeypatch.chdir(tmp_path)
    for folder in (saturation.page.PAGE.parent, saturation.RESULTS.parent):
        folder.mkdir(parents=True)
    return studies.runs(studies.read("saturation"), "embedded", params=ROOT / "params.yaml")


def test_what_is_measured_is_kept_and_rows_of_other_runs_are_removed(planned):
    committed = (ROOT / saturation.RESULTS).read_bytes()
    other = COMMITTED.assign(params="0123abcd", queries=7)
    pd.concat([COMMITTED, other]).to_csv(saturation.RESULTS, index=False)
    saturation.update(planned, again=False)
    assert saturation.RESULTS.read_bytes() == committed


@pytest.mark.parametrize("changed", ["params", "measure", "again"])
def test_a_new_measurement_needs_the_experiment(planned, changed):
    rows = COMMITTED if changed == "again" else COMMITTED.assign(**{changed: "0"})
    rows.to_csv(saturation.RESULTS, index=False)
    with pytest.raises(UserError, match="experiment saturation-20-s0 is missing"):
        saturation.update(planned, again=changed == "again")


def test_table_and_figure_come_from_the_csv_alone(planned):
    saturation.page.PAGE.write_text("above\n<!-- saturation -->\nold\n<!-- /saturation -->\nbelow\n")
    saturation.publish()
    assert "old" in saturation.page.PAGE.read_text()  # nothing was measured
    ROWS.to_csv(saturation.RESULTS, index=False)
    for _ in range(2):
        saturation.publish()
        page, drawing = saturation.page.PAGE.read_text(), Path("docs/figures/saturation.svg").read_text()
        assert page.startswith("above\n") and page.endswith("below\n") and "old" not in page
        assert "| 20 | 50 | 62.0 (61.0 to 63.0) | 19 | 31.0 | 62.0 (61.0 to 63.0) | 19 | 31.0 |" in page
        assert "20 queries" in drawing and "100 queries" in drawing
    assert saturation.figure(ROWS) == drawing
    assert "\n\nCommit abc1234.\n\n" in page


def test_the_interval_is_over_the_trainings_if_there_are_several():
    other = ROWS.assign(seed=1, missed=ROWS["missed"] + 2, missed_masks=0.0)
    assert "| 20 | 50 | 63.0 ± 12.7 | 18 | 15.5 |" in saturation.table(pd.concat([ROWS, other]))


def test_the_committed_table_and_figure_are_those_of_the_committed_csv():
    rows = COMMITTED
    assert saturation.table(rows) in (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert saturation.figure(rows) == (ROOT / "docs/figures/saturation.svg").read_text(encoding="utf-8")
    assert set(rows["shown"]) == set(saturation.SHOWN)
    planned = studies.runs(studies.read("saturation"), "embedded", params=ROOT / "params.yaml")
    assert {*rows["params"]} == {run.digest for run in planned}


def test_the_study_trains_on_images_like_those_it_is_measured_on():
    for run in studies.runs(studies.read("saturation"), "embedded", params=ROOT / "params.yaml"):
        params = run.checked
        assert params.input.size == params.generate.size == saturation.SIZE
        assert params.generate.max_objects <= params.model.num_queries  # so all objects of an image can be found
        assert saturation.SCORE == params.filter.min_score
