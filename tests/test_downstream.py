"""The recipes of docs/downstream.md run as they stand there, with a tiny model and small images."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import write_images

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "downstream.md").read_text(encoding="utf-8")
RECIPES = {title: text for title, text in re.findall(r"\n## Recipe: ([^\n]*)\n(.*?)(?=\n## )", PAGE, re.DOTALL)}


@pytest.fixture
def folder(tmp_path, segmenter, onnx_segmenter):
    for model in (segmenter, onnx_segmenter):
        shutil.copy(model, tmp_path / model.name)
    write_images(tmp_path / "shots", ["a.png", "b.png", "c.png"])
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for level in (0, 90, 180):
        film.write(np.full((48, 64, 3), level, dtype=np.uint8))
    film.release()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "mtseg"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m mtseg "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(title, folder, model="segmenter.safetensors", stop=""):
    """The recipe's blocks in one shell. model: the file to use; stop: a command at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    lines = ["set -e"]
    for number, (kind, block) in enumerate(re.findall(r"```(bash|python)\n(.*?)```", RECIPES[title], re.DOTALL)):
        text = block.replace("8000", port).replace("segmenter.safetensors", model)
        if kind == "python":
            (folder / f"{number}.py").write_text(text)
            text = f"{sys.executable} -W ignore {number}.py\n"
        lines.append(text)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    script = "\n".join([*lines, stop])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_becomes_one_table(folder):
    run("a folder of images to one table", folder, model="segmenter.onnx")
    counts = pd.read_csv(folder / "counts.csv", index_col="file_name")
    assert set(counts.index) <= {"a.png", "b.png", "c.png"} and counts.to_numpy().sum() > 0


@pytest.mark.skipif(not shutil.which("curl"), reason="the recipe waits with curl")
def test_the_service_answers_for_every_image(folder):
    run("a service", folder, model="segmenter.onnx", stop="kill %1; wait %1 || true")
    assert set(pd.read_csv(folder / "answers.csv")["file"]) == {"a.png", "b.png", "c.png"}


def test_a_video_is_drawn_and_tabulated(folder):
    run("a video", folder)
    video = cv2.VideoCapture(str(folder / "labelled.avi"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert set(pd.read_parquet(folder / "film.parquet")["frame"]) <= {0, 1, 2}
