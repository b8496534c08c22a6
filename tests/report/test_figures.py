"""The figures are complete, well-formed and reproducible SVGs with text as text, legible for any number of classes."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtseg.evaluation.errors import KINDS
from mtseg.report import breakdowns, figures, learning
from mtseg.report.plotting import canvas, end_labels, short, style, svg
from tests.reports import EVIL, evaluated, evil_tasks, make_images, make_numbers, predicted
from tests.scenes import make_tasks

TRAIN = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "loss_mask": [1.0, 0.0], "lr": [1e-3, 0]})
VAL = pd.DataFrame({"step": [2], "joint_AP": [30.0]})
HEALTH = pd.DataFrame(
    {"step": [1, 2], "background_shape": [0.5, 0.1], "stability": [0.4, 0.9], "gradient_decoder": [9.0, 5.0]}
)


def numbers(folder, tasks, *, count=9, found=True):
    images = make_images(folder, tasks, count)
    evaluation = evaluated(images, predicted(images, tasks) if found else [], tasks)
    return make_numbers(folder, evaluation) | {"train": TRAIN, "val": VAL, "health": HEALTH}


def words(drawn: str) -> list[str]:
    """The texts in an SVG."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("count", [1, 4])
def test_every_figure_is_drawn_well_formed_and_the_same_each_time(tmp_path, count):
    tasks = evil_tasks(count)
    given = numbers(tmp_path, tasks)
    drawn = figures.figures(given)
    assert set(drawn) == {
        *("training", "intervals", "precision_recall", "f1_by_score", "calibration", "errors", "classes", "rankings"),
        *("filter", "images", "health"),
        *(f"{kind}_{task.name}" for kind in ("confusion", "data") for task in tasks),
    }
    page = (Path(figures.__file__).parent / "templates/page.html").read_text(encoding="utf-8")
    assert all(f'"{name}"' in page or f'"{name.partition("_")[0]}_" ~' in page for name in drawn), "a place on the page"
    assert count != 1 or figures.figures(given) == drawn
    for name, text in drawn.items():
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img" and root.get("aria-label") == root[0].text, name
        assert "<style" not in text and "<metadata" not in text and "http" not in text.split(">", 1)[1], name
        assert "currentColor" in text and "#123456" not in text and "DejaVu" not in text, name
        assert "nan" not in text.lower(), name
    ids = [found for text in drawn.values() for found in set(re.findall(r' id="([^"]+)"', text))]
    assert len(ids) == len(set(ids)), "on one page no figure takes another's parts"


def test_names_are_text_and_never_markup_or_mathematics(tmp_path):
    tasks = evil_tasks(2)
    odd = tasks[1].model_copy(update={"classes": ("$x_1$", "a\x00b&")})
    drawn = figures.figures({"analysis": numbers(tmp_path, (tasks[0], odd))["analysis"]})
    assert all("<script" not in text for text in drawn.values())
    assert f"{EVIL[:17]}…" in words(drawn["confusion_shape"]) or short(EVIL, 18) in words(drawn["confusion_shape"])
    assert {"$x_1$", "a b&"} <= set(words(drawn["confusion_colour"]))


def test_only_what_is_there_is_drawn(tmp_path):
    assert figures.figures({}) == {}
    given = numbers(tmp_path, make_tasks(3))
    assert set(figures.figures({"classes": given["classes"]})) == {"classes"}
    assert set(figures.figures({"val": given["val"], "health": given["health"]})) == {"health"}


@pytest.mark.parametrize("count,found", [(1, True), (4, False)])
def test_without_objects_or_predictions_nothing_breaks(tmp_path, count, found):
    drawn = figures.figures(numbers(tmp_path, make_tasks(3), count=count, found=found))
    assert "training" in drawn and "calibration" not in drawn
    assert all("nan" not in text.lower() for text in drawn.values())


def test_one_point_has_axes_that_say_where_it_is():
    with style():
        figure = learning.training(TRAIN.iloc[:1], VAL)
    left, below, right = figure.axes
    assert right.get_xlim() == (0, 2) and right.get_ylim() == (0, 100) and below.get_xlim() == (0, 2)
    low, high = left.get_ylim()
    assert high / low >= 10
    assert all(tick == int(tick) for tick in right.get_xticks())
    assert all(line.get_marker() == "o" for line in right.lines[:1])


