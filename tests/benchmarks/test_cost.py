"""benchmarks/cost.py: the cost of a command and its children."""

import os
import sys

import pytest

from benchmarks.cost import run

CHILD = """
import multiprocessing, time
def work():
    kept = bytearray(b"1") * 150_000_000
    while time.process_time() < 0.5:
        pass
    time.sleep(0.5)
child = multiprocessing.get_context("fork").Process(target=work)
child.start(), child.join()
"""


def test_children_are_counted(tmp_path):
    used = run([sys.executable, "-c", CHILD], tmp_path, os.environ)
    assert used.wall > 0.5 and used.cpu > 0.5 and 150 < used.peak < 600


def test_a_process_that_fails_ends_the_benchmark(tmp_path):
    with pytest.raises(SystemExit):
        run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, os.environ)
