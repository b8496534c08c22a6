"""docs/memory.md: its estimates follow from its measurements and are called estimates."""

import re
from pathlib import Path

import pytest

from benchmarks.memory import BUDGETS, NETWORKS, RESERVE, fitting

PAGE = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
MEASURED = {
    (name, int(side), int(images), int(objects), recompute): (int(peak), int(stays))
    for name, side, images, objects, recompute, peak, stays in re.findall(
        r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\w+) \| (\d+) \| (\d+) \| \d+ \|$", PAGE, re.M
    )
}
ESTIMATED = re.findall(r"^\| (\w+) \| (\d+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.M)


def test_both_tables_are_there_and_the_second_is_called_an_estimate():
    assert len(MEASURED) >= 8 and len(ESTIMATED) >= 4
    assert {name for name, *_ in MEASURED} == NETWORKS.keys()
    assert "## Estimate" in PAGE and "not measured on a GPU" in PAGE and f"{RESERVE:g} GiB" in PAGE


@pytest.mark.parametrize("row", ESTIMATED, ids=" ".join)
def test_every_estimate_follows_from_the_largest_measurement_of_one_image(row):
    name, wanted, recompute, *counts = row
    sides = [side for n, side, *rest in MEASURED if (n, *rest) == (name, 1, 8, recompute)]
    peak, stays = (2**20 * value for value in MEASURED[name, max(sides), 1, 8, recompute])
    found = [fitting(peak, stays, side=max(sides), wanted=int(wanted), budget=budget) for budget in BUDGETS]
    assert [str(count) for count in found] == counts


def test_memory_grows_no_faster_than_the_images_and_the_pixels():
    """So estimates for more and larger images with as many objects are upper bounds."""
    one, four, large = (MEASURED["coco_r50", *key, 8, "none"] for key in ((256, 1), (256, 4), (512, 1)))
    each, together, wide = (peak - stays for peak, stays in (one, four, large))
    assert 3 * each < together <= 4 * each
    assert 2 * each < wide <= 4 * each


def test_memory_grows_with_the_objects_as_the_page_says():
    few, many = ({side: MEASURED["coco_r50", side, 1, count, "none"] for side in (256, 512)} for count in (8, 60))
    for side in (256, 512):
        assert 8 <= (many[side][0] - few[side][0]) / (60 - 8) <= 9.2
    (peak, stays), (peak_of_many, _) = few[512], many[512]
    text = " ".join(PAGE.split())
    assert f"{(peak_of_many - stays) / (peak - stays):.1f} times as much at 512" in text and "with 8 objects" in text


def test_less_fits_where_more_is_needed():
    given = {"side": 512, "wanted": 512, "budget": 8}
    few = fitting(2 * 2**30, 2**29, **given)
    assert few == int(6.5 / 1.5)
    assert fitting(2**30, 2**29, **given) > few
    assert fitting(2 * 2**30, 2**29, **given | {"wanted": 1024}) == few // 4
    assert fitting(2 * 2**30, 2**29, **given | {"budget": 1}) == 0
