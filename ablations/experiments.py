"""Runs as DVC experiments. Each is made in a clone of this repository and fetched from there as a ref in refs/exps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from ruamel.yaml import YAML

from ablations.studies import Run, digest
from mtseg.core.errors import UserError
from mtseg.core.params import validate

CODE = ("dvc.yaml", "mtseg", "stages", "recipes")  # what the results of a run depend on, besides its params
TMP = Path(".dvc/tmp/ablations")  # clones and logs
_fetching = Lock()


class Failed(Exception):
    """A run failed. The text is the end of its output and the path of its log."""


def git(*arguments: str) -> str | None:
    """The output of git, or None if it fails."""
    done = subprocess.run(["git", *arguments], text=True, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def dvc(*arguments: str) -> str:
    """The output of DVC. Raises UserError with the end of its message if it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], text=True, capture_output=True)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments[:3])}: {' '.join(done.stderr.split()[-60:])}")
    return done.stdout


def head() -> str:
    """The last commit, from which all runs are made. Raises UserError if there is none or the code differs from it."""
    changed = git("diff", "HEAD", "--name-only", "--", *CODE)
    if changed is None:
        raise UserError("no commit found: the runs of a study are experiments in a git repository")
    if changed:
        raise UserError(f"commit {', '.join(changed.split()[:3])} first: the runs are made from the last commit")
    return git("rev-parse", "HEAD").strip()


def other_code(commits: Sequence[str]) -> int:
    """How many of these commits have other code than the last one, or are not in this repository."""
    changed = {commit: git("diff", "--quiet", commit, "HEAD", "--", *CODE) is None for commit in {*commits}}
    return sum(changed[commit] for commit in commits)


def find(run: Run) -> str | None:
    """The ref of the latest experiment with the name and the params of a run."""
    refs = git("for-each-ref", "--sort=-committerdate", "--format=%(refname)", f"refs/exps/*/*/{run.name}") or ""
    for ref in refs.split():
        with suppress(UserError):  # params.yaml of an older version
            params = YAML(typ="safe").load(StringIO(git("show", f"{ref}:params.yaml")))
            if digest(validate(params, Path(run.name))) == run.digest:
                return ref
    return None


def execute(run: Run, commit: str, cache: str) -> str:
    """Make a run from `commit` and return the ref of its experiment, which replaces an earlier one. Raises Failed.

    A clone leaves the working tree alone; with DVC's cache folder `cache` in common, nothing is computed twice. The
    clone has no dvc.lock, because DVC would look for the folders named there, which a new clone does not have.
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
            done = subprocess.run(command, stdout=out, stderr=out, **options)
        with _fetching:
            if done.returncode or git("fetch", "--quiet", "--no-write-fetch-head", folder, f"+{ref}:{ref}") is None:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise Failed("\n".join(f"    {line}" for line in [*lines[-3:], f"({log})"]))
    return ref


def write_params(file: Path, params: dict[str, Any]) -> None:
    """Set the values in a params.yaml to `params`, which has all of its keys, and keep the comments."""
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
    """One thread per run, this interpreter as `python`, and training states outside the clone: a run that was stopped
    continues from them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    return {
        "MTSEG_WORK": str(Path("work").resolve()),
        **inherited,
        **{name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DVC_NO_ANALYTICS")},
        "DVC_SITE_CACHE_DIR": f"{clone}/.dvc/tmp/site",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}",
    }
