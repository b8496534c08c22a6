"""git and DVC in a test's own repository, with the interpreter that runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "MTSEG_", "PYTHON"))},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml says `python`
    **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def call(repo: Path, *command: str, fails: bool = False) -> str:
    """Run a command, hold it to succeeding or failing, and return what it printed (errors only from one that fails)."""
    done = subprocess.run(command, cwd=repo, env=ENVIRONMENT, text=True, capture_output=True)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr if fails else done.stdout


def dvc(repo: Path, *arguments: str, fails: bool = False) -> str:
    return call(repo, sys.executable, "-m", "dvc", *arguments, fails=fails)


def commit(repo: Path) -> None:
    call(repo, "git", "add", ".")
    call(repo, "git", "commit", "--quiet", "--message", "state of the test")
