"""`python -m benchmarks.mutation [--only REGEX] [--seconds S]`: does a test fail when the code is changed in one place?

Places are drawn by a fixed seed in each file of `PLAN`. A mutant is one changed operator, number, condition, index,
function or left-out call. pytest collects the tests once; each mutant is put into the functions of a fork of that
process, where the file's tests run until one fails. Outcomes are appended to work/mutants.jsonl, and a run goes on
where the last one stopped. Ends with the table of docs/robustness.md. mutation.tsv has the mutants that no test can
notice, with the reason. The exit code is 1 if less than 95 % of the others are killed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from ablations import page

ROOT = Path(__file__).parents[1]
OUT = ROOT / "work/mutants.jsonl"
EQUIVALENT = Path(__file__).with_suffix(".tsv")  # keys of mutants, why no test can fail
TARGET = 0.95
LIMIT = 300  # s for the tests of one mutant; one that does not end is noticed
PLAN: dict[str, tuple[int, tuple[str, ...]]] = {  # file: number of mutants, names of its tests, the fastest first
    "model/mask2former": (14, ("model/mask2former", "inference/postprocess", "model/heads", "model/weights",
                               "model/recompute", "model/parity")),
    "model/losses": (11, ("model/losses", "training/step", "model/parity")),
    "model/matching": (9, ("model/losses", "training/step", "model/parity")),
    "model/points": (5, ("model/attention", "model/losses")),
    "model/heads/_base": (8, ("model/losses", "model/heads", "model/combinations", "model/mask2former")),
    "model/heads/softmax": (3, ("model/losses", "model/heads")),
    "model/heads/combinations": (8, ("model/combinations", "model/heads", "checks/combinations")),
    "model/decoder": (8, ("model/mask2former", "model/parity")),
    "model/pixel_decoder": (7, ("model/mask2former", "model/attention", "model/parity")),
    "model/deformable": (9, ("model/attention", "model/mask2former", "training/cuda", "model/parity")),
    "model/backbones/_convolution": (6, ("model/convolution", "model/backbones", "model/parity")),
    "model/backbones/_frozen_norm": (3, ("model/backbones", "model/convolution", "model/parity")),
    "model/backbones/_swin": (4, ("model/backbones", "training/ranks", "model/parity")),
    "training/loop": (9, ("training/loop", "training/state", "training/ranks")),
    "training/step": (16, ("training/step", "training/ranks", "training/loop")),
    "training/optimizer": (6, ("training/step", "training/loop")),
    "training/monitor": (6, ("training/step", "training/loop", "training/state")),
    "training/checkpoint": (10, ("training/loop", "training/state", "training/ranks")),
    "inference/postprocess": (8, ("inference/postprocess", "inference/predictor")),
    "inference/torch_network": (8, ("inference/torch_network", "inference/postprocess", "inference/predictor")),
    "core/masks": (8, ("core/masks", "data/polygons", "evaluation/pairs")),
    "evaluation/ap/average_precision": (12, ("evaluation/scores", "evaluation/intervals", "evaluation/coco")),
    "evaluation/ap/matching": (15, ("evaluation/matching", "evaluation/scores", "evaluation/coco")),
    "evaluation/ap/evaluation": (12, ("evaluation/scores", "evaluation/matching", "evaluation/coco",
                                      "evaluation/rankings", "evaluation/analysis", "evaluation/errors")),
    "evaluation/ap/scores": (3, ("evaluation/scores",)),
    "evaluation/filter": (12, ("evaluation/filter", "evaluation/thresholds")),
    "data/loader": (18, ("data/loader", "checks/mapper")),
}  # fmt: skip
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "max"}
METHODS = FUNCTIONS | {
    "zeros": "ones",
    "ones": "zeros",
    "sum": "mean",
    "mean": "sum",
    "argmax": "argmin",
    "argmin": "argmax",
}
NOT_RUN = 77  # exit code of a fork in which the mutant could not be tried
CONSTANTS = (bool, int, float, str, tuple, frozenset, dict, np.ndarray)


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
        case ast.Name(id=name) if name in FUNCTIONS:
            node.id = FUNCTIONS[name]
        case ast.Attribute(attr=name) if name in METHODS:
            node.attr = METHODS[name]
        case ast.Expr(value=ast.Call()) if "super()" not in ast.unparse(node):  # a fork cannot put in its absence
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
                parts = [node.returns, *node.decorator_list]
            case ast.ClassDef():
                parts = node.decorator_list
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


def unwrapped(value: Any) -> Any:
    """The function in a decorated function, property or method."""
    value = next((getattr(value, name) for name in ("fget", "func", "__func__") if hasattr(value, name)), value)
    return inspect.unwrap(value) if callable(value) else value


def put(old: Mapping[str, Any], new: Mapping[str, Any], module: str) -> int:
    """Give functions and constants of a module or class what they have in another version of it. Returns how many."""
    count = 0
    for name, value in new.items():
        own, value = unwrapped(old.get(name)), unwrapped(value)
        if isinstance(own, FunctionType) and own.__module__ == module and isinstance(value, FunctionType):
            kept = own.__code__, own.__defaults__, own.__kwdefaults__
            own.__code__, own.__defaults__, own.__kwdefaults__ = then = (
                value.__code__, value.__defaults__, value.__kwdefaults__
            )  # fmt: skip
            count += kept[0] != then[0] or repr(kept[1:]) != repr(then[1:])
        elif isinstance(own, type) and own.__module__ == module and isinstance(value, type):
            count += put(vars(own), vars(value), module)
        elif (
            isinstance(own, CONSTANTS)
            and isinstance(value, CONSTANTS)
            and repr(own) != repr(value)
            and name != "__doc__"
        ):
            count += 1
            for other in list(sys.modules.values()):  # also where it was imported
                if vars(other).get(name) is own:
                    setattr(other, name, value)
    return count


def apply(mutant: Mutant) -> None:
    """Put a mutant into the module of its file. Raises ImportError if the mutant cannot be imported."""
    name = mutant.file.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name)
    changed = ModuleType(name)
    changed.__file__, changed.__package__ = module.__file__, module.__package__
    try:
        exec(mutant.code, vars(changed))
    except Exception as error:
        raise ImportError(f"{type(error).__name__} when imported") from error
    assert put(vars(module), vars(changed), name), mutant.key


class Mutants:
    """A plugin of pytest: instead of the tests it collects, it runs those of each mutant in a fork."""

    def __init__(self, todo: Sequence[Mutant], seconds: float) -> None:
        self.todo, self.seconds, self.failed = todo, seconds, ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid.rpartition("/")[2]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        by_file: dict[str, list[pytest.Item]] = {}
        for item in session.items:
            by_file.setdefault(item.nodeid.partition("::")[0], []).append(item)
        began = time.monotonic()
        for mutant in self.todo:
            if time.monotonic() - began > self.seconds:
                break
            items = [item for test in tests(mutant.file) for item in by_file.get(test, [])]
            by = self.killed_by(mutant, items)
            with OUT.open("a", encoding="utf-8") as file:
                file.write(json.dumps([mutant.key, by]) + "\n")
            spent = time.monotonic() - began
            print(f"{spent:6.0f} s  {by or 'SURVIVES'}  {' | '.join(mutant.key)}", file=sys.__stderr__, flush=True)
        return True

    def killed_by(self, mutant: Mutant, items: Sequence[pytest.Item]) -> str:
        """The first test that fails, `does not end`, or nothing."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.setpgid(0, 0)  # with all that the tests start
            signal.alarm(LIMIT)
            try:
                apply(mutant)
                for item, following in zip_longest(items, items[1:]):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    if self.failed:
                        break
                code = 0
            except ImportError as error:
                self.failed, code = str(error), 0
            except BaseException:
                self.failed, code = traceback.format_exc(), NOT_RUN
            os.write(writing, self.failed.encode())
            os._exit(code)
        os.close(writing)
        try:
            text = os.read(reading, 1 << 16).decode()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code == NOT_RUN:
                raise RuntimeError(text)
            return text if not code else "does not end" if code == -signal.SIGALRM else "the process ends"
        finally:
            os.close(reading)
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def tests(file: str) -> list[str]:
    """Paths of the tests of a file."""
    names = [test.split("/") for test in PLAN[file.removeprefix("mtseg/").removesuffix(".py")][1]]
    return [f"tests/{folder}/test_{name}.py" for folder, name in names]


