"""Training as a whole, on a data set of four drawn images: resumes to the byte, stops with a clear line."""

from __future__ import annotations

import os
import shutil
import signal

import pandas as pd
import pytest
import torch
from torch import nn

from mtseg.core.errors import UserError
from mtseg.core.files import read_json
from mtseg.data import manifest
from mtseg.inference.torch_network import description, load_model, predict
from mtseg.model import weights
from mtseg.report import learning
from mtseg.training import loop
from mtseg.training.checkpoint import Run
from mtseg.training.optimizer import optimizer, schedule
from mtseg.training.step import Stepper
from tests import tiny
from tests.scenes import make_tasks
from tests.training.runs import SOLVER, run


def interrupt_in(monkeypatch, step, function=torch.optim.AdamW.step, error=None, signals=1):
    """Ctrl-C (or an error) directly after the optimiser's update, within a step."""
    calls = []

    def update(self, *args, **kwargs):
        result = function(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == step:
            if error:
                raise error
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", update)


def test_the_same_training_gives_the_same_bytes_even_when_interrupted(data, tmp_path, monkeypatch, capsys):
    whole = run(data, tmp_path / "a", monkeypatch)
    names = {str(path) for path in whole}
    assert names == {
        "models/best.safetensors",
        "models/last.safetensors",
        "plots/health.tsv",
        "train.json",
        "plots/train.tsv",
        "plots/val.tsv",
    }

    other = tmp_path / "[b]"  # as some libraries mark bold text
    with monkeypatch.context() as patch:
        interrupt_in(patch, 3)
        with pytest.raises(UserError, match="interrupted at step 3 of 6"):
            run(data, other, monkeypatch)
    assert not (other / "models").exists(), "nothing half-written"
    assert run(data, other, monkeypatch) == whole
    text = capsys.readouterr().out
    assert f"resumed at step 3 of 6, from {other}/work" in text and "step 6/6  loss" in text
    assert not any((other / "work/train").iterdir()), "the state of a finished training is of no more use"


def test_a_second_signal_saves_no_half_of_a_step_and_no_half_of_a_validation(data, tmp_path, monkeypatch, capsys):
    whole = run(data, tmp_path / "a", monkeypatch)
    with monkeypatch.context() as patch:
        interrupt_in(patch, 3, signals=2)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "b", monkeypatch)
    validate = loop.validate
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *args, **kwargs: scores_of(validate(*args, **kwargs)))
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "b", monkeypatch)
    assert "resumed at step 2 of 6" in capsys.readouterr().out
    assert run(data, tmp_path / "b", monkeypatch) == whole
    assert "resumed at step 2 of 6" in capsys.readouterr().out


def scores_of(validated):
    scores, summary = validated
    return Scores(scores), summary


class Scores(dict):
    """Of a validation; when they are compared with the best, two signals arrive."""

    def get(self, *arguments):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return super().get(*arguments)


def test_an_interruption_during_the_last_validation_loses_nothing(data, tmp_path, monkeypatch):
    whole = run(data, tmp_path / "a", monkeypatch, eval_period=100)
    with monkeypatch.context() as patch:
        interrupt_in(patch, 5)
        with pytest.raises(UserError, match="interrupted at step 5 of 6"):
            run(data, tmp_path / "b", monkeypatch, eval_period=100)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(data, tmp_path / "b", monkeypatch, eval_period=100)
    assert run(data, tmp_path / "b", monkeypatch, eval_period=100) == whole


