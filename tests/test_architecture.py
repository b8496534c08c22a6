"""The rules of the architecture: layers, imports, dependencies and params of the stages, on the import graph."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
NO_RESULT = {"input.workers", "launch.timeout", "solver.save_minutes"}  # params that change no output
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
STAGES = PIPELINE["stages"]
HEAVY = {"torch", "torchvision", "timm", "detectron2"}

# package or module -> layer; the longest name that fits counts
LAYERS = {
    "mtseg.core": 0,
    "mtseg.data": 1,
    "mtseg.evaluation": 2,
    **dict.fromkeys(("mtseg.model", "mtseg.data.loader", "mtseg.data.catalog"), 3),  # may import torch, as all above
    "mtseg.inference": 4,
    **dict.fromkeys(("mtseg.training", "mtseg.relabel", "mtseg.serve"), 5),
    "mtseg.checks": 6,
    **dict.fromkeys(("mtseg.diagnosis", "mtseg.report"), 7),
    **dict.fromkeys(("mtseg.cli", "stages"), 8),
    "mtseg.__main__": 9,
}
TORCH = LAYERS["mtseg.model"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for folder in ("mtseg", "stages") for path in sorted((ROOT / folder).rglob("*.py"))}
del MODULES["mtseg"]  # `mtseg.load` is for those who use a model: no stage calls it
LIBRARY = [module for module in MODULES if module.startswith("mtseg")]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def layer(module: str) -> int:
    names = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    assert names, f"{module}: give its package a layer"
    return LAYERS[max(names, key=len)]


def package(module: str) -> str:
    """mtseg.data for all in it, mtseg for what lies beside it."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or MODULES[module].name == "__init__.py" else parts[0]


@cache
def imported(module: str) -> frozenset[str]:
    """Every name that a module imports, wherever in it; of `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def own_imports(module: str) -> frozenset[str]:
    """The modules of this repository that a module imports, by name or with importlib, and the packages they lie in."""
    names = {name for name in imported(module) if name in MODULES}
    for package in imported_by_name(module):
        names |= {name for name in MODULES if name.startswith(f"{package}.")}
    parents = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    return frozenset(((names | parents) & {*MODULES}) - {module})


def imported_by_name(module: str) -> set[str]:
    """Packages of which a module imports files whose name it learns at run time: import_module(f"package.{name}")."""
    packages = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            text = ast.unparse(node.args[0]).replace("{__name__}", module)
            packages.add(re.match(r"f['\"]([\w.]+)\.\{", text)[1])
    return packages


def closure(module: str) -> set[str]:
    found, todo = set(), [module]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += own_imports(name)
    return found


def is_docstring_only(module: str) -> bool:
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree(module).body)


def files_named(module: str) -> set[Path]:
    """What a module names that lies beside it and is no module: a folder of templates, a table."""
    beside = MODULES[module].parent
    words = {node.value for node in ast.walk(tree(module)) if isinstance(node, ast.Constant)}
    return {
        path
        for path in beside.iterdir()
        if path.name in words and not path.with_suffix("").joinpath("__init__.py").exists()
    }


def code_reached(stage: str) -> set[str]:
    """The files that a stage's script reaches, without empty modules."""
    reached = closure(f"stages.{stage}")
    paths = {MODULES[name] for name in reached if not is_docstring_only(name)}
    paths |= {path for name in reached for path in files_named(name)}
    return {path.relative_to(ROOT).as_posix() for path in paths}


def code_deps(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.startswith(("mtseg", "stages"))]


