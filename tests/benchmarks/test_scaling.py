"""docs/distributed.md: its estimate follows from the size of the gradients and is called an estimate."""

import re
from pathlib import Path

import pytest

from benchmarks import scaling
from mtseg.model.ranks import Ranks
from mtseg.training.step import Stepper
from tests import tiny
from tests.scenes import make_tasks

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
ESTIMATED = re.findall(r"^\| (\w+) \| ([\d.]+) MB \| (\d+) \| ([\d.]+) ms \| (\d+) ms \|$", PAGE, re.M)


def test_the_estimate_is_printed_as_one_and_the_docs_have_its_numbers(capsys):
    scaling.estimate()
    title, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert title.startswith("Estimate on paper") and "**An estimate on paper, not a measurement**" in PAGE
    rows = [line.split() for line in lines]
    assert [(name, size, count, ms, step) for name, size, count, _, ms, step in rows] == ESTIMATED
    assert {row[2] for row in rows} == {"8", "64"}


def test_a_ring_of_gpus_sends_nearly_twice_the_bytes():
    assert scaling.exchange(10**9, 8) == pytest.approx(2 * 7 / 8 / 200)
    assert scaling.exchange(10**9, 64) == pytest.approx(2 * 63 / 64 / 12.5)


def test_the_bytes_of_a_step_are_those_of_the_gradients():
    """And of the health statistics that are summed with them."""
    given = []

    class Two(Ranks):
        def gather(self, value):
            return [value, value]

        def add(self, tensors):
            given.append(sum(x.numel() * x.element_size() for x in tensors))

    tasks = make_tasks(2)
    network = tiny.network(tasks, model={"freeze_norm": True})
    step = Stepper(network, tiny.params().solver, ranks=Two(0, 2))
    step([[tiny.example(tasks, 2)]], 0)
    sums = step.health.sums
    assert given == [scaling.gradient_bytes(network) + sums.numel() * sums.element_size()]


def test_the_efficiency_is_that_of_the_slowest_process():
    alone = {"step": 1.2, "waiting": 0.0, "gradients": 0, "other": 0.0}
    two = [alone | {"step": 0.75, "waiting": 0.3, "gradients": 14.7e6}, alone | {"step": 0.8, "waiting": 0.1}]
    assert scaling.table({1: [alone], 2: two})[2].split() == ["2", "0.800", "75%", "25.0%", "14.7", "0.0"]
