"""`python -m benchmarks.mutation [--only REGEX] [--seconds S]`: does a test fail when the code is changed in one place?

Places are drawn by a fixed seed in each file of `PLAN`. A mutant is one changed operator, number, condition, index,
function or left-out call. It is imported instead of the file by a fork of a process that has imported the libraries,
and the file's tests run there until one fails. Outcomes are appended to work/mutants.jsonl, and a run goes on where the
last one stopped. Ends with the table of docs/robustness.md. mutation.tsv has the mutants that no test can notice, with
the reason. The exit code is 1 if less than 95 % of the others are killed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from ablations import page

ROOT = Path(__file__).parents[1]
OUT = ROOT / "work/mutants.jsonl"
EQUIVALENT = Path(__file__).with_suffix(".tsv")  # keys of mutants, why no test can fail
TARGET = 0.95
LIMIT = 120  # s for the tests of one mutant; one that does not end is noticed
LIBRARIES = (
    "torch", "torchvision", "pandas", "scipy.optimize", "scipy.sparse", "scipy.spatial", "cv2", "pytest", "pydantic",
    "rich.console", "rich.progress", "pyarrow.parquet", "PIL.Image", "pycocotools.mask", "ruamel.yaml",
    "fvcore.common.param_scheduler", "detectron2.data.transforms", "detectron2.structures", "detectron2.solver.build",
    "detectron2.projects.point_rend.point_features",
)  # fmt: skip
PLAN: dict[str, tuple[int, tuple[str, ...]]] = {  # file: number of mutants, names of its tests, the fastest first
    "model/mask2former": (14, ("model/mask2former", "inference/postprocess", "model/heads", "model/weights",
                               "model/parity")),
    "model/losses": (11, ("model/losses", "training/step", "model/parity")),
    "model/matching": (9, ("model/losses", "training/step", "model/parity")),
    "model/points": (5, ("model/losses", "model/parity")),
    "model/heads/_base": (8, ("model/losses", "model/heads", "model/combinations", "model/mask2former")),
    "model/heads/softmax": (3, ("model/losses", "model/heads")),
    "model/heads/combinations": (8, ("model/combinations", "model/heads", "checks/combinations")),
    "model/decoder": (8, ("model/mask2former", "model/parity")),
    "training/step": (16, ("training/step", "training/ranks", "training/loop")),
    "training/optimizer": (6, ("training/step", "training/loop")),
    "training/monitor": (6, ("training/step", "training/loop", "training/state")),
    "training/checkpoint": (10, ("training/loop", "training/state")),
    "inference/postprocess": (8, ("inference/postprocess", "inference/predictor")),
    "inference/torch_network": (8, ("inference/torch_network", "inference/postprocess", "inference/predictor")),
    "core/masks": (8, ("core/masks", "data/polygons", "data/loader", "inference/export")),
    "evaluation/ap/average_precision": (12, ("evaluation/scores", "evaluation/intervals", "evaluation/coco")),
    "evaluation/ap/matching": (15, ("evaluation/matching", "evaluation/scores", "evaluation/coco")),
    "evaluation/ap/evaluation": (12, ("evaluation/scores", "evaluation/matching", "evaluation/coco",
                                      "evaluation/rankings", "evaluation/analysis", "evaluation/errors")),
    "evaluation/ap/scores": (3, ("evaluation/scores",)),
    "data/loader": (18, ("data/loader", "checks/mapper", "training/state")),
}  # fmt: skip
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "any": "all", "zeros": "ones", "sum": "mean", "argmax": "argmin"}
NAMES |= {value: key for key, value in NAMES.items()}


@dataclass(frozen=True)
class Mutant:
    """One change of a file. line: its text, stripped; place: the expression's position in it; before, after: the
    expression."""

    file: str
    line: str
    place: str
    before: str
    after: str
    code: CodeType

    @property
    def key(self) -> tuple[str, ...]:
        return self.file, self.line, self.place, self.before, self.after


def change(node: ast.AST) -> ast.AST | None:
    """What a node becomes, or None if it is not changed. May change the node itself."""
    match node:
        case ast.Compare(ops=[operator, *_]) if type(operator) in OTHER:
            node.ops[0] = OTHER[type(operator)]()
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) | ast.BoolOp(op=operator) if type(operator) in OTHER:
            node.op = OTHER[type(operator)]()
        case ast.UnaryOp():
            return node.operand
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case ast.Constant(value=float(value)):
            node.value = 2 * value + 1
        case ast.If() | ast.IfExp() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Name(id=name) if name in NAMES:
            node.id = NAMES[name]
        case ast.Attribute(attr=name) if name in NAMES:
            node.attr = NAMES[name]
        case ast.Expr(value=ast.Call()):
            return ast.Pass()
        case ast.Subscript(value=ast.Call() | ast.Subscript() | ast.BinOp() | ast.Compare(), ctx=ast.Load()):
            return node.value
        case _:
            return None
    return node


def left_alone(tree: ast.Module) -> set[int]:
    """Numbers in `ast.walk` of nodes that only say something to a person or to a type checker."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
                parts = [node]
            case ast.Call(func=ast.Name(id="UserError" | "NotFinite" | "print")):
                parts = [node]
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
                parts = [node]
            case ast.FunctionDef():
                parts = [node.returns]
            case ast.arg() | ast.AnnAssign():
                parts = [node.annotation]
            case _:
                continue
        inside |= {id(below) for part in parts if part for below in ast.walk(part)}
    return {number for number, node in enumerate(ast.walk(tree)) if id(node) in inside}


