"""benchmarks/scale.py: exponents of known curves, and a run of the stages on a few images."""

import json
import sys

import pytest

from benchmarks import scale
from benchmarks.scale import exponent


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_of_a_power_is_found(power):
    for factor in (1, 3):
        assert exponent({size: factor * size**power for size in (10, 100, 1000)}) == pytest.approx(power)
    assert exponent({10: 7.0, 100: 7.0}) == pytest.approx(0)


def test_a_stage_is_measured_and_plotted(tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures" / "scale.svg"
    monkeypatch.setattr(sys, "argv", ["scale", "--images", "40", "80", "--stages", "convert", "--out", str(out)])
    scale.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["40", "convert"], ["80", "convert"]]
    assert lines[3].startswith("convert: exponents") and b"<svg" in out.read_bytes()


def test_raw_data_have_the_wanted_number_of_objects(tmp_path):
    for objects in (2, 20):
        scale.generate(tmp_path / str(objects), 40, objects)
        raw = json.loads((tmp_path / str(objects) / "annotations.json").read_text())
        assert len(raw["annotations"]) / len(raw["images"]) == pytest.approx(objects, rel=0.2)
