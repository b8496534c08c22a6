"""Run the stages of the pipeline on one case in a temporary folder, until one reports something."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from ruamel.yaml import YAML

from benchmarks.faults import images
from benchmarks.faults.case import PHASES, Case, Fault, Outcome, Phase
from mtseg.checks.findings import CAUSES
from mtseg.core.errors import UserError
from mtseg.core.files import read_table
from mtseg.model import weights

SCRIPTS: dict[Phase, tuple[tuple[str, ...], ...]] = {  # what each phase runs
    "convert": (("convert",), ("register",)),
    "check": (("check",),),
    "training": (("train",),),
    "predict": (("predict",),),
    "evaluate": (("evaluate",), ("filter",)),
    "diagnosis": (("diagnose",),),
}
TRAINED = ("models", "metrics", "plots")
NAMED = re.compile(rf"^\W*(?:(error|warning): )?({'|'.join(CAUSES)}): ", re.M)
REMARK = re.compile(r"^\W*(warning|error): .*", re.M)


def run(case: Case, folder: Path, *, trained: Path | None = None, until: Phase = "diagnosis") -> Outcome:
    """Run `case` in the new `folder` until a phase names a cause, fails or crashes, or `until` is finished.

    trained: folder of a finished run on the same data. Faults after training reuse its model and curves.
    """
    began = time.monotonic()
    folder.mkdir(parents=True)
    fault = case if isinstance(case, Fault) else Fault(case.name, raw=case.raw, since=case.since)
    when, reported, crash, known = None, "", False, ()
    with inside(folder), ExitStack() as patches:
        write_params(case)
        images.draw(Path("raw"), settings=case.params().generate, tasks=case.tasks, plain=case.plain)
        if case.raw:
            case.raw(Path("raw"))
        for name in TRAINED if trained and fault.after_training else ():
            shutil.copytree(trained / name, name)
        for phase in PHASES[: PHASES.index(until) + 1]:
            if fault.code and phase == fault.since:
                patches.enter_context(fault.code())
            reused = bool(trained and fault.after_training)
            other_data = fault.raw or fault.coco
            if reused and (phase == "training" or phase == "check" and not other_data):
                continue
            if reused and other_data and phase == "diagnosis":
                as_validated()
            text, over, crash = perform(phase, fault)
            causes = named(text) if phase != "convert" else ()  # it has names of its own, such as duplicates
            if causes or over or (REMARK.search(text) and not when):
                when, reported, known = phase, text, causes
            if causes or over:  # a warning without a name may get one in a later phase
                break
    return Outcome(case, when, known, reported, crash, time.monotonic() - began)


def as_validated() -> None:
    """Let the curve of a model that was trained before the fault of val end at the AP of the val that is scored: a
    validation during training would have seen it as well. Its predictions are those of the val that is predicted."""
    for path in Path("models").iterdir():
        tensors, metadata = weights.load(path)
        weights.write(path, tensors, json.dumps(metadata | {"summary": []}))
    table = read_table(Path("plots/val.tsv"), "train")
    now = json.loads(Path("metrics/evaluate.json").read_bytes())["joint"]["AP"]
    table["joint_AP"] *= now / max(table["joint_AP"].max(), 1e-9)
    table.to_csv("plots/val.tsv", sep="\t", index=False)


def perform(phase: Phase, fault: Fault) -> tuple[str, bool, bool]:
    """The output of a phase, whether the pipeline stopped in it, and whether that was a crash."""
    out = io.StringIO()
    for script, *arguments in SCRIPTS[phase]:
        try:
            with redirect_stdout(out), redirect_stderr(io.StringIO()), patch.object(sys, "argv", [script, *arguments]):
                import_module(f"stages.{script}").main()
        except UserError as error:
            return f"{out.getvalue()}\nerror: {error}", True, False
        except SystemExit as end:
            if end.code:
                return f"{out.getvalue()}\nerror: {end.code}", True, False
        except Exception as error:  # whichever the fault causes
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:150]}", True, True
        if script == "convert" and fault.coco:
            fault.coco(Path("data/coco"))
    return out.getvalue(), False, False


def named(text: str) -> tuple[tuple[str, str], ...]:
    """(cause, severity), each cause once, errors first. A line without a severity is an error."""
    found: dict[str, str] = {}
    for severity, cause in NAMED.findall(text):
        found.setdefault(cause, severity or "error")
    return tuple(sorted(found.items(), key=lambda item: item[1] != "error"))


def write_params(case: Case) -> None:
    with open("params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe").dump(case.params().model_dump(mode="json"), file)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Change the working folder; training states stay in it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with patch.dict(os.environ, {"MTSEG_WORK": "work"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(before)
