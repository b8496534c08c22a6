"""Training by several processes, which exchange gradients by gloo: the results are those of one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from mtseg.core.errors import UserError, as_user_error
from mtseg.core.files import read_json
from mtseg.core.params import Launch
from mtseg.data import convert, manifest, shapes
from mtseg.data.loader import training_batches
from mtseg.core.files import write_json
from mtseg.model import weights
from mtseg.training import launch, loop, ranks
from tests import tiny
from tests.training.test_state import at_step

FORK = multiprocessing.get_context("fork")
SOLVER = {"max_iter": 20, "eval_period": 10, "log_period": 1, "ims_per_batch": 5, "accumulate": 2, "warmup": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    given = tiny.params(
        generate={"train": 6, "val": 5, "size": 64, "max_objects": 3}, data={"raw": folder / "raw"},
    )  # fmt: skip
    shapes.generate(given.generate, folder / "raw", seed=given.seed)
    convert.convert(given.data, given.tasks, folder / "coco", seed=given.seed)
    write_json(folder / "manifest.json", manifest.build(folder / "coco"))
    return folder


def train(data, out, **solver):
    given = tiny.params(solver=SOLVER | solver, model={"freeze_norm": True})
    loop.train(
        data / "manifest.json", models=out / "models", metrics=out / "train.json", curves=out / "plots",
        root=data / "raw", tasks=given.tasks, model=given.model, input=given.input, solver=given.solver,
        loss=given.loss, device="cpu", seed=3, timeout=given.launch.timeout,
    )  # fmt: skip


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def start(size, work, out):
    """Ranks that call `work(rank)`, each with its output in `out/RANK.txt`."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
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
        process.start()
    return processes


def codes(processes):
    for process in processes:
        process.join(60)
        assert process.exitcode is not None
    return [process.exitcode for process in processes]


def printed(out):
    return "".join(path.read_text() for path in sorted(out.glob("[0-9].txt")))


def run(size, data, out, act=lambda rank: None, **solver):
    def work(rank):
        act(rank)
        train(data, out, **solver)

    return codes(start(size, work, out))


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """The folder of a training by one process."""
    out = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTSEG_WORK", str(out / "work"))
        train(data, out)
    return out


def assert_equal(found, wanted):
    for name in ("last", "best"):
        (own, facts), (state, expected) = (weights.load(folder / f"models/{name}.safetensors") for folder in (found, wanted))
        assert facts == expected
        for key, value in state.items():
            assert torch.allclose(own[key], value, rtol=1e-4, atol=1e-4), key
    for name in ("train", "val", "health"):
        own, table = (pd.read_csv(folder / f"plots/{name}.tsv", sep="\t") for folder in (found, wanted))
        pd.testing.assert_frame_equal(own, table, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_losses_weights_and_scores_of_one_process(data, one, tmp_path, size):
    assert run(size, data, tmp_path) == [0] * size
    assert_equal(tmp_path, one)
    assert not list((tmp_path / "work/train").iterdir())
