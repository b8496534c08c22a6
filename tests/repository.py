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


def call(repo: Path, *command: str, fails: bool = False, seconds: float = 600) -> str:
    """Run a command, hold it to succeeding or failing within a time, and return what it printed (errors only from one
    that fails)."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as error:  # pipes would wait for the workers that it starts
        done = subprocess.run(command, cwd=repo, env=ENVIRONMENT, stdout=out, stderr=error, timeout=seconds)
        printed, reported = (file.seek(0) or file.read() for file in (out, error))
    assert bool(done.returncode) == fails, printed + reported
    return printed + reported if fails else printed


def dvc(repo: Path, *arguments: str, **options: bool | float) -> str:
    return call(repo, sys.executable, "-m", "dvc", *arguments, **options)


def end_workers(repo: Path) -> None:
    """End the workers of DVC's queue, which otherwise wait some 10 s for more, and now and then for ever."""
    for path in (repo / ".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.pid"):
        if psutil.pid_exists(pid := int(path.read_text())):
            for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                process.kill()


def commit(repo: Path) -> None:
    call(repo, "git", "add", ".")
    call(repo, "git", "commit", "--quiet", "--message", "state of the test")
