"""`python -m benchmarks.survival [--quick] [--only KIND ...]`: what survives kills, full disks and hostile input.

Builds a tiny project in a temporary folder and disturbs its stages, each case in a fork of this process and in a copy
of the project:

  kill, signal   before each change of a file: SIGKILL; SIGINT, SIGTERM or SIGHUP, of a training also two of them
  full disk      an error from each write on, files of a limited size; `read-only`, `few files`: every write, open files
  state          damaged states and locks of an unfinished training
  concurrency    two trainings at once; without --quick also two queued experiments of DVC
  ranks          without --quick: a training in two processes has the losses of one
  reader, Ctrl-C `train | head -1`, and SIGINT in the first moments of a process
  worker, memory a process that loads images dies; little memory
  artifact       damaged, foreign and missing files of earlier stages
  images, annotations, params   random mutations; annotations of LabelMe, COCO, Label Studio and CVAT

Survived: no traceback, no hang, at most one error, which is a line; a rerun gives the bytes of an undisturbed run, and
a training goes on from its saved state. The last line is `survived N of M`; the exit code is 1 unless N = M.
--quick: training, convert and evaluate, 100 inputs of each kind. Of the kills every eighteenth is carried out; for the
others the folder was copied before each change in one run, and the stage goes on in the copy. Without it all stages,
all kills, 5,000 inputs of each kind.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import PIL.Image

# Large pages: a fork copies the page tables of all that is imported, which takes 36 ms with small ones, 15 with these.
PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
if __name__ == "__main__":
    if not PAGES.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | PAGES)
    for name in PAGES:
        del os.environ[name]
os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # before PyTorch is imported: forks have no threads
for name in ("DVC_ROOT", "MTSEG_WORK"):
    os.environ.pop(name, None)
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

from benchmarks import temporary  # noqa: E402
from benchmarks.survival import cases  # noqa: E402
from benchmarks.survival.project import STAGES, Project  # noqa: E402
from mtseg.core import yaml  # noqa: E402

QUICK = ("generate", "convert", "register", "check", "train", "predict", "evaluate", "filter")
DISTURBED = ("train", "convert", "evaluate")
USED = (  # what the stages import when they run
    "encodings.unicode_escape", "encodings.utf_8_sig", "filecmp", "matplotlib.backends.backend_svg",
    "mtseg.checks.run", "mtseg.data.catalog", "mtseg.data.formats.coco", "mtseg.data.formats.cvat",
    "mtseg.data.formats.label_studio", "mtseg.data.formats.labelme", "mtseg.diagnosis.probe",
    "mtseg.diagnosis.run", "mtseg.inference.checkpoint", "mtseg.inference.export.coco", "mtseg.inference.export.csv",
    "mtseg.inference.splits", "mtseg.inference.torch_network", "mtseg.model.backbones._convolution",
    "mtseg.model.backbones.mobilenetv3_small", "mtseg.training.loop", "orjson", "pandas.core.methods.to_dict",
    "pandas.io.formats.csvs", "pyarrow.pandas_compat", "pyarrow.vendored.version", "pycocotools.coco",
    "rich._emoji_codes", "rich.progress", "torch.utils.serialization.config",
)  # fmt: skip
CASES: list[cases.Case] = []  # the processes of the pool are forks, which have it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer stages and inputs")
    parser.add_argument("--only", nargs="+", default=(), metavar="KIND", help="kinds of cases")
    parser.add_argument("--inputs", type=int, help="mutated inputs of each kind; by default 100 or 5000")
    given = parser.parse_args()
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGHUP):  # which may be ignored, as in the background of a script
        signal.signal(number, signal.default_int_handler)
    tempfile.tempdir = temporary.parent()  # a state is flushed when it is saved, on a disk as long as a step takes
    stages = QUICK if given.quick else tuple(stage for stage in STAGES if stage != "compare")
    for module in (*(f"stages.{stage}" for stage in stages), *USED):
        importlib.import_module(module)
    PIL.Image.init()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(
            Path(folder) / "whole",
            Path(folder) / "stopped",
            stages,
            disturbed=DISTURBED if given.quick else stages,
            copies=Path(folder) / "copies" if given.quick else None,
        )
        sys.argv = ["stage"]
        yaml.parse = _once(yaml.parse)
        project.build()
        gc.collect()
        gc.freeze()  # a collection in a fork would copy the memory of all that is imported
        inputs = given.inputs or (100 if given.quick else 5000)
        CASES.extend(
            case
            for case in cases.every(project, inputs=inputs, quick=given.quick)
            if not given.only or case.kind in given.only
        )
        print(f"{len(CASES)} cases, {time.monotonic() - began:.0f} s to prepare", flush=True)
        survived = _run()
    total = Counter()
    for case in CASES:
        total[case.kind] += case.count
    for kind, count in total.items():
        print(f"{kind:>12}  {survived[kind]} of {count}")
    print(f"{time.monotonic() - began:.0f} s")
    print(f"survived {survived.total()} of {total.total()}")
    sys.exit(survived != total)


def _once(parse: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which reads no text twice: most runs have the same params.yaml, which takes 80 ms."""
    read = cache(lambda *given: pickle.dumps(parse(*given)))
    return lambda *given: pickle.loads(read(*given))


def _run() -> Counter:
    survived = Counter()
    count = len(os.sched_getaffinity(0)) + 1  # some wait, for a lock or for a process that has died
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("fork")) as pool:
        for case, wrong in zip(CASES, pool.map(_outcome, range(len(CASES))), strict=True):
            if wrong:
                print(f"{case.kind}: {case.name}: {' '.join(wrong.split())[:400]}", flush=True)
            else:
                survived[case.kind] += case.count
    return survived


def _outcome(number: int) -> str | None:
    return CASES[number].survives()


if __name__ == "__main__":
    main()
