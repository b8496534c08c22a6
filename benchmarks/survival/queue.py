"""Two queued experiments of DVC that differ only after the training: both need the same training at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.intake import ROOT
from benchmarks.survival.project import TINY, Project, set_params

SECONDS = 600  # that both may take
COPIED = ("mtseg", "stages", "recipes", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
NAMES = ("one", "two")


def two_experiments(project: Project) -> str | None:
    """Both succeed, with the metrics of the undisturbed run."""
    repo = project.folder.parent / "repository"
    try:
        _make(repo)
        for name, area in zip(NAMES, (0, 1), strict=True):
            change = ("-S", f"filter.min_area={area}")
            _dvc(repo, "exp", "run", "--queue", "--quiet", "--name", name, *change, "filter")
        _dvc(repo, "queue", "start", "--jobs", str(len(NAMES)))
        until = time.monotonic() + SECONDS
        while (status := _dvc(repo, "queue", "status")).count("Success") < len(NAMES):
            if "Failed" in status or time.monotonic() > until:
                return status
            time.sleep(1)
        wanted = (project.folder / "metrics/evaluate.json").read_text()
        for name in NAMES:
            commit = _call(repo, "git", "for-each-ref", f"refs/exps/**/{name}", "--format=%(objectname)").strip()
            if _call(repo, "git", "show", f"{commit}:metrics/evaluate.json") != wanted:
                return f"the metrics of experiment {name} differ"
        return None
    except subprocess.CalledProcessError as error:
        return f"{error}: {error.stderr}"
    finally:
        _end_workers(repo)


def _make(repo: Path) -> None:
    repo.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, repo / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, repo / name)
    set_params(repo, TINY)
    _call(repo, "git", "init", "--quiet")
    _dvc(repo, "init", "--quiet")
    shutil.copy(ROOT / ".dvc/config", repo / ".dvc/config")
    _call(repo, "git", "add", ".")
    _call(repo, "git", "commit", "--quiet", "--message", "the project")


def _dvc(repo: Path, *arguments: str) -> str:
    return _call(repo, sys.executable, "-m", "dvc", *arguments)


def _call(repo: Path, *command: str) -> str:
    identity = {f"GIT_{who}_{what}": "me@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc.yaml says `python`
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "PYTHON"))}
    done = subprocess.run(
        command, cwd=repo, env=own | identity | {"PATH": path}, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if "start" in command else subprocess.PIPE,
    )  # fmt: skip
    return done.stdout


def _end_workers(repo: Path) -> None:
    """Those of DVC's queue, which wait for more experiments."""
    for path in (repo / ".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.pid"):
        if psutil.pid_exists(pid := int(path.read_text())):
            for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                process.kill()