def lies_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def params_read(stage: str) -> set[str]:
    """The keys of params.yaml that a script reads: `params.solver` -> solver, `params.data.raw` -> data.raw."""
    attributes = [node for node in ast.walk(tree(f"stages.{stage}")) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    keys = set()
    for chain in (ast.unparse(node).split(".") for node in attributes if id(node) not in inner):
        if chain[0] == "params":
            section, key = chain[1], chain[2] if len(chain) > 2 else None
            keys.add(f"{section}.{key}" if isinstance(PARAMS[section], dict) and key in PARAMS[section] else section)
    return {key for key in keys if key.partition(".")[0] == key or key.partition(".")[0] not in keys}


def single_keys(keys: Iterable[str]) -> set[str]:
    """The keys with each section replaced by its own."""
    sections = {key: PARAMS[key] for key in keys if isinstance(PARAMS.get(key), dict)}
    return {key for key in keys if key not in sections} | {f"{key}.{own}" for key in sections for own in sections[key]}


def names(entries: list) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outs(stage: str) -> list[str]:
    return [out for kind in ("outs", "metrics", "plots") for out in names(STAGES[stage].get(kind, []))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_reaches(stage):
    missing = [path for path in code_reached(stage) if not any(lies_in(path, dep) for dep in code_deps(stage))]
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_few_packages_and_on_none_that_it_does_not_reach(stage):
    deps, reached = code_deps(stage), code_reached(stage)
    assert len(deps) <= 8
    for dep in deps:
        assert not [other for other in deps if other != dep and lies_in(other, dep)], dep
        inside = [path for path in reached if lies_in(path, dep)]
        assert len(inside) >= (2 if (ROOT / dep).is_dir() else 1), f"{dep}: of a package list the one file {inside}"


def test_the_pipeline_is_short_enough_to_read():
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 220


def test_training_reaches_no_check_no_diagnosis_and_no_report():
    packages = {package(module) for module in closure("stages.train")}
    assert not packages & {"mtseg.checks", "mtseg.diagnosis", "mtseg.report"}
    assert not any(lies_in("mtseg/evaluation/filter.py", dep) for dep in code_deps("train"))


def test_training_waits_for_the_check_and_not_for_its_wording():
    assert "data/check/verdict.json" in STAGES["train"]["deps"]
    assert not [dep for dep in STAGES["train"]["deps"] if dep.startswith(("mtseg/checks", "data/check/findings"))]


@pytest.mark.parametrize("stage", ["train", "evaluate", "filter", "diagnose"])
def test_a_stage_that_trains_or_chooses_takes_no_file_of_the_test_split(stage):
    deps = STAGES[stage]["deps"]
    assert "data/predictions/test.parquet" not in deps and not {"data/coco", "data/predictions"} & {*deps}
    assert not [dep for dep in deps for out in outs("test") if lies_in(dep, out)]
    of_test = {"data/coco/test.parquet", *outs("test")}
    assert not [node for node in ast.walk(tree(f"stages.{stage}")) if getattr(node, "value", "") in {"test", *of_test}]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_states_the_params_it_reads_and_no_others(stage):
    stated = STAGES[stage].get("params", [])
    assert len(stated) == len(set(stated))
    own, read = single_keys(stated), single_keys(params_read(stage))
    assert own <= read and read - own <= NO_RESULT


@pytest.mark.parametrize("stage", ["train", "predict"])
def test_a_param_that_changes_no_result_does_not_repeat_a_long_stage(stage):
    assert not single_keys(STAGES[stage]["params"]) & NO_RESULT


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_states_the_files_its_script_names(stage):
    paths = {
        node.value
        for node in ast.walk(tree(f"stages.{stage}"))
        if isinstance(node, ast.Constant)
        and re.match(r"(data|models|export|metrics|plots|report)(/|$)", str(node.value))
    }

    for path in paths:
        stated = [*STAGES[stage]["deps"], *outs(stage)]
        assert any(lies_in(path, entry) or lies_in(entry, path) for entry in stated), path
    for out in outs(stage):
        assert any(lies_in(path, out) or lies_in(out, path) for path in paths), out


def test_what_a_stage_takes_another_makes():
    made = [out for stage in STAGES for out in outs(stage)]
    assert len(made) == len(set(made))
    for stage in STAGES:
        for dep in STAGES[stage]["deps"]:
            source = "$" in dep.partition("/")[0] or (ROOT / dep).exists()
            assert source or any(lies_in(dep, out) for out in made), f"{stage}: {dep}"


@pytest.mark.parametrize("stage", STAGES)
def test_what_git_keeps_is_a_metric_or_a_plot(stage):
    """DVC brings no finished run of a stage back that has an uncached out of another kind."""
    assert all(isinstance(out, str) for out in STAGES[stage].get("outs", []))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_script_says_how_it_is_run(stage):
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert STAGES[stage]["desc"]
    assert ast.get_docstring(tree(f"stages.{stage}")).startswith(f"`python -m stages.{stage}`")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_layers_below_or_its_own_package(module):
    for other in own_imports(module):
        same = layer(other) == layer(module) and package(other) == package(module)
        assert layer(other) < layer(module) or same or is_docstring_only(other), f"{module} imports {other}"


@pytest.mark.parametrize("module", [module for module in LIBRARY if layer(module) < TORCH])
def test_core_data_and_evaluation_never_import_torch_not_even_lazily(module):
    assert not {name.partition(".")[0] for name in imported(module)} & HEAVY


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )


def test_core_data_and_evaluation_load_no_torch_through_others_either():
    low = [module for module in LIBRARY if layer(module) < TORCH]
    found = run(f"import importlib, sys\nfor m in {low}: importlib.import_module(m)\nprint({HEAVY} & set(sys.modules))")
    assert found.stdout.strip() == "set()"


def test_imports_print_nothing_register_nothing_and_load_no_compiler():
    found = run(
        "import importlib, sys\n"
        "from mtseg.model.imports import without_compiler\n"
        "with without_compiler():\n"
        "    from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "    before = DatasetCatalog.list(), MetadataCatalog.list()\n"
        f"    for m in {LIBRARY}: importlib.import_module(m)\n"
        "assert before == (DatasetCatalog.list(), MetadataCatalog.list())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "import torch\n"
        "assert is_compile_supported('cpu') == torch._dynamo.utils.is_compile_supported('cpu')\n"  # now it is loaded
    )
    assert found.stdout == found.stderr == ""


def names_used(module: str) -> set[str]:
    """Every name that a module uses, in full: `params.load` after `from mtseg.core import params` as
    mtseg.core.params.load."""
    nodes = list(ast.walk(tree(module)))
    full = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    full |= {alias.asname: alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    used = (ast.unparse(node).partition(".") for node in nodes if isinstance(node, ast.Name | ast.Attribute))
    return {f"{full.get(name, name)}{dot}{rest}" for name, dot, rest in used}


def test_only_stages_and_commands_read_params_yaml():
    readers = {module for module in LIBRARY if "mtseg.core.params.load" in names_used(module)}
    below = {module for module in readers if layer(module) < LAYERS["mtseg.cli"]}
    assert below == {"mtseg.core.recipe"}  # which changes the file that it is given


def test_few_modules_import_detectron2_and_the_docs_name_them():
    importing = {module for module in LIBRARY if any(name.startswith("detectron2") for name in imported(module))}
    rest = {module for module in importing if not module.startswith("mtseg.model.backbones")}
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").partition("## detectron2")[2]
    stated = {path.replace("/", ".") for path in re.findall(r"`(mtseg/[\w/]+)\.py`", text)}
    assert rest == stated


@pytest.mark.parametrize("module", MODULES)
def test_no_code_names_a_task(module):
    tasks = {task["name"] for task in PARAMS["tasks"]}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant):
            assert node.value not in tasks, f"{module}, line {node.lineno}: {node.value!r}"


def test_no_file_is_called_utils():
    folders = ("mtseg", "stages", "tests", "benchmarks", "ablations")
    names = {path.stem for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common"}


@pytest.mark.parametrize(
    ("package", "named"),
    [("mtseg.model.backbones", PARAMS["model"]["backbone"]), ("mtseg.data.formats", PARAMS["data"]["format"])],
)
def test_what_params_may_name_is_a_file(package, named):
    assert importlib.util.find_spec(f"{package}.{named}")
