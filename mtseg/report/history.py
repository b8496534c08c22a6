"""Read params, metrics, tables and cached files of a commit, branch, tag, DVC experiment or the workspace.

Files in git are read with git: that takes milliseconds and no lock, while importing DVC takes seconds.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtseg.core import yaml
from mtseg.core.errors import UserError, is_pipe
from mtseg.core.files import parse_table

WORKSPACE = "workspace"  # DVC's name for the files in the working folder
VAL = "data/coco/val.parquet"  # scores are comparable only if this file is the same
PARAMS = "params.yaml"
METRICS = {
    "evaluate": "metrics/evaluate.json",
    "filter": "metrics/filter.json",
    "test": "metrics/test.json",
    "training": "metrics/train.json",
}
TABLES = {
    "classes": "plots/classes.csv",
    "intervals": "plots/intervals.csv",
    "test_classes": "plots/test_classes.csv",
    "test_intervals": "plots/test_intervals.csv",
}


@dataclass(frozen=True)
class Revision:
    """name: as given by the user. commit: None for the workspace. params: as written, not validated. metrics:
    `evaluate`, `filter` and, if they exist, `test` (empty without a test split) and `training`. tables: those of
    `TABLES` that exist."""

    name: str
    commit: str | None
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    tables: Mapping[str, Any]

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the params; empty if it is missing or not a mapping."""
        section = self.params.get(name)
        return section if isinstance(section, Mapping) else {}

    def fetch(self, path: str, folder: Path) -> Path:
        """Copy a file from DVC's cache into `folder` and return its path; for the workspace, the path of the file
        itself. Raises UserError if the file is missing."""
        if self.commit is None:
            if not Path(path).exists():
                raise UserError(f"{path} is missing: run `dvc repro` first")
            return Path(path)
        from dvc.api import DVCFileSystem  # slow to import
        from dvc.exceptions import DvcException
        from dvc_data.index import DataIndexError  # for a folder that was never cached; not a DvcException

        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        here = (_git("rev-parse", "--show-prefix") or b"").decode().strip()  # this folder in the repository
        try:
            DVCFileSystem(rev=self.commit, subrepos=True).get_file(f"{here}{path}", str(target))
        except (DvcException, DataIndexError, OSError):
            raise UserError(
                f"{self.name}: {path} is not in DVC's cache: get it with `dvc pull`, or run `dvc repro` at that commit "
                "and commit dvc.lock, since another kind of CPU makes other files than the commit records (docs/"
                "experiments.md, Results of another machine); commits of older versions of mtseg have no such file"
            ) from None
        return target


@dataclass(frozen=True)
class Baseline:
    """The results with which the report is compared. commit: None if there is none. params: as written; None if it has
    no results. metrics: by file; empty if they are of other data. why: the reason if something is missing."""

    commit: str | None = None
    params: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def baseline() -> Baseline:
    """The last commit, as the baseline of the workspace."""
    if (commit := resolve("HEAD")) is None:
        return Baseline(why="There is no commit to compare with.")
    try:
        held = load("HEAD")
    except UserError as error:  # the report is written without a comparison
        return Baseline(commit, why=f"There is no comparison: {error}.")
    if why := _other_data(commit):
        return Baseline(commit, held.params, why=f"Scores are not compared with those of that commit: {why}.")
    return Baseline(commit, held.params, held.metrics)


def load(rev: str) -> Revision:
    """Raises UserError if there is no such revision, no git, or no params or metrics, if several experiments have the
    name, or if a file is broken, for example by a merge conflict."""
    commit = None if rev == WORKSPACE else resolve(rev)
    if rev != WORKSPACE and commit is None:
        raise UserError(f"{rev} is not a commit, branch, tag or experiment: see `dvc exp show -A`")
    held = {}
    for path in (PARAMS, *METRICS.values(), *TABLES.values()):
        if (text := _text(commit, path)) is not None:
            try:
                held[path] = _parse(path, text)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{rev}: {path} cannot be read ({' '.join(str(error).split())})") from None
    for path in (PARAMS, METRICS["evaluate"], METRICS["filter"]):
        if not isinstance(held.get(path), dict):
            raise UserError(f"{rev} has no {path}" + ("" if commit else ": run `dvc repro`"))
    metrics, own_tables = ({name: held[path] for name, path in of.items() if path in held} for of in (METRICS, TABLES))
    return Revision(rev, commit, held[PARAMS], metrics, own_tables)


def resolve(rev: str) -> str | None:
    """The commit of a revision or of an experiment's name; None if there is none, or no git.

    If several experiments have the name, the one that started from HEAD is taken. Raises UserError if that does not
    decide.
    """
    if commit := _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"):
        return commit.decode().strip()
    listed = (_git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or b"").decode().splitlines()
    named = [line.split() for line in listed]
    # refs/exps/12/34567890.../NAME, where 1234567890... is the commit it started from
    by_start = {"".join(ref.split("/")[2:4]): commit for ref, commit in named if ref.split("/")[4:] == [rev]}
    here = (_git("rev-parse", "--verify", "--quiet", "HEAD") or b"").decode().strip()
    if here not in by_start and len(by_start) > 1:
        raise UserError(
            f"{len(by_start)} experiments are called {rev}: name one by its commit, which `dvc exp show -A` lists"
        )
    return by_start.get(here) or next(iter(by_start.values()), None)


def code(a: str | None, b: str | None) -> str:
    """Summary of the changes of code between two commits, by `git diff --shortstat`. None means the workspace."""
    commits = [commit for commit in (a, b) if commit]
    return (_git("diff", "--shortstat", *commits, "--", "mtseg", "stages") or b"").decode().strip() if commits else ""


def _other_data(commit: str) -> str:
    """The reason why the scores of a commit are of other data than the workspace; "" if they are of the same."""
    then = _locked(commit, VAL)
    if then is None:
        return f"its dvc.lock does not record {VAL}"
    now = hashlib.md5(Path(VAL).read_bytes(), usedforsecurity=False).hexdigest() if Path(VAL).is_file() else None
    return "" if now == then else f"its val split had other images, annotations or tasks ({VAL} differs)"


def _locked(commit: str, path: str) -> str | None:
    """The MD5 of an input of the stages of a commit, from its dvc.lock; None if it is not recorded."""
    try:
        stages = yaml.parse(_text(commit, "dvc.lock") or "")["stages"].values()
    except (TypeError, KeyError, AttributeError, ValueError):  # no such file, or not written by DVC
        return None
    deps = [dep for stage in stages for dep in stage.get("deps", ())]
    return next((dep.get("md5") for dep in deps if dep.get("path") == path), None)


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def _text(commit: str | None, path: str) -> str | None:
    """The text of a file of a commit, or of the workspace if commit is None; None if it does not exist."""
    if commit is not None:
        # relative to this folder, which may be below the root of the repository
        content = _git("cat-file", "blob", f"{commit}:./{path}")
    elif is_pipe(path):
        raise UserError(f"{path} is a pipe or a device, not a file: remove it, and run `dvc repro`")
    else:
        content = Path(path).read_bytes() if Path(path).exists() else None
    return None if content is None else content.decode(errors="replace")


def _parse(path: str, text: str) -> Any:
    if path.endswith(".yaml"):
        return yaml.parse(text)
    if path.endswith(".json"):
        return json.loads(text)
    return parse_table(io.StringIO(text))