def test_a_killed_training_resumes_at_its_last_validation_and_other_params_start_afresh(
    data, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        interrupt_in(patch, 5, error=RuntimeError)
        with pytest.raises(RuntimeError):
            run(data, tmp_path / "a", monkeypatch)
    capsys.readouterr()
    run(data, tmp_path / "a", monkeypatch, weight_decay=0.1)
    assert "resumed" not in capsys.readouterr().out
    run(data, tmp_path / "a", monkeypatch)
    assert "resumed at step 4 of 6" in capsys.readouterr().out


def test_no_step_at_all_keeps_and_scores_the_weights_that_were_given(data, tmp_path, monkeypatch):
    run(data, tmp_path / "a", monkeypatch)
    given, trained = tmp_path / "given.safetensors", tmp_path / "a/models/last.safetensors"
    given.write_bytes(trained.read_bytes())
    changed = tiny.params(model={"weights": str(given)})
    monkeypatch.setattr(tiny, "params", lambda solver: with_solver(changed, solver))
    for kind in ("cosine", "steps"):
        run(data, tmp_path / kind, monkeypatch, max_iter=0, schedule=kind)
        before, after = (weights.load(path)[0] for path in (trained, tmp_path / kind / "models/best.safetensors"))
        counters = {name for name in before if name.endswith("num_batches_tracked")}
        assert all(torch.equal(after[name], before[name]) for name in before.keys() - counters)
        assert read_json(tmp_path / kind / "train.json")["best"]["step"] == 0
        tables = [pd.read_csv(tmp_path / kind / "plots" / name, sep="\t") for name in ("train.tsv", "val.tsv")]
        assert [len(table) for table in tables] == [0, 1]
        assert learning.training(*tables)


def with_solver(params, solver):
    return params.model_copy(update={"solver": params.solver.model_copy(update=solver)})


def test_accumulated_batches_make_one_step(data, tmp_path, monkeypatch):
    run(data, tmp_path, monkeypatch, ims_per_batch=1, accumulate=2)
    rows = (tmp_path / "plots/train.tsv").read_text().splitlines()
    assert rows[0].split("\t")[:3] == ["step", "lr", "loss"]
    assert [row.split("\t")[0] for row in rows[1:]] == ["1", "2", "4", "6"]


def test_the_optimiser_gets_that_lr_and_the_backbone_its_share():
    given = tiny.params(solver={"base_lr": 2e-4, "backbone_multiplier": 0.1, "weight_decay": 0.05})
    network = tiny.network(make_tasks(2))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in optimizer(network, given.solver).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == pytest.approx(2e-5 if name.startswith("backbone.") else 2e-4)


def test_weight_decay_is_where_the_official_code_has_it():
    """None for the decoder's embeddings (nn.Embedding there), but for the pixel decoder's level embedding."""
    network = tiny.network(make_tasks(2), model={"backbone": "swin_t"})
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = optimizer(network, tiny.params(solver={"weight_decay": 0.05}).solver).param_groups
    decay = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay.keys() == set(names.values())
    norms = {name for name, module in network.named_modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))}
    without = {name for name in decay if name.rpartition(".")[0] in norms}
    without |= {name for name in decay if name.endswith("relative_position_bias_table")}
    without |= {"decoder.query_feature", "decoder.query_position", "decoder.level_embed"}
    assert {name for name, value in decay.items() if value == 0} == without
    assert {value for name, value in decay.items() if name not in without} == {0.05}
    assert decay["pixel_decoder.level_embed"] == 0.05


def test_a_task_of_weight_0_changes_no_bit_of_a_step():
    """Nor of the gradient norm used for clipping."""
    tasks = make_tasks(2)
    muted = tasks[1].model_copy(update={"loss_weight": 0.0, "match_weight": 0.0})

    def trained(tasks):
        given = tiny.params(solver={"clip": 0.01})
        network = tiny.network(tasks)
        start = {name: value.clone() for name, value in network.state_dict().items()}
        step = Stepper(network, given.solver)
        for seed in range(4):
            image = tiny.example(make_tasks(2), 3, seed=seed)
            image["instances"].gt_labels = image["instances"].gt_labels[:, : len(tasks)]
            torch.manual_seed(seed)
            step([[image]], seed)
        return start, network.state_dict()

    (_, without), (start, with_muted) = trained(tasks[:1]), trained((*tasks[:1], muted))
    own = with_muted.keys() - without.keys()
    assert own == {f"decoder.heads.head_{muted.name}.{name}" for name in ("weight", "bias")}
    assert all(torch.equal(with_muted[name], value) for name, value in without.items())
    assert all(torch.equal(with_muted[name], start[name]) for name in own), "not trained, so not decayed"


@pytest.mark.parametrize("kind", ["cosine", "steps"])
def test_schedules_start_full_and_end_low(kind):
    course = schedule(tiny.params(solver={"schedule": kind, "steps": [0.5, 0.9], "max_iter": 100}).solver)
    assert course(0.0) == pytest.approx(1.0)
    assert course(0.99) < 0.02
    if kind == "steps":
        assert [round(course(where), 4) for where in (0.49, 0.51, 0.91)] == [1.0, 0.1, 0.01]


