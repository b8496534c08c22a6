"""The state of a training: never shared by two, never of other data, never damaged, saved by time as well."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from benchmarks.survival.spoil import EMPTY, a_bit, fifo, foreign_pickle, half
from benchmarks.survival.spoil import folder as spoiled_folder
from mtseg.core.errors import UserError
from mtseg.data import loader
from mtseg.inference.splits import predict_splits
from mtseg.training import loop
from tests import tiny
from tests.training.runs import run

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The outs of a training that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        return run(data, tmp_path_factory.mktemp("whole"), patch)


def at_step(monkeypatch, step, act):
    """Call `act` directly after the optimiser's update number `step`."""
    calls, function = [], torch.optim.AdamW.step

    def update(self, *args, **kwargs):
        result = function(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == step:
            act()
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", update)


def elsewhere(data, out, step, act, **solver):
    """Start the training in another process, which calls `act` at a step."""

    def work():
        patch = pytest.MonkeyPatch()
        at_step(patch, step, act)
        run(data, out, patch, **solver)

    process = FORK.Process(target=work)
    process.start()
    return process


def stop_at(data, out, monkeypatch, step, **solver):
    """Interrupt the training at a step. Returns its work folder."""
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(UserError, match=f"interrupted at step {step} of 6"):
            run(data, out, patch, **solver)
    return next((out / "work/train").iterdir())


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """The folder of a training that was interrupted at step 3."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(data, out, patch, 3)
    return out


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a training whose last step and validation are done, and nothing written."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "finish", lambda self, **outs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(data, out, patch)
    return out


def copied(folder, target):
    """A copy of a training's folder. Returns the work folder in it."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return next((target / "work/train").iterdir())


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_training_waits_for_the_first_and_takes_its_result(data, whole, tmp_path, monkeypatch, capsys):
    reached, go_on = FORK.Event(), FORK.Event()

    def wait():
        reached.set()
        assert go_on.wait(60)

    first = elsewhere(data, tmp_path / "a", 3, wait)
    assert reached.wait(60)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/work").symlink_to(tmp_path / "a/work")
    threading.Timer(0.5, go_on.set).start()
    found = run(data, tmp_path / "b", monkeypatch)
    first.join()
    assert first.exitcode == 0
    said = capsys.readouterr().out
    assert f"waiting for process {first.pid} on " in said
    assert "resumed at step 6 of 6" in said, "not trained twice"
    assert {name: value for name, value in found.items() if "work" not in str(name)} == whole
    assert (tmp_path / "a/models/best.safetensors").read_bytes() == (
        tmp_path / "b/models/best.safetensors"
    ).read_bytes()
    assert not list((tmp_path / "a/work/train").iterdir())


def test_a_killed_training_leaves_no_lock_and_resumes_where_it_was_saved_last(
    data, whole, tmp_path, monkeypatch, capsys
):
    first = elsewhere(data, tmp_path, 4, kill, save_minutes=0)
    first.join()
    assert first.exitcode == -signal.SIGKILL
    assert run(data, tmp_path, monkeypatch) == whole
    assert "resumed at step 3 of 6" in capsys.readouterr().out, "not only at the validation after step 2"


def test_the_outs_are_on_the_disk_before_the_state_is_removed(data, tmp_path, monkeypatch):
    synced, fsync, rename, kept = set(), os.fsync, Path.rename, []

    def renamed(path, to):
        if path.parent.parent == tmp_path / "work":
            kept.append({*synced})
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", lambda number: (synced.add(os.fstat(number).st_ino), fsync(number)))
    monkeypatch.setattr(Path, "rename", renamed)
    outs, given = run(data, tmp_path, monkeypatch), tiny.params()
    assert {(tmp_path / name).stat().st_ino for name in outs} <= kept[-1]
    predict_splits(
        data / "manifest.json", out=tmp_path / "predictions", checkpoint=tmp_path / "models/best.safetensors",
        root=data / "raw", tasks=given.tasks, model=given.model, input=given.input, detections=9, batch=2,
        device="cpu", timeout=60,
    )  # fmt: skip
    predicted = [path.stat().st_ino for path in (tmp_path / "predictions").iterdir()]
    assert len(kept) == 2 and len(predicted) == 3 and {*predicted} <= kept[-1]


def test_other_images_under_the_same_names_are_other_data(data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data / "raw", tmp_path / "raw")
    own = tmp_path / "own"
    shutil.copytree(data, own)
    stop_at(own, tmp_path, monkeypatch, 3)
    path = next((own / "raw").rglob("*.png"), None) or next((own / "raw").rglob("*.jpg"))
    ImageOps.mirror(Image.open(path)).save(path)
    run(own, tmp_path, monkeypatch)
    assert "resumed" not in capsys.readouterr().out


def test_an_older_state_that_was_put_aside_gives_way_even_if_it_is_a_folder(
    data, whole, stopped, tmp_path, monkeypatch
):
    work = copied(stopped, tmp_path)
    half(work / "state.pt")
    (work / "state.pt.unusable").mkdir()
    (work / "state.pt.unusable/file").touch()
    assert run(data, tmp_path, monkeypatch) == whole


@pytest.mark.parametrize("spoil", [half, a_bit, EMPTY, spoiled_folder, fifo, foreign_pickle])
@pytest.mark.parametrize("both", [False, True], ids=["state", "both states"])
def test_a_damaged_state_is_put_aside_and_the_one_before_is_used(
    data, whole, stopped, tmp_path, monkeypatch, capsys, spoil, both
):
    work = copied(stopped, tmp_path)
    spoil(work / "state.pt")
    if both:
        spoil(work / "previous.pt")
    assert run(data, tmp_path, monkeypatch) == whole
    said = capsys.readouterr().out
    assert "state.pt.unusable" in said
    assert ("resumed at step 2 of 6" in said) != both


def test_the_state_of_another_training_is_not_used(data, whole, stopped, tmp_path, monkeypatch, capsys):
    other = stop_at(data, tmp_path / "other", monkeypatch, 3, weight_decay=0.1)
    own = copied(stopped, tmp_path / "own")
    shutil.copyfile(other / "state.pt", own / "state.pt")
    assert run(data, tmp_path / "own", monkeypatch) == whole
    assert "another training" in capsys.readouterr().out


def test_states_that_another_version_of_pytorch_wrote_are_put_aside(
    data, whole, stopped, tmp_path, monkeypatch, capsys
):
    load = torch.optim.AdamW.load_state_dict

    def fail(self, state):
        if state["state"]:
            raise KeyError("decoupled_weight_decay")
        load(self, state)

    copied(stopped, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "load_state_dict", fail)
        assert run(data, tmp_path, patch) == whole, "the network, too, begins as if there was no state"
    said = capsys.readouterr().out
    assert said.count("is not read by this version of PyTorch ('decoupled_weight_decay')") == 2
    assert "resumed" not in said


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_kill_while_the_outs_are_written_loses_nothing(data, whole, trained, tmp_path, monkeypatch, number):
    """Each file is renamed into its place: kill before each of these renames at the end."""
    copied(trained, tmp_path)

    def work():
        patch, calls, finish, before = pytest.MonkeyPatch(), [], loop.Run.finish, (Path.rename, Path.replace)

        def counted(function):
            def call(*args, **kwargs):
                calls.append(1)
                if len(calls) == number:
                    kill()
                return function(*args, **kwargs)

            return call

        def finishing(self, **outs):
            for function in before:
                patch.setattr(Path, function.__name__, counted(function))
            finish(self, **outs)

        patch.setattr(loop.Run, "finish", finishing)
        run(data, tmp_path, patch)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert run(data, tmp_path, monkeypatch) == whole
    assert not any((tmp_path / "work/train").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_validation_stops_at_once_and_loses_nothing(data, whole, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        before = signal.signal(number, signal.default_int_handler)
        patch.setattr(loop, "validate", lambda *args, **kwargs: os.kill(os.getpid(), number))
        try:
            with pytest.raises(UserError, match="interrupted at step 2 of 6"):
                run(data, tmp_path, patch)
        finally:
            signal.signal(number, before)
    assert run(data, tmp_path, monkeypatch) == whole


def test_a_signal_to_all_processes_while_images_are_loaded_loses_nothing(data, whole, tmp_path, monkeypatch):
    """As `timeout` sends it: to the process itself, then to its group, of which the loader's do not survive it."""

    def signalled(*arguments):
        for process in (os.getppid(), os.getppid(), os.getpid()):
            os.kill(process, signal.SIGTERM)
            time.sleep(0.05)

    with monkeypatch.context() as patch:
        polled = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
        patch.setattr(polled, "__defaults__", (0.1,))  # seconds after which it looks for ended processes, else 5
        patch.setattr(loader, "processes", lambda workers: 1)
        patch.setattr(loader, "read_image", signalled)
        with pytest.raises(UserError, match="interrupted at step 0 of 6"):
            run(data, tmp_path, patch)
    assert run(data, tmp_path, monkeypatch) == whole
