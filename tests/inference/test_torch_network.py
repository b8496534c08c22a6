"""From a checkpoint to predictions."""

from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import mtseg
from mtseg.core.errors import UserError
from mtseg.core.metadata import TaskClasses
from mtseg.core.params import Task
from mtseg.inference.torch_network import description, load_model, predict
from tests import tiny
from tests.scenes import SIZE, make_tasks, scene

ROOT = Path(__file__).parents[2]
TASKS = make_tasks(3)
GIVEN = tiny.params()


@pytest.fixture
def images(tmp_path):
    images = scene(TASKS, count=3)
    rng = np.random.default_rng(0)
    for name in images.file_name:
        PIL.Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / name)
    return images


@pytest.fixture
def checkpoint(tmp_path):
    tiny.save(tmp_path / "best.safetensors", tiny.network(TASKS), {**description(TASKS, GIVEN.model), "step": 1})
    return tmp_path / "best.safetensors"


def load(path, tasks=TASKS, model=GIVEN.model):
    return load_model(path, tasks=tasks, model=model, detections=4)


def test_every_image_is_predicted_in_order_and_best_first(tmp_path, images, checkpoint):
    model = load(checkpoint).train()
    found = predict(model, images, root=tmp_path, input=GIVEN.input, batch=2, progress=False)
    assert model.training, "the model is left as it was"
    assert (np.diff(found.image_id) >= 0).all() and {*found.image_id} <= {*images.id}
    for image in images.id:
        own = found[found.image_id == image]
        assert len(own) <= 4 and (np.diff(own.score) <= 0).all()


def test_a_table_and_a_list_of_its_records_are_predicted_alike(tmp_path, images, checkpoint):
    model = load(checkpoint)
    one, other = (
        predict(model, given, root=tmp_path, input=GIVEN.input, batch=3, progress=False)
        for given in (images, list(images))
    )
    assert all(np.array_equal(one.column(name), other.column(name)) for name in one.names)


def test_a_checkpoint_records_all_of_a_task_but_what_only_training_uses():
    """Otherwise a model file is read as a network of other heads."""
    training = {"loss_weight", "match_weight", "class_weights", "flip_pairs"}
    for task in description(TASKS, GIVEN.model)["tasks"]:
        assert {*task} == {*TaskClasses.model_fields} == {*Task.model_fields} - training


def test_a_checkpoint_of_other_tasks_or_another_network_is_refused(checkpoint):
    with pytest.raises(UserError, match="was trained with tasks .*train again"):
        load(checkpoint, tasks=make_tasks(2))
    with pytest.raises(UserError, match="was trained with model.num_queries 6, params.yaml has 7: train again"):
        load(checkpoint, model=tiny.params(model={"num_queries": 7}).model)
    with pytest.raises(UserError, match="no such file: run `dvc repro train`"):
        load(checkpoint.parent / "models/last.safetensors")


def test_a_checkpoint_that_does_not_record_its_combinations_is_refused(tmp_path):
    tasks, combined = make_tasks(3, background=False), {"unseen_combinations": 0.5}
    given = tiny.params(model=combined, tasks=[task.model_dump() for task in tasks]).model
    network = tiny.network(tasks, seen=[(0, 0, 0)], model=combined)
    path = tmp_path / "best.safetensors"
    tiny.save(path, network, {**description(tasks, given), "step": 1})
    with pytest.raises(UserError, match="does not record which combinations of labels it was trained with"):
        load(path, tasks, given)
    tiny.save(path, network, {**description(tasks, given), "seen": [[0, 0, 0]], "step": 1})
    assert len(load(path, tasks, given).heads) == 1


def test_the_features_of_an_image_are_the_means_of_the_coarsest_level(segmenter):
    backend = mtseg.load(segmenter, device="cpu").network
    squares = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        levels = backend.network.features(torch.from_numpy(squares.transpose(0, 3, 1, 2).copy()))
    coarsest = min(levels.values(), key=lambda level: level.shape[-1])
    np.testing.assert_allclose(backend.features(squares), coarsest.mean((2, 3)).numpy(), rtol=1e-5)


def compile_with(monkeypatch, backend):
    """Graphs are captured as ever, but the backend that makes machine code, which takes a minute, is another one."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def test_a_compiled_network_predicts_the_same_for_batches_of_any_size_and_is_compiled_once(segmenter, monkeypatch):
    compile_with(monkeypatch, "eager")
    eager, compiled = (mtseg.load(segmenter, device="cpu", compile=given) for given in (False, True))
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 256, (40 + 9 * i, 64, 3), dtype=np.uint8) for i in range(5)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (3, 1, 5):
            ours, theirs = (predictor.predict(shots, batch=batch) for predictor in (eager, compiled))
            assert ours.query.tolist() == theirs.query.tolist() and ours.score == pytest.approx(theirs.score, abs=1e-3)
    assert "compiled" in repr(compiled)


def test_without_a_compiler_compiling_is_an_error_of_one_line(segmenter, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no C++ compiler\nsee the manual")

    compile_with(monkeypatch, fail)
    with pytest.raises(UserError, match="compile: .*no C.. compiler") as found:
        mtseg.load(segmenter, device="cpu", compile=True)
    assert "\n" not in str(found.value)
