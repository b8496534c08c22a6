"""The wheel holds what a user of a model needs, and an installed copy does not shadow the code of an experiment."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mtseg

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **environment):
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mtseg", source / "mtseg", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), cwd=source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's files, as site-packages has them."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_the_whole_library_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = subprocess.run(["git", "ls-files", "mtseg"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {*files.split()} <= inside
    assert {name.partition("/")[0] for name in inside} == {"mtseg"}
    assert f"mtseg-{mtseg.__version__}-" in wheel.name


def test_the_installed_library_works_outside_the_checkout(installed, tmp_path):
    code = "import mtseg; print(mtseg.__file__, mtseg.load.__doc__ is not None)"
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).startswith(str(installed))


def test_an_installed_copy_does_not_shadow_the_code_of_an_experiment(installed, tmp_path):
    """DVC runs an experiment in a copy of the checkout, and all its stages by `python -m stages.X`."""
    for folder in ("mtseg", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "stages" / "where.py").write_text("import mtseg.core.params\nprint(mtseg.core.params.__file__)\n")
    where = run(sys.executable, "-m", "stages.where", cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.strip()) == tmp_path / "mtseg" / "core" / "params.py"