def outcomes() -> dict[tuple[str, ...], str]:
    """Key of a mutant -> what killed it."""
    lines = OUT.read_text(encoding="utf-8").splitlines() if OUT.exists() else []
    return {tuple(key): by for key, by in map(json.loads, lines)}


def equivalent() -> set[tuple[str, ...]]:
    """Keys of the mutants that no test can notice."""
    return {tuple(line.split("\t")[:-1]) for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()[1:]}


def table(plan: list[Mutant]) -> tuple[str, str, bool]:
    """Markdown by file, a line with the counts, and whether the target is met."""
    found, excused = outcomes(), equivalent()
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
    alive = {key for key, by in known.items() if not by} - equivalent() if arguments.again else set()
    left = [mutant for mutant in plan if mutant.key not in known or mutant.key in alive]
    if left:
        OUT.parent.mkdir(exist_ok=True)
        files = dict.fromkeys(test for mutant in left for test in tests(mutant.file))
        quiet = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no")
        pytest.main([*quiet, *files], plugins=[Mutants(left, arguments.seconds)])
    text, line, good = table(plan)
    print(text, line, sep="\n")
    if not arguments.only and {mutant.key for mutant in plan} <= outcomes().keys():
        page.write(ROOT / "docs/robustness.md", {"mutants": f"{text}\n\n{line[0].upper()}{line[1:]}."})
    sys.exit(not good)


if __name__ == "__main__":
    main()
