"""The data of the benchmark of evaluate can be read by the stage and by pycocotools."""

import json
from pathlib import Path

from benchmarks import evaluate as benchmark
from stages import evaluate


def test_the_drawn_data_are_what_the_stage_takes_and_pycocotools_reads(tmp_path, monkeypatch):
    benchmark.results.write_results(tmp_path / "data/predictions/val.json", *benchmark.draw(tmp_path, 3))
    monkeypatch.chdir(tmp_path)
    benchmark.plain()
    evaluate.main()
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert len(json.loads(Path("data/predictions/val.json").read_text())) == 3 * benchmark.DETECTIONS
    assert 0 < metrics["segm"]["AP"] < 100 and set(metrics["tasks"]) == set(benchmark.CLASSES)
