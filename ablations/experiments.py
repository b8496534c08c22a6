"""Runs as DVC experiments. Each is made in a clone of its own and kept in this repository under refs/exps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock
from typing import Any

from ruamel.yaml import YAML

from ablations.studies import Run, digest
from mtseg.core.errors import UserError
from mtseg.core.params import validate

CODE = ("dvc.yaml", "mtseg", "stages", "recipes")
TMP = Path(".dvc/tmp/ablations")  # clones and logs
stopped = Event()
_fetching = Lock()
_processes: set[subprocess.Popen] = set()


class Failed(Exception):
    """A run failed. Its text is the end of what the run printed, and where the rest is."""


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails."""
    done = subprocess.run(["git", *arguments], text=True, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def head() -> str:
    """The checked out commit. Raises UserError where the pipeline's code differs from it: runs are made from the
    commit, and their results name it."""
    changed = git("diff", "HEAD", "--name-only", "--", *CODE)
    if changed is None:
        raise UserError("no commit here: the runs of a study are experiments in a git repository")
    if changed:
        raise UserError(f"commit {', '.join(changed.split()[:3])} first: the runs are made from the last commit")
    return git("rev-parse", "HEAD").strip()


def other_code(commits: Sequence[str]) -> int:
    """How many of these commits have other code than the last commit, or are not in this repository."""
    changed = {commit: git("diff", "--quiet", commit, "HEAD", "--", *CODE) is None for commit in {*commits}}
    return sum(changed[commit] for commit in commits)


def find(run: Run) -> str | None:
    """The latest experiment with the name and the params of a run, as a ref."""
    refs = git("for-each-ref", "--sort=-committerdate", "--format=%(refname)", f"refs/exps/*/*/{run.name}") or ""
    for ref in refs.split():
        with suppress(UserError):  # of an older form of params.yaml
            params = YAML(typ="safe").load(StringIO(git("show", f"{ref}:params.yaml")))
            if digest(validate(params, Path(run.name))) == run.digest:
                return ref
    return None


def dvc(*arguments: str) -> str:
    """What DVC prints. Raises UserError with its last words where it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], text=True, capture_output=True)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments[:3])}: {' '.join(done.stderr.split()[-60:])}")
    return done.stdout


def execute(run: Run, commit: str, cache: str) -> str:
    """Make a run from `commit` and return the ref of its experiment, which replaces an earlier one of that name and
    commit once it has finished. Raises Failed.

    The clone shares DVC's cache, so that nothing is computed twice, and leaves the working tree alone. It has no
    dvc.lock: with one, DVC would open the folders that the lock names, which a fresh clone has not in its cache.
    """
    TMP.mkdir(parents=True, exist_ok=True)
    log, ref = TMP / f"{run.name}.log", f"refs/exps/{commit[:2]}/{commit[2:]}/{run.name}"
    with TemporaryDirectory(dir=TMP.resolve(), ignore_cleanup_errors=True) as folder:
        clone = Path(folder)
        for arguments in (["clone", "--quiet", "--no-checkout", ".", folder], ["-C", folder, "checkout", "-q", commit]):
            if git(*arguments) is None:
                raise Failed(f"    git {' '.join(arguments)} failed")
        (clone / "dvc.lock").unlink(missing_ok=True)
        (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
        write_params(clone / "params.yaml", run.params)
        command = [sys.executable, "-m", "dvc", "exp", "run", "--name", run.name, *run.stages]
        with log.open("w", encoding="utf-8") as out:
            options = {"cwd": folder, "env": _environment(folder), "stdin": subprocess.DEVNULL}
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **options)
        _processes.add(process)
        if stopped.is_set():
            stop()
        code = process.wait()
        _processes.discard(process)
        with _fetching:
            if code or git("fetch", "--quiet", "--no-write-fetch-head", folder, f"+{ref}:{ref}") is None:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise Failed("\n".join(f"    {line}" for line in [*lines[-3:], f"({log})"]))
    return ref


def stop() -> None:
    """End the runs under way. A training continues from its last state when it is run again."""
    stopped.set()
    for process in [*_processes]:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def write_params(file: Path, params: dict[str, Any]) -> None:
    """Change a params.yaml into `params`, which have all of its keys; comments stay."""
    yaml = YAML()
    document = yaml.load(file)
    _update(document, params)
    yaml.dump(document, file)


def _update(document: dict[str, Any], params: dict[str, Any]) -> None:
    for key, value in params.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _update(document[key], value)
        elif key not in document or document[key] != value:
            document[key] = value


def _environment(clone: str) -> dict[str, str]:
    """One thread a run, this interpreter as `python`; states of trainings outlive the clone."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    return {
        "MTSEG_WORK": str(Path("work").resolve()),
        **found,
        **{name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DVC_NO_ANALYTICS")},
        "DVC_SITE_CACHE_DIR": f"{clone}/.dvc/tmp/site",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}",
    }
