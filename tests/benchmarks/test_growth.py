"""benchmarks/growth.py: an axis changes one size alone, and its costs are measured, fitted and plotted."""

import json
import sys
from dataclasses import fields

import pytest

from benchmarks import growth


@pytest.mark.parametrize("axis", growth.SIZES)
def test_an_axis_changes_its_size_alone(axis):
    own, tasks = growth.setting(axis, 6)
    changed = {field.name for field in fields(own) if getattr(own, field.name) != getattr(growth.BASE, field.name)}
    expected = {"queries": {"num_queries"}, "tasks": set(), "side": {"height", "width"}}
    assert changed == expected.get(axis, {"instances"}) and tasks == (6 if axis == "tasks" else 1)
    assert len(own.instances) == (6 if axis == "images" else 8)


def test_results_of_other_axes_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "RESULTS", tmp_path / "growth.json")
    monkeypatch.setattr(growth, "PLOT", tmp_path / "growth.svg")
    monkeypatch.setattr(growth, "cost", cost)
    for axis in ("queries", "side"):
        monkeypatch.setattr(sys, "argv", ["growth", axis])
        growth.main()
    found = json.loads(growth.RESULTS.read_text())
    assert [*found] == ["queries", "side"] and found["side"]["s exponent"] == pytest.approx(2)
    assert "exponent 2.00" in capsys.readouterr().out and b"<svg" in growth.PLOT.read_bytes()


def cost(axis, size):
    return float(size**2), 100.0
