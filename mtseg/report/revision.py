"""What a commit, branch, tag or DVC experiment holds: its params, metrics and tables, and files of DVC's cache.

What git keeps is read with git itself: it takes milliseconds, where the import of DVC takes seconds, and no lock.
"""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mtseg.core.errors import UserError
from mtseg.report import tables

WORKSPACE = "workspace"  # the files as they are, as DVC calls them
FILES = {
    "params": "params.yaml",
    "evaluate": "metrics/evaluate.json",
    "filter": "metrics/filter.json",
    "training": "metrics/train.json",
    "classes": "plots/classes.csv",
    "rankings": "plots/rankings.csv",
    "intervals": "plots/intervals.csv",
    "sieve": "plots/filter.csv",
}
NEEDED = ("params", "evaluate", "filter")


def resolve(rev: str) -> str | None:
    """The commit that a revision or the name of an experiment stands for; None where there is none, or no git.

    Of experiments with one name the one that started from HEAD is meant. Raises UserError where several could be.
    """
    if commit := _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"):
        return commit.decode().strip()
    listed = (_git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or b"").decode().splitlines()
    named = [line.split() for line in listed]
    # refs/exps/12/34567890.../NAME, where 1234567890... is the commit it started from
    found = {"".join(ref.split("/")[2:4]): commit for ref, commit in named if ref.split("/")[4:] == [rev]}
    here = (_git("rev-parse", "--verify", "--quiet", "HEAD") or b"").decode().strip()
    if here not in found and len(found) > 1:
        raise UserError(
            f"{len(found)} experiments are called {rev}: name one by its commit, which `dvc exp show -A` gives"
        )
    return found.get(here) or next(iter(found.values()), None)


def read(rev: str) -> dict[str, Any] | None:
    """What git keeps of a revision, or of the files as they are: `params`, unchecked, the metrics `evaluate`, `filter`
    and `training`, the tables `classes`, `rankings`, `intervals` and `sieve`; tables and `training` only if they exist.

    None where there is no such revision, no git, or no params and metrics. Raises UserError as `resolve` does, and
    where a file is broken, as a conflict's marks leave it.
    """
    commit = None if rev == WORKSPACE else resolve(rev)
    if rev != WORKSPACE and commit is None:
        return None
    held = {}
    for key, path in FILES.items():
        if (text := _text(commit, path)) is not None:
            try:
                held[key] = _parse(path, text)
            except (ValueError, YAMLError) as error:
                raise UserError(f"{rev}: {path} cannot be read ({' '.join(str(error).split())})") from None
    return held if all(isinstance(held.get(key), dict) for key in NEEDED) else None


def locked(commit: str, path: str) -> str | None:
    """The MD5 of a file that the stages of a commit read, by its dvc.lock; None where that does not tell."""
    try:
        stages = YAML(typ="safe").load(_text(commit, "dvc.lock") or "")["stages"].values()
    except (TypeError, KeyError, AttributeError, YAMLError):  # none, or not DVC's
        return None
    deps = [dep for stage in stages for dep in stage.get("deps", ())]
    return next((dep.get("md5") for dep in deps if dep.get("path") == path), None)


def fetch(rev: str, path: str, folder: Path) -> Path:
    """A file that DVC caches, as it is at a revision: copied into `folder`; of the workspace, the file itself.

    Raises UserError when it is nowhere.
    """
    if rev == WORKSPACE:
        if not Path(path).exists():
            raise UserError(f"{path} is missing: run `dvc repro` first")
        return Path(path)
    from dvc.api import DVCFileSystem  # slow to import
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexError  # of a folder that was never here; no DvcException

    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    here = (_git("rev-parse", "--show-prefix") or b"").decode().strip()  # this folder in the repository
    try:
        DVCFileSystem(rev=resolve(rev), subrepos=True).get_file(f"{here}{path}", str(target))
    except (DvcException, DataIndexError, OSError):
        raise UserError(
            f"{rev}: {path} is not in DVC's cache: bring it with `dvc pull`, or make it with `git checkout {rev}` "
            f"(an experiment: `dvc exp apply {rev}`) and `dvc repro`"
        ) from None
    return target


def code(a: str | None, b: str | None) -> str:
    """What differs between the code of two commits, in git's words; None stands for the files as they are."""
    commits = [commit for commit in (a, b) if commit]
    return (_git("diff", "--shortstat", *commits, "--", "mtseg", "stages") or b"").decode().strip() if commits else ""


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def _text(commit: str | None, path: str) -> str | None:
    """A file of a commit, or of the folder where commit is None; None where it is not."""
    if commit is not None:
        content = _git("cat-file", "blob", f"{commit}:./{path}")  # from this folder, wherever in the repository it is
    else:
        content = Path(path).read_bytes() if Path(path).exists() else None
    return None if content is None else content.decode(errors="replace")


def _parse(path: str, text: str) -> Any:
    if path.endswith(".yaml"):
        return YAML(typ="safe").load(text)
    if path.endswith(".json"):
        return json.loads(text)
    return tables.parse(io.StringIO(text))
