"""Measures of many outlines at once equal those of one after the other."""

import time

import numpy as np
import pytest

from mtseg.core.masks import rle
from mtseg.data.polygons import enclosed, measure, rectangle

SQUARE, TRIANGLE = [2.0, 3, 12, 3, 12, 13, 2, 13], [0.0, 0, 8, 0, 0, 6]


def test_measures_of_polygons_and_rles():
    mask = rle([SQUARE], 20, 20)
    two, run, one = measure([[SQUARE, TRIANGLE], mask, [TRIANGLE]])
    assert two.extent == (0, 0, 12, 13) and list(two.areas) == [100, 24] and two.area == 124
    assert two.perimeter == pytest.approx(40 + 24)
    assert run.extent == (2, 3, 10, 10) and not run.rounded
    assert one.extent == (0, 0, 8, 6) and one.area == 24 and one.perimeter == pytest.approx(24)
    assert one.leaves(5, 8) and not one.leaves(6, 8)


def test_coordinates_are_rounded_as_python_rounds_them():
    rng = np.random.default_rng(0)
    ties = (rng.integers(-(10**6), 10**6, 3000) + 0.5) / 100  # NumPy's own rounding is off in 42 % of these
    for values in (ties, rng.uniform(-1e6, 1e6, 3000)):
        (found,) = measure([[values.tolist()]])
        assert found.rounded[0].tolist() == [round(value, 2) for value in values.tolist()]


def test_polygons_inside_another_one_are_found_among_thousands():
    def box(left, top, side):
        return rectangle(left, top, left + side, top + side).ravel().tolist()

    triangle = [20.0, 20.0, 60.0, 20.0, 20.0, 60.0]
    outer = [box(0, 0, 10), triangle]
    inner = [box(0, 2, 3), box(2, 2, 3), box(25, 25, 5), box(50, 50, 5), box(0, 0, 10)]
    assert enclosed([*outer, *inner]) == [False, False, True, True, True, False, False]
    start = time.monotonic()
    assert not any(enclosed([box(5 * place, 0, 3) for place in range(3000)])) and time.monotonic() - start < 10
