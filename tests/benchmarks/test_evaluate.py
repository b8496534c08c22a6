"""The benchmark of evaluate measures the whole stage, and pycocotools on files that it can read."""

import json
from pathlib import Path

from benchmarks import evaluate as benchmark
from stages import evaluate


def test_the_drawn_data_are_what_the_stage_takes_and_pycocotools_reads(tmp_path, monkeypatch):
    benchmark.draw(tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    benchmark.plain(tmp_path)
    evaluate.main()
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert len(json.loads(Path("data/predictions/val.json").read_text())) == 3 * benchmark.DETECTIONS
    assert 0 < metrics["segm"]["AP"] < 100 and set(metrics["tasks"]) == set(benchmark.CLASSES)


def test_a_process_and_its_children_are_measured_together(tmp_path):
    grandchild = "import time; kept = bytearray(100_000_000); time.sleep(0.5)"
    (tmp_path / "child.py").write_text(
        f"import subprocess, sys\nkept = bytearray(100_000_000)\n"
        f"subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)\n"
    )
    wall, processor, peak = benchmark.measure("child", folder=tmp_path)
    assert 0.2 < peak < 0.5 and wall > 0.5 and 0 < processor < wall + 1