@pytest.mark.parametrize("count", [2, 10, 30, 200])
def test_of_many_classes_the_ten_largest_are_named_and_the_rest_is_counted(count):
    names = [f"class {number}" for number in range(count)]
    line = {"precision": [1.0] * 50 + [None] * 51, "f1": [0.5] * 101, "best_f1": 0.5, "best_score": 0.3}
    own = {"classes": names, "curves": dict.fromkeys(names, line), "overall": line, "errors": {"ap50": 50.0}}
    analysis = {"ranking": "product", "tasks": {"many": own}, "scores": np.linspace(0, 1, 101)}
    table = pd.DataFrame({"task": "many", "class": names, "instances": range(count), "AP50": 50.0})
    with style():
        for drawing in (figures.precision_recall, figures.f1_by_score):
            (legend,) = (axes.get_legend() for axes in drawing(analysis, table).axes)
            texts = [text.get_text() for text in legend.get_texts()]
            assert len(texts) <= 12 and texts[-1].startswith("all classes")
            named = {text.split("\u2002")[0] for text in texts if text.startswith("class")}
            assert named == set(names[-10:])
            assert (f"{count - 10} smaller classes" in texts) == (count > 10)


@pytest.mark.parametrize("count", [3, 30, 300])
def test_confusion_shows_counts_in_cells_that_can_be_read(count):
    matrix = np.diag([9] * count + [0])
    matrix[1, 2], matrix[0, -1], matrix[-1, 0] = 4, 5, 6
    own = {"classes": [f"c{n}" for n in range(count)], "confusion": {"min_score": 0.25, "matrix": matrix.tolist()}}
    with style():
        figure = breakdowns.confusion({"ranking": "sum_quality", "tasks": {"one": own}}, "one")
        (axes,) = figure.axes
        texts = [text.get_text() for text in axes.texts]
        assert {"9", "4", "5", "6"} == set(texts) and "0" not in texts
        title = figure.get_suptitle()
        assert "c1 predicted as c2: 4" in title and "sum + log(mask quality) ≥ 0.25" in title
        *_, last = axes.get_yticklabels()
        assert last.get_text() == "(background)" and last.get_style() == "italic"
        assert len(axes.get_yticks()) == min(count + 1, breakdowns.MOST)
        svg(figure, "test", "test")  # laid out
        scale = 72 / figure.dpi
        cell = axes.transData.transform([[0, 0], [1, 0]])[:, 0]
        assert (cell[1] - cell[0]) * scale >= max(text.get_fontsize() for text in axes.texts)


def test_the_title_of_a_small_confusion_is_whole():
    names = ["a class of long name", "another of such name"]
    own = {"classes": names, "confusion": {"min_score": 0.25, "matrix": [[9, 8, 0], [1, 9, 0], [0, 0, 0]]}}
    with style():
        figure = breakdowns.confusion(
            {"ranking": "product_quality", "tasks": {"a task of long name": own}}, "a task of long name"
        )
        svg(figure, "test", "test")  # laid out
        (text,) = figure.texts
        assert text.get_window_extent().x1 <= figure.bbox.x1


def test_an_undefined_cost_is_left_out_and_not_drawn_as_nothing():
    nothing, cost = {"ap50": None, "cost": {}, "counts": {}}, dict.fromkeys(KINDS, 2.0)
    some = {"ap50": 50.0, "cost": cost, "counts": dict.fromkeys(KINDS, 1)}
    joint = {"ap": 40.0, "errors": some, "label_cost": {"one": 3.0, "two": None}}
    analysis = {"tasks": {"one": {"errors": some}, "two": {"errors": nothing}}, "joint": joint}
    with style():
        first, second, last = breakdowns.errors(analysis).axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == [
        "one, AP50 50.0",
        "all labels, AP50 50.0",
    ]
    assert [label.get_text() for label in last.get_yticklabels()] == ["one"]
    assert breakdowns.errors({"tasks": {"two": {"errors": nothing}}}) is None


def test_a_score_without_an_interval_has_a_dot_alone():
    table = pd.DataFrame([{"metric": "segm.AP", "value": 50.0, "low": np.nan, "high": np.nan}])
    with style():
        drawn = svg(figures.intervals(table), "test", "test")
    assert "50.0" in words(drawn) and "nan" not in drawn.lower()


def test_labels_at_the_ends_of_lines_stay_apart_and_near():
    with style():
        axes = canvas(4, 3).subplots()
        axes.set_ylim(0, 100)
        end_labels(axes, [(99, "a", "red"), (99.5, "b", "red"), (98, "c", "red"), (20, "d", "red"), (0, "e", "red")])
        end_labels(axes, [])
    places = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert places["b"] > places["a"] > places["c"] > places["d"] > places["e"]
    gaps = -np.diff([places[name] for name in "bacde"])
    assert gaps.min() > 0.04 and places["d"] == pytest.approx(0.2) and places["b"] <= 1.04
