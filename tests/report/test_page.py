"""The page: the right pictures, what it is given and nothing that runs, the same bytes each time."""

import re

import pandas as pd
import PIL.Image
import pytest

from mtseg.errors import UserError
from mtseg.report import draw, page
from mtseg.scoring import f1
from mtseg.scoring.scores import evaluate, write_classes
from mtseg.sections import Visualise
from tests.scenes import SIZE, make_tasks, predict_all, scene

SETTINGS = Visualise(pictures=2, min_score=0.3, size=96)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "raw").mkdir()
    for number in range(1, 10):
        PIL.Image.new("RGB", (SIZE, SIZE), (9 * number, 90, 90)).save(tmp_path / "raw" / f"{number}.jpg")
    return tmp_path / "raw"


def write(root, tasks, *, pictures=9, folder="report", curves=True):
    """A report on ground truth as predictions, of which each picture has lost some."""
    images = scene(tasks, pictures=pictures)
    truth = predict_all(images, tasks)
    found = [p for p in truth if p.query >= p.image_id % 4]
    metrics, classes = evaluate(images, found, tasks=tasks, ranking="product_quality", max_dets=(1, 10))
    write_classes(root / "classes.csv", classes)
    numbers = {
        "evaluate": metrics,
        "filter": f1.compare(images, found, found, tasks=tasks, ranking="sum") | {"removed": {"low_score": 3}},
        "classes": page._table(root / "classes.csv", made_by="evaluate"),
    }
    if curves:
        numbers["train"] = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "loss_mask": [1.0, 0.0], "lr": [1e-3, 0]})
        numbers["val"] = pd.DataFrame({"step": [2], "segm_AP": [30.0]})
    options = {"tasks": tasks, "ranking": "product_quality", "root": root, "settings": SETTINGS, "numbers": numbers}
    page.write(root.parent / folder, images, found, found, **options)
    return root.parent / folder


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_page_shows_the_numbers_and_the_pictures_it_chose(root, count):
    tasks = make_tasks(count)
    folder = write(root, tasks)
    html = (folder / "index.html").read_text()
    shown = re.findall(r'<img src="([^"]+)"', html)
    assert len(shown) == len(set(shown)) == 6
    assert {path.name for path in folder.iterdir()} == {"index.html", *shown}
    for task in tasks:
        assert all(f">{name}</th>" in html for name in task.classes)
        assert f"{task.name} accuracy" in html
    assert "Worst pictures" in html and "Best pictures" in html and "<svg" in html
    with PIL.Image.open(folder / shown[0]) as sheet:
        assert sheet.width == 3 * SETTINGS.size + 2 * draw.GAP


def test_the_same_input_gives_the_same_bytes_and_replaces_the_old(root):
    first = {path.name: path.read_bytes() for path in write(root, make_tasks(3)).iterdir()}
    (root.parent / "report" / "stale.jpg").write_text("old")
    assert {path.name: path.read_bytes() for path in write(root, make_tasks(3)).iterdir()} == first


def test_names_are_text_and_never_markup(root):
    evil = "<script>alert(1)</script>"
    tasks = make_tasks(2)
    tasks = (tasks[0].model_copy(update={"classes": (evil, "none", "NA")}), tasks[1])
    html = (write(root, tasks) / "index.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert ">none</th>" in html and ">NA</th>" in html


def test_a_picture_that_cannot_be_read_is_named_and_leaves_the_old_report(root):
    folder = write(root, make_tasks(1))
    before = sorted(folder.iterdir())
    for path in root.glob("*.jpg"):
        path.write_text("broken")
    with pytest.raises(UserError, match=r"raw/\d.jpg: the picture does not decode"):
        write(root, make_tasks(1))
    assert sorted(folder.iterdir()) == before
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_without_curves_or_anything_to_show(root):
    folder = write(root, make_tasks(1), pictures=1, curves=False)
    html = (folder / "index.html").read_text()
    assert [path.name for path in folder.iterdir()] == ["index.html"], "an empty picture, rightly left empty"
    assert "<svg" not in html and "NaN" not in html and "nan" not in html


def test_worst_median_and_best_by_score_then_id_and_none_twice():
    scores = {9: 100, 8: 100, 7: 50, 6: 50, 5: 50, 4: 0, 3: 100, 2: 20, 1: 60}
    assert page.choose(scores, 2) == {"worst": [4, 2], "median": [1, 5], "best": [3, 8]}
    assert page.choose(scores, 1) == {"worst": [4], "median": [5], "best": [3]}
    assert page.choose({1: 10, 2: 5}, 4) == {"worst": [2, 1], "median": [], "best": []}
    assert page.choose({}, 4) == {"worst": [], "median": [], "best": []}
