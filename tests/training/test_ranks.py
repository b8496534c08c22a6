"""Training by several processes, which exchange gradients by gloo: the results are those of one process."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
import zlib
from itertools import pairwise

import pandas as pd
import pytest
import torch
from detectron2.projects.point_rend.point_features import get_uncertain_point_coords_with_randomness
from torch.distributed import TCPStore

from mtseg.core.errors import UserError, as_user_error
from mtseg.core.files import read_json, write_json
from mtseg.core.params import Launch
from mtseg.core.tables import Predictions
from mtseg.data import convert, manifest, shapes
from mtseg.data.loader import training_batches
from mtseg.inference import splits
from mtseg.model import launch, ranks, weights
from mtseg.model.points import Place, uncertain_points
from mtseg.training import loop
from tests import tiny
from tests.scenes import make_tasks
from tests.training.test_state import at_step

FORK = multiprocessing.get_context("fork")
SOLVER = {
    "max_iter": 6,
    "eval_period": 3,
    "log_period": 1,
    "ims_per_batch": 4,
    "accumulate": 2,
    "base_lr": 1e-6,
}  # a small lr: else rounding changes a match, and then the losses


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    given = tiny.params(
        generate={"train": 6, "val": 5, "size": 64, "max_objects": 3}, data={"raw": folder / "raw"},
    )  # fmt: skip
    shapes.generate(given.generate, folder / "raw", seed=given.seed)
    convert.convert(given.data, given.tasks, folder / "coco", seed=given.seed)
    write_json(folder / "manifest.json", manifest.build(folder / "coco"))
    tiny.network(make_tasks(1))  # imports what each process would import
    return folder


def train(data, out, timeout=60, freeze_norm=True, **solver):
    given = tiny.params(solver=SOLVER | solver, model={"freeze_norm": freeze_norm})
    loop.train(
        data / "manifest.json", models=out / "models", metrics=out / "train.json", curves=out / "plots",
        root=data / "raw", tasks=given.tasks, model=given.model, input=given.input, solver=given.solver,
        loss=given.loss, device="cpu", seed=3, timeout=timeout,
    )  # fmt: skip


def start(size, work, out, store=None):
    """Ranks that call `work(rank)`, each with its output in `out/RANK.txt`. store: as that of torchrun."""
    store = store or TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
    address |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    out.mkdir(parents=True, exist_ok=True)

    def begin(rank):
        os.environ.update(address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MTSEG_WORK": str(out / "work")})
        sys.stdout = sys.stderr = open(out / f"{rank}.txt", "w", buffering=1)
        try:
            work(rank)
        except Exception as error:
            if line := as_user_error(error):
                sys.exit(f"error: {line}")
            raise

    processes = [FORK.Process(target=begin, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.store = store  # kept as long
        process.start()
    return processes


def codes(processes):
    for process in processes:
        process.join(120)
        assert process.exitcode is not None
    return [process.exitcode for process in processes]


def printed(out):
    return "".join(path.read_text() for path in sorted(out.glob("[0-9].txt")))


def run(size, data, out, act=lambda rank: None, **given):
    def work(rank):
        act(rank)
        train(data, out, **given)

    return codes(start(size, work, out))


def of_rank(rank, act):
    """Do something in one rank before it trains."""
    return lambda own: act() if own == rank else None


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """The folder of a training by one process."""
    out = tmp_path_factory.mktemp("one")
    assert run(1, data, out) == [0]
    return out


def assert_equal(found, wanted):
    for name in ("last", "best"):
        (own, facts), (state, expected) = (
            weights.load(folder / f"models/{name}.safetensors") for folder in (found, wanted)
        )
        assert facts == expected
        for key, value in state.items():
            assert torch.allclose(own[key], value, rtol=0, atol=1e-6), key
    for name in ("train", "val", "health"):
        own, table = (pd.read_csv(folder / f"plots/{name}.tsv", sep="\t") for folder in (found, wanted))
        pd.testing.assert_frame_equal(own, table, rtol=1e-4, atol=1e-4)


def test_ranks_give_the_results_of_one_process_and_another_number_of_them_resumes(data, one, tmp_path):
    """A signal to one of four ranks stops all at step 4; two then train to the end."""

    stop = of_rank(1, lambda: at_step(pytest.MonkeyPatch(), 4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert run(4, data, tmp_path, stop) == [1, 1, 1, 1]
    assert printed(tmp_path).count("interrupted at step 4 of 6") == 1
    assert run(2, data, tmp_path) == [0, 0]
    assert "resumed at step 4 of 6" in (tmp_path / "0.txt").read_text()
    assert not (tmp_path / "1.txt").read_text(), "rank 0 alone prints"
    assert_equal(tmp_path, one)
    assert not list((tmp_path / "work/train").iterdir())


def test_no_interrupted_rank_ends_before_rank_0_has_saved(data, tmp_path):
    """The launcher kills the others as soon as one has ended."""
    save = loop.Run.save

    def late(run):
        time.sleep(0.5 * run.ranks.first)
        save(run)

    def work(rank):
        pytest.MonkeyPatch().setattr(loop.Run, "save", late)
        at_step(pytest.MonkeyPatch(), 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            train(data, tmp_path)
        finally:
            saved = list((tmp_path / "work/train").glob("*/state.pt"))
            (tmp_path / f"{rank}.saved").write_text(str(len(saved)))

    assert codes(start(2, work, tmp_path)) == [1, 1]
    assert [(tmp_path / f"{rank}.saved").read_text() for rank in range(2)] == ["1", "1"]


def test_validation_by_ranks_is_that_of_one_process_to_the_bit(data, tmp_path, monkeypatch):
    def digest(images, found, tasks):
        columns = [found.column(name).tolist() for name in ("image_id", "query", "score", "rle")]
        return {"joint_AP": float(zlib.crc32(repr(columns).encode())), "segm_AP": float(len(found))}

    gather = ranks.Ranks.gather

    def small(self, value):
        assert not isinstance(value, Predictions), "rank 0 alone needs them, and they can be large"
        return gather(self, value)

    monkeypatch.setattr(ranks.Ranks, "gather", small)
    monkeypatch.setattr(loop, "headline", digest)
    found = []
    for size in (1, 2):
        assert run(size, data, tmp_path / str(size), max_iter=0, ims_per_batch=2) == [0] * size
        found.append(read_json(tmp_path / f"{size}/train.json")["best"])
    assert found[0] == found[1] and found[0]["segm_AP"] > 10


def test_predictions_by_ranks_are_those_of_one_process_to_the_bit(data, one, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "PART", 1)
    given = tiny.params(model={"freeze_norm": True})

    def predict(out):
        splits.predict_splits(
            data / "manifest.json", out=out / "predictions", checkpoint=one / "models/best.safetensors",
            root=data / "raw", tasks=given.tasks, model=given.model, input=given.input, detections=9, batch=2,
            device="cpu", timeout=60,
        )  # fmt: skip

    found = []
    for size in (1, 2):
        out = tmp_path / str(size)
        assert codes(start(size, lambda rank, out=out: predict(out), out)) == [0] * size
        found.append({path.name: path.read_bytes() for path in (out / "predictions").iterdir()})
        assert not any((out / "work/predict").iterdir())
    assert found[0] == found[1] and found[0].keys() == {"val.parquet", "val.json", "val.csv"}


@pytest.mark.parametrize(
    "act", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: time.sleep(60)], ids=["killed", "hung"]
)
def test_a_rank_that_died_or_hangs_ends_the_job_with_one_line(data, tmp_path, monkeypatch, act):
    monkeypatch.setattr(ranks, "GRACE", 0.2)

    def work(rank):
        if rank == 1:
            at_step(pytest.MonkeyPatch(), 1, act)
        train(data, tmp_path, timeout=3)

    began, processes = time.monotonic(), start(2, work, tmp_path)
    assert codes(processes[:1]) == [1]
    assert time.monotonic() - began < 60
    processes[1].kill()
    (line,) = [line for line in printed(tmp_path).splitlines() if line.startswith("error: ")]
    assert line.startswith(
        f"error: rank 1 (process {processes[1].pid} on {socket.gethostname()}) has ended, or has not"
    )


def test_a_loss_that_is_not_finite_in_one_rank_stops_all_with_its_images(data, tmp_path):
    def spoil():
        def fail(*args):
            raise FloatingPointError("matching cost")

        pytest.MonkeyPatch().setattr("mtseg.model.matching.assignment", fail)

    assert run(2, data, tmp_path, of_rank(1, spoil)) == [1, 1]
    (line,) = [line for line in printed(tmp_path).splitlines() if line.startswith("error: ")]
    assert "loss_not_finite: step 1" in line and line.count(".jpg") + line.count(".png") == SOLVER["ims_per_batch"]
    (broken,) = (tmp_path / "work/train").glob("*/broken_batch.pt")
    assert [len(batch) for batch in torch.load(broken, weights_only=True)] == [SOLVER["ims_per_batch"]]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"ims_per_batch": 1}, "2 processes cannot share a batch of solver.ims_per_batch 1 images"),
        ({"freeze_norm": False}, "model.freeze_norm: false needs a whole batch in one process"),
    ],
)
def test_settings_that_ranks_cannot_share_are_one_error(data, tmp_path, given, error):
    assert run(2, data, tmp_path, **given) == [1, 1]
    assert printed(tmp_path).count(error) == 1
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("thing", ["settings", "data", "code"])
def test_a_rank_of_other_settings_data_or_code_ends_the_job_with_one_line(data, tmp_path, thing):
    """As on a second machine with a stale copy of the project."""
    shutil.copytree(data, stale := tmp_path / "stale")
    image = sorted(path for path in (stale / "raw").rglob("*") if path.suffix in (".jpg", ".png"))[0]
    image.write_bytes(image.read_bytes() + b" ")

    def work(rank):
        if rank and thing == "code":
            pytest.MonkeyPatch().setattr("mtseg.core.work._code", lambda: [])
        other = {"base_lr": 1e-5} if rank and thing == "settings" else {}
        train(stale if rank and thing == "data" else data, tmp_path, **other)

    processes = start(2, work, tmp_path)
    assert codes(processes) == [1, 1]
    (line,) = [line for line in printed(tmp_path).splitlines() if line.startswith("error: ")]
    where = [f"rank {rank} (process {process.pid} on {socket.gethostname()})" for rank, process in enumerate(processes)]
    assert line.startswith(f"error: {where[1]} has other {thing} than {where[0]}: every machine needs the same")
    assert not (tmp_path / "work").exists()


def test_a_second_attempt_of_the_launcher_reports_its_error_too(data, tmp_path):
    store = None
    for attempt in ("0", "1"):

        def work(rank, attempt=attempt):
            os.environ["TORCHELASTIC_RESTART_COUNT"] = attempt
            train(data, tmp_path, ims_per_batch=1)

        processes = start(2, work, tmp_path / attempt, store)
        store = processes[0].store
        assert codes(processes) == [1, 1]
        assert printed(tmp_path / attempt).count("2 processes cannot share a batch") == 1


def test_a_rank_that_scores_for_longer_than_the_limit_is_not_lost(data, tmp_path, monkeypatch):
    headline = loop.headline

    def late(*arguments):
        time.sleep(8)
        return headline(*arguments)

    monkeypatch.setattr(loop, "headline", late)
    assert run(2, data, tmp_path, timeout=5, max_iter=0, ims_per_batch=2) == [0, 0], printed(tmp_path)


def test_rank_0_that_hangs_while_it_scores_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE", 0.2)

    def hang(*arguments):
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)  # if another thread stops first, this one goes on for a moment

    monkeypatch.setattr(loop, "headline", hang)
    processes = start(2, lambda rank: train(data, tmp_path, timeout=4, max_iter=0, ims_per_batch=2), tmp_path)
    assert codes(processes[1:]) == [1]
    processes[0].kill()
    assert f"error: rank 0 (process {processes[0].pid} on " in printed(tmp_path)


def test_the_launcher_starts_all_ranks_and_names_one_that_was_killed(tmp_path, monkeypatch):
    (tmp_path / "stage.py").write_text(
        "import os, signal, sys\n"
        "open(os.environ['RANK'] + os.environ['WORLD_SIZE'], 'w').close()\n"
        "os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '1' else signal.pause()\n"
    )
    monkeypatch.chdir(tmp_path)

    def work(rank):
        del os.environ["WORLD_SIZE"], os.environ["RANK"]
        launch.launch("stage", Launch(nproc_per_node=2))

    assert codes(start(1, work, tmp_path / "out")) == [1]
    assert (tmp_path / "02").exists() and (tmp_path / "12").exists()
    (line,) = printed(tmp_path / "out").splitlines()
    assert line.startswith("error: rank 1 (process ") and "was killed by SIGKILL" in line


@pytest.mark.parametrize(
    ("node", "fault"), [("0", "address already in use"), ("1", "has timed out")], ids=["taken", "no master"]
)
def test_machines_that_do_not_meet_are_one_line_with_the_address(monkeypatch, node, fault):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if node == "0":
            other.listen()
        port = other.getsockname()[1]
        settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": node, "RDZV_CONF": "timeout=1"}
        for name, value in settings.items():
            monkeypatch.setenv(f"PET_{name}", value)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which `launch` would set
        with pytest.raises(UserError, match=rf"2 machines did not meet at 127.0.0.1:{port} \(.*{fault}.*PET_NODE_RANK"):
            launch.launch("stage", Launch(nnodes=2))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_share_the_images_of_each_batch_in_order(size):
    def batches(part):
        keys = {"batch": 5, "start": 3, "stop": 6, "seed": 1, "workers": 0}
        return [*training_batches(range(7), lambda image, seed: (image, seed), part=part, **keys)]

    shares = zip(*(batches((rank, size)) for rank in range(size)), strict=True)
    assert [sum(share, []) for share in shares] == batches((0, 1))


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "swin_t"])
def test_shares_of_a_batch_have_the_losses_and_gradients_of_the_whole(backbone):
    """Also of drop path, which Swin draws for each image, and of a share without objects."""
    tasks = make_tasks(2)
    network = tiny.network(tasks, model={"freeze_norm": True, "backbone": backbone})
    counts = [2, 0, 3, 1]
    batch = [tiny.example(tasks, count, seed=seed) for seed, count in enumerate(counts)]
    norm, found = network.normaliser([one["instances"].gt_labels for one in batch]), []
    for bounds in ([0, 4], [0, 1, 2, 4]):
        network.zero_grad()
        total = {}
        for first, last in pairwise(bounds):
            torch.manual_seed(7)
            losses = network(batch[first:last], norm, Place(counts[:first], counts[last:]))
            sum(losses.values()).backward()
            total = {name: total.get(name, 0) + value.item() for name, value in losses.items()}
        found.append((total, [p.grad for p in network.parameters() if p.grad is not None]))
    (whole, wanted), (shares, gradients) = found
    assert shares == pytest.approx(whole, rel=1e-4, abs=1e-5)
    norms = [torch.nn.utils.get_total_norm([a - b for a, b in zip(wanted, other, strict=True)]) for other in
             (gradients, [torch.zeros_like(x) for x in wanted])]  # fmt: skip
    assert norms[0] < 1e-4 * norms[1]


def test_points_are_those_of_detectron2_and_of_the_whole_batch():
    loss = tiny.params(loss={"num_points": 30, "oversample": 2.5, "importance": 0.7}).loss
    logits = torch.randn(6, 16, 16)
    torch.manual_seed(2)
    wanted = get_uncertain_point_coords_with_randomness(
        logits[:, None], lambda x: -x.abs(), loss.num_points, loss.oversample, loss.importance
    )
    for first, last in ((0, 6), (0, 2), (2, 6), (3, 3)):
        torch.manual_seed(2)
        found = uncertain_points(logits[first:last], loss, before=first, after=6 - last)
        for own, theirs in zip(found, wanted[first:last], strict=True):  # in any order
            assert set(map(tuple, own.tolist())) == set(map(tuple, theirs.tolist()))