def mutants(file: str, count: int) -> Iterator[Mutant]:
    """`count` mutants of a file, in an order drawn by its name."""
    source = (ROOT / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    numbers = sorted(set(range(sum(1 for _ in ast.walk(tree)))) - left_alone(tree))
    random.Random(file).shuffle(numbers)
    for number in numbers:
        tree = ast.parse(source)
        node = list(ast.walk(tree))[number]
        before = ast.unparse(node)
        new = change(node)
        if new is None:
            continue
        if new is not node:
            tree = Instead(node, new).visit(tree)
        code = compile(ast.fix_missing_locations(tree), file, "exec")
        line = source.splitlines()[node.lineno - 1]
        place = str(node.col_offset - len(line) + len(line.lstrip()))
        yield Mutant(file, line.strip(), place, *(text.splitlines()[0] for text in (before, ast.unparse(new))), code)
        count -= 1
        if not count:
            return


class Instead(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


class Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant instead of its file."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.name = mutant, mutant.file.removesuffix(".py").replace("/", ".")
        assert self.name not in sys.modules

    def find_spec(self, name, path=None, target=None):
        return (
            importlib.util.spec_from_file_location(name, self.mutant.file, loader=self) if name == self.name else None
        )

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.mutant.code, module.__dict__)


def killed_by(mutant: Mutant, tests: tuple[str, ...]) -> str:
    """The first test that fails, `does not end`, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        child = os.fork()
        if not child:
            os.setpgid(0, 0)  # with all that the tests start
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            sys.meta_path.insert(0, Importer(mutant))
            pytest = sys.modules["pytest"]
            files = [f"tests/{folder}/test_{name}.py" for folder, name in (test.split("/") for test in tests)]
            quiet = ("-qx", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no", "--basetemp", f"{folder}/tests")
            code = pytest.main([*quiet, *files])
            sys.stdout.flush()
            os._exit(int(code))
        ends = time.monotonic() + LIMIT
        try:
            while not (done := os.waitpid(child, os.WNOHANG))[0]:
                if time.monotonic() > ends:
                    return "does not end"
                time.sleep(0.02)
            if not os.waitstatus_to_exitcode(done[1]):
                return ""
            lines = log.read_text(errors="replace").splitlines()
            named = [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
            return named[0].rpartition("/")[2] if named else "the process ends"
        finally:
            try:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def outcomes() -> dict[tuple[str, ...], str]:
    """Key of a mutant -> what killed it."""
    lines = OUT.read_text(encoding="utf-8").splitlines() if OUT.exists() else []
    return {tuple(key): by for key, by in map(json.loads, lines)}


def table(plan: list[Mutant]) -> tuple[str, str, bool]:
    """Markdown by file, a line with the counts, and whether the target is met."""
    found = outcomes()
    rows = [line.split("\t") for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()[1:]]
    excused = {tuple(key) for *key, _ in rows}
    cells, alive, run, equal, dead = [], [], 0, 0, 0
    for file in dict.fromkeys(mutant.file for mutant in plan):
        own = [mutant for mutant in plan if mutant.file == file and mutant.key in found]
        killed = [mutant for mutant in own if found[mutant.key]]
        same = [mutant for mutant in own if not found[mutant.key] and mutant.key in excused]
        alive += [mutant for mutant in own if not found[mutant.key] and mutant.key not in excused]
        cells.append([file, *map(str, (len(own), len(killed), len(same), len(own) - len(killed) - len(same)))])
        run, dead, equal = run + len(own), dead + len(killed), equal + len(same)
    for mutant in alive:
        print("survives:", *mutant.key, sep=" | ")
    share = dead / max(run - equal, 1)
    line = (
        f"mutants killed: {dead} of {run}, {equal} others change nothing that a test can see: {share:.1%} of the rest"
    )
    return page.table(("file", "mutants", "killed", "equivalent", "survive"), cells), line, share >= TARGET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="only the files whose name matches")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no mutant after this time")
    parser.add_argument("--again", action="store_true", help="run those that have survived once more")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    names = [name for name in PLAN if re.search(arguments.only, name)]
    drawn = {name: list(mutants(f"mtseg/{name}.py", PLAN[name][0])) for name in names}
    plan = [mutant for own in drawn.values() for mutant in own]
    known = outcomes()
    left = [m for m in plan if m.key not in known or arguments.again and not known[m.key]]
    if left:
        for library in LIBRARIES:
            importlib.import_module(library)
        sys.modules["torch"].set_num_threads(1)
        OUT.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    for mutant in left:
        if time.monotonic() - began > arguments.seconds:
            break
        by = killed_by(mutant, PLAN[mutant.file.removeprefix("mtseg/").removesuffix(".py")][1])
        with OUT.open("a", encoding="utf-8") as file:
            file.write(json.dumps([mutant.key, by]) + "\n")
        print(f"{time.monotonic() - began:6.0f} s  {by or 'SURVIVES'}  {' | '.join(mutant.key)}", flush=True)
    text, line, good = table(plan)
    print(text, line, sep="\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
