"""The command in this process, which has imported PyTorch already, and folders of small images."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mtseg.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def mtseg(capsys):
    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Done(ended.value.code, *capsys.readouterr())

    return run


def start(*arguments, code=None, **options):
    """A process of its own: `python -m mtseg`, or Python code with these arguments."""
    command = [sys.executable, "-W", "ignore", *(["-c", code] if code else ["-m", "mtseg"]), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def write_images(folder, names, size=(40, 30)):
    """Noise, the same for the same name. size: width, height."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([*name.encode()]).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def shots(tmp_path):
    return write_images(tmp_path / "shots", [f"{i}.png" for i in range(5)])


def content(folder):
    """{path: bytes} of all files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
