"""Experiments by git, and DVC's queue by its commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile

from psutil import Error as ProcessError
from psutil import Process
from ruamel.yaml import YAML

from ablations.studies import Run, digest
from mtseg.core.errors import UserError
from mtseg.core.params import validate

CODE = ("dvc.yaml", "mtseg", "stages", "recipes")
REPLACED = "refs/ablations/"  # where experiments wait whose names their successors need
TMP = Path(".dvc/tmp")
LOCK, LOCK_ASIDE = Path("dvc.lock"), TMP / "dvc.lock.aside"
TRIES = 5  # while a worker, as it takes or hands back an experiment, holds the repository's lock or writes its record
PASSING = ("acquire lock", "index.lock", "Expecting value")  # what DVC says then


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails."""
    done = subprocess.run(["git", *arguments], text=True, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def dvc(*arguments: str) -> str:
    """What DVC prints. Raises UserError with its last lines when it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    for attempt in range(TRIES):
        with TemporaryFile("w+") as out, TemporaryFile("w+") as error:  # pipes would wait for the workers it starts
            # a session of its own is out of Ctrl-C's reach, which would leave things about
            done = subprocess.run(command, stdout=out, stderr=error, env=environment(), start_new_session=True)
            printed, told = (file.seek(0) or file.read() for file in (out, error))
        if done.returncode == 0:
            return printed
        if attempt == TRIES - 1 or not any(part in told for part in PASSING):
            break
        time.sleep(2 * (attempt + 1))
    raise UserError(f"dvc {' '.join(arguments[:3])}: {' '.join(told.split()[-60:])}")


def environment() -> dict[str, str]:
    """One thread a job, this interpreter as `python`, and a name for git's commits where it has none."""
    found = dict(os.environ)
    found["OMP_NUM_THREADS"] = found["MKL_NUM_THREADS"] = "1"
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
    if git("var", "GIT_COMMITTER_IDENT") is None:
        who = {"NAME": "ablations", "EMAIL": "ablations@localhost"}
        found |= {f"GIT_{role}_{key}": text for role in ("AUTHOR", "COMMITTER") for key, text in who.items()}
    return found


def finished(place: str = "refs/exps/") -> dict[str, list[str]]:
    """name -> refs of the experiments that bear it, whatever commit they start from, the youngest first."""
    listed = git("for-each-ref", "--sort=-committerdate", "--format=%(refname)", place)
    if listed is None:
        raise UserError("no git repository here: the studies' runs are experiments in one")
    refs: dict[str, list[str]] = {}
    for ref in listed.split():
        if found := re.fullmatch(place + r"[0-9a-f]{2}/[0-9a-f]{38}/(.+)", ref):
            refs.setdefault(found[1], []).append(ref)
    return refs


def file(ref: str, path: str) -> str | None:
    """A file as an experiment left it; None where it has none."""
    return git("show", f"{ref}:{path}")


def result(run: Run, refs: Mapping[str, list[str]]) -> str | None:
    """The ref of the experiment that is this run: same name, same params wherever its data lay, run to its end."""
    for ref in refs.get(run.name, ()):
        text, lock = file(ref, "params.yaml"), file(ref, "dvc.lock") or ""
        try:
            same = digest(validate(YAML(typ="safe").load(StringIO(text or "")), Path(run.name))) == run.digest
        except UserError:  # of a params.yaml as it once was
            continue
        if same and all(f"\n  {stage}:\n" in lock for stage in run.stages):  # metrics/ may be the last commit's
            return ref
    return None


def replace(names: Iterable[str]) -> None:
    """Free these names: the experiments that bear them wait aside until `settle`."""
    known = finished()
    for ref in [ref for name in names for ref in known.get(name, ())]:
        _move(ref, ref.replace("refs/exps/", REPLACED, 1))


def settle() -> None:
    """Of the experiments put aside, delete those whose successor has finished, and put the others back."""
    known = finished()
    for name, refs in finished(REPLACED).items():
        for ref in refs:
            if name in known:
                git("update-ref", "-d", ref)
            else:
                _move(ref, ref.replace(REPLACED, "refs/exps/", 1))


def _move(ref: str, place: str) -> None:
    if git("update-ref", place, ref) is None:
        raise UserError(f"git update-ref {place} {ref} failed; nothing was deleted")
    git("update-ref", "-d", ref)


def head() -> str:
    """The commit that is checked out, which an experiment queued now starts from. Raises UserError where the pipeline's
    files differ from it: what is measured by them would be told as that commit's."""
    if changed := (git("diff", "HEAD", "--name-only", "--", "params.yaml", *CODE) or "").split():
        raise UserError(f"commit {', '.join(changed[:3])} first: results name the commit that they are of")
    return (git("rev-parse", "HEAD") or "").strip()


def baseline(ref: str) -> str:
    """The commit that an experiment starts from."""
    return "".join(ref.split("/")[2:4])


def other_code(commits: Sequence[str]) -> int:
    """How many of these commits have code that is not the last commit's, or are not here."""
    changed = {commit: git("diff", "--quiet", commit, "HEAD", "--", *CODE) is None for commit in {*commits}}
    return sum(changed[commit] for commit in commits)


def statuses() -> dict[str, str]:
    """name -> Queued, Running, Failed or Success: of several tasks of that name, what the liveliest is."""
    found: dict[str, str] = {}
    for line in dvc("queue", "status").splitlines():
        if row := re.match(r"[0-9a-f]{7} +(\S+) +.* (Queued|Running|Failed|Success) *$", line):
            rank = ("Running", "Queued", "Success", "Failed")  # a name may have failed before
            found[row[1]] = min(found.get(row[1], "Failed"), row[2], key=rank.index)
    return found


def workers() -> bool:
    """Whether any worker is alive: what the queue's status says of it is late on a busy machine."""
    for path in (TMP / "exps/celery").glob("*.pid"):
        try:
            if "queue-worker" in Process(int(path.read_text())).cmdline():  # a pid may be another's by now
                return True
        except (ValueError, OSError, ProcessError):
            continue
    return False


def idle(patience: int = 60) -> bool:
    """Whether the queue rests. Workers with nothing to do are waited for, some seconds: they are about to go."""
    for _ in range(patience):
        if not workers():
            return True
        if {"Running", "Queued"} & {*statuses().values()}:
            return False
        time.sleep(1)
    return False


def clear(names: Iterable[str]) -> None:
    """Take all tasks of these names out of the queue. No worker may be alive."""
    if "Running" in statuses().values():  # said of what a crash left behind
        dvc("queue", "stop", "--kill")
    known = statuses()
    if left := [name for name in names if name in known]:
        dvc("queue", "remove", *left)


@contextmanager
def without_lock() -> Iterator[None]:
    """No dvc.lock meanwhile: experiments queued now start without one, and take what was made before by DVC's cache of
    runs alone. With one they would fail where the results that it names are not in the cache, as in a fresh clone:
    when DVC brings a stage back it opens the folders of which a file is a dep (data/coco) as the lock first named them.
    """
    bring_back_lock()
    if LOCK.exists():
        LOCK_ASIDE.parent.mkdir(parents=True, exist_ok=True)
        LOCK.replace(LOCK_ASIDE)
    try:
        yield
    finally:
        bring_back_lock()


def bring_back_lock() -> None:
    """Of a queueing, or of an earlier one that was killed; a dvc.lock that was written since stays."""
    if LOCK.exists() and git("diff", "--quiet", "HEAD", "--", LOCK.name) is None:
        LOCK_ASIDE.unlink(missing_ok=True)
    elif LOCK_ASIDE.exists():
        LOCK_ASIDE.replace(LOCK)


def queue(run: Run, overrides: list[str]) -> None:
    """Queue a run, with nothing but these settings changed."""
    settings = [part for override in overrides for part in ("--set-param", override)]
    dvc("exp", "run", "--queue", "--quiet", "--name", run.name, *settings, *run.stages)


def start(jobs: int) -> None:
    """Start workers, or as many as are missing."""
    dvc("queue", "start", "--jobs", str(jobs))


def stop() -> None:
    """End the workers and what they run; a training goes on from its last state when it is run again."""
    dvc("queue", "stop", "--kill")


def log(name: str, lines: int = 3) -> str:
    """The end of what a run printed."""
    try:
        return "\n".join(f"    {line}" for line in dvc("queue", "logs", name).strip().splitlines()[-lines:])
    except UserError as error:
        return f"    {error}"
