"""git and DVC in a test's own repository, with the interpreter that runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

import psutil

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "MTSEG_", "PYTHON"))},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml says `python`
    **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def call(repo: Path, *command: str, fails: bool = False) -> str:
    """Run a command, hold it to succeeding or failing, and return what it printed (errors only from one that fails)."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as error:  # pipes would wait for the workers that it starts
        done = subprocess.run(command, cwd=repo, env=ENVIRONMENT, stdout=out, stderr=error)
        printed, told = (file.seek(0) or file.read() for file in (out, error))
    assert bool(done.returncode) == fails, printed + told
    return printed + told if fails else printed


def dvc(repo: Path, *arguments: str, fails: bool = False) -> str:
    return call(repo, sys.executable, "-m", "dvc", *arguments, fails=fails)


def end_workers(repo: Path) -> None:
    """Wait for the workers of DVC's queue, which go some 10 s after they find it empty, and end those that do not: a
    worker is told to go once, and of the messages between its processes some are lost."""
    pids = [int(path.read_text()) for path in (repo / ".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.pid")]
    for worker in psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)[1]:
        worker.kill()


def commit(repo: Path) -> None:
    call(repo, "git", "add", ".")
    call(repo, "git", "commit", "--quiet", "--message", "state of the test")
