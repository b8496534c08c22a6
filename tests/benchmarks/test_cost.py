"""benchmarks/cost.py: the cost of a command and its children."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cost import run

ROOT = Path(__file__).parents[2]
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


def test_children_are_counted():
    # in a process of its own: Linux counts the memory of a process, here of all tests, as the peak of what it starts
    code = "import os, sys; from benchmarks.cost import *; print(*vars(run(sys.argv[1:], Path(), os.environ)).values())"
    command = [sys.executable, "-c", code, sys.executable, "-c", CHILD]
    used = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wall, cpu, peak = map(float, used)
    assert wall > 0.5 and cpu > 0.5 and 150 < peak < 600


def test_a_process_that_fails_ends_the_benchmark(tmp_path):
    with pytest.raises(SystemExit):
        run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, os.environ)