def test_a_checkpoint_predicts_what_was_trained_and_refuses_another_network(data, tmp_path, monkeypatch):
    run(data, tmp_path, monkeypatch)
    given, records = tiny.params(), manifest.load(data / "manifest.json")
    tasks, images = records.tasks(given.tasks), records.images("val")
    path = tmp_path / "models/last.safetensors"
    model = load_model(path, tasks=tasks, model=given.model, detections=20)
    state, metadata = weights.load(path)
    assert metadata["step"] == SOLVER["max_iter"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    found = [
        predict(model, images, root=data / "raw", input=given.input, batch=size, progress=False) for size in (1, 2)
    ]
    for name in ("image_id", "query", *(f"labels.{task.name}" for task in tasks)):
        assert (found[0].column(name) == found[1].column(name)).all(), name
    assert (found[0].area > 0).all() and ((found[0].mask_quality > 0) & (found[0].mask_quality <= 1)).all()
    other = tiny.params(model={"num_queries": 7}).model
    with pytest.raises(UserError, match="trained with model.num_queries 6, params.yaml has 7: train again"):
        load_model(path, tasks=tasks, model=other, detections=20)


def test_a_checkpoint_that_does_not_state_what_it_has_seen_is_refused(tmp_path):
    tasks = make_tasks(2, background=False)
    model = tiny.params(tasks=[task.model_dump() for task in tasks], model={"unseen_combinations": 0.01}).model
    seen, path = [(0, 1), (2, 0)], tmp_path / "a.safetensors"
    given = tiny.network(tasks, seen=seen, model={"unseen_combinations": 0.01})
    tiny.save(path, given, {**description(tasks, model), "seen": seen, "step": 1})
    assert load_model(path, tasks=tasks, model=model, detections=9).heads[0].seen.tolist() == [
        list(one) for one in seen
    ]
    tiny.save(path, given, {**description(tasks, model), "step": 1})
    with pytest.raises(UserError, match="which combinations of labels"):
        load_model(path, tasks=tasks, model=model, detections=9)


def test_progress_of_a_finished_training_is_in_its_metrics(data, tmp_path, monkeypatch):
    run(data, tmp_path, monkeypatch)
    metrics = read_json(tmp_path / "train.json")
    assert metrics["best"]["step"] in (2, 4, 6)
    assert metrics["last"]["loss"] > 0
    shutil.rmtree(tmp_path / "models")


def test_best_is_the_first_checkpoint_of_the_highest_joint_ap(tmp_path):
    network = tiny.network(make_tasks(1))
    state = Run(network, tiny.params().solver, work=tmp_path / "work", metadata={})
    for step, joint in enumerate((10.0, 30.0, 30.0, 20.0), start=1):
        state.step = step
        nn.init.constant_(network.decoder.query_feature, step)
        state.validated({"segm_AP": 50 - joint, "joint_AP": joint}, [[joint]])
    state.finish(models=tmp_path / "models", metrics=tmp_path / "train.json", curves=tmp_path / "plots")
    for name, step, joint in (("best", 2, 30.0), ("last", 4, 20.0)):
        stored, metadata = weights.load(tmp_path / f"models/{name}.safetensors")
        assert metadata["step"] == step and metadata["scores"] == {"segm_AP": 50 - joint, "joint_AP": joint}
        assert metadata["summary"] == [[joint]]
        assert (stored["decoder.query_feature"] == step).all()
    assert read_json(tmp_path / "train.json")["best"] == {"step": 2, "segm_AP": 20.0, "joint_AP": 30.0}


def test_without_a_joint_ap_the_best_checkpoint_has_the_highest_ap(tmp_path):
    state = Run(tiny.network(make_tasks(1)), tiny.params().solver, work=tmp_path / "work", metadata={})
    for step, ap in enumerate((10.0, 30.0, 20.0), start=1):
        state.step = step
        state.validated({"segm_AP": ap}, [])
    state.finish(models=tmp_path / "models", metrics=tmp_path / "train.json", curves=tmp_path / "plots")
    assert read_json(tmp_path / "train.json")["best"] == {"step": 2, "segm_AP": 30.0}


def test_logged_losses_are_the_means_since_the_last_row(tmp_path):
    state = Run(tiny.network(make_tasks(1)), tiny.params(solver={"max_iter": 8, "log_period": 3}).solver,
                work=tmp_path / "work", metadata={})  # fmt: skip
    for loss in (1.0, 2.0, 6.0, 1.0, 1.0, 4.0, 3.0, 5.0):
        state.log({"lr": 0.1, "loss": loss})
    wanted = [(1, 1.0), (3, 4.0), (6, 2.0), (8, 4.0)]
    assert [(row["step"], row["loss"]) for row in state.tables["train"]] == wanted


def test_a_state_is_saved_by_time_and_validated_by_steps_and_at_the_end(tmp_path, monkeypatch):
    solver = tiny.params(solver={"max_iter": 7, "eval_period": 3, "save_minutes": 2}).solver
    state = Run(tiny.network(make_tasks(1)), solver, work=tmp_path / "work", metadata={})
    for late, due in ((119.9, False), (120.1, True)):
        monkeypatch.setattr("mtseg.training.checkpoint.time.monotonic", lambda late=late: state.saved + late)
        assert state.save_is_due == due
    due = []
    for step in range(8):
        state.step = step
        if state.validation_is_due:
            due.append(step)
            state.tables["val"].append({"step": step})
            assert not state.validation_is_due, "it is done"
    assert due == [3, 6, 7]
