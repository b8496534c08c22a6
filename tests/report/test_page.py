"""The page: its content, escaped and reproducible. Its controls are tested in test_browser.py."""

import json
import re

import PIL.Image
import pytest

from mtseg.core.errors import UserError
from mtseg.core.files import write_json
from mtseg.report import html, page
from mtseg.report.history import Baseline
from tests import reports
from tests.reports import EVIL, EVIL_FILE, SETTINGS, evil_tasks, make_report
from tests.scenes import make_tasks


def shown(folder) -> list[dict]:
    text = (folder / "index.html").read_text()
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', text, re.DOTALL)[1])["images"]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_page_shows_the_numbers_and_the_images_it_chose(tmp_path, count):
    tasks = make_tasks(count)
    folder = make_report(tmp_path, tasks, settings=SETTINGS.model_copy(update={"pictures": 6}))
    text = (folder / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', text))
    assert {path.name for path in folder.iterdir()} == {"index.html", *named}
    assert len(shown(folder)) == 6 and "6 of 9 images" in text
    for task in tasks:
        assert all(f">{name}</th>" in text for name in task.classes)
        assert f"{task.name} accuracy" in text
    for entry in shown(folder):
        with PIL.Image.open(folder / f"{entry['id']}.jpg") as thumbnail:
            assert max(thumbnail.size) <= SETTINGS.size == max(entry["width"], entry["height"])


def test_the_same_input_gives_the_same_bytes_and_replaces_the_old(tmp_path):
    first = {path.name: path.read_bytes() for path in make_report(tmp_path, make_tasks(3)).iterdir()}
    (tmp_path / "report" / "stale.jpg").write_text("old")
    assert {path.name: path.read_bytes() for path in make_report(tmp_path, make_tasks(3)).iterdir()} == first


def test_it_needs_nothing_from_elsewhere(tmp_path):
    text = (make_report(tmp_path, make_tasks(1), drawn=True) / "index.html").read_text()
    outside = {url for url in re.findall(r"https?://[^\s\"'<)]+", text)}
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "https://www.w3.org/1999/xlink"}
    assert str(tmp_path) not in text
    assert not re.search(r"<link|@import|<script [^>]*src", text)


def test_names_are_text_and_never_markup(tmp_path):
    folder = make_report(tmp_path, evil_tasks(2), drawn=True)
    text = (folder / "index.html").read_text()
    assert EVIL not in text and "<img src=x" not in text
    assert text.count("<script") == text.count("</script>") == 2, "the data and the script"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert ">none</th>" in text and ">NA</th>" in text
    assert EVIL_FILE in {entry["name"] for entry in shown(folder)}


def test_the_diagnosis_says_what_would_raise_ap_and_what_it_looked_at(tmp_path):
    text = (make_report(tmp_path, make_tasks(1)) / "index.html").read_text()
    rows = re.search(r"What would raise AP.*?</table>", text, re.DOTALL)[0]
    assert re.findall(r'row">(\w+)</th><td>(.*?)</td>', rows) == [
        ("more", "+20.0"), ("finer", "+5.0"), ("steps", "?")
    ]  # fmt: skip
    assert "Joint AP is 50.0" in text and "IoU ≥ 0.5: 25.0 % are" in text, "what missed means, and how many are"
    assert "Looked at: masks. Not visible here: the rest." in text


def test_no_issues_are_found_only_beside_the_number_of_annotations_to_check(tmp_path, monkeypatch):
    def section():
        text = (make_report(tmp_path, make_tasks(1)) / "index.html").read_text()
        return re.search(r'id="diagnosis">.*?</section>', text, re.DOTALL)[0]

    assert "#suspects" not in section(), "an error is reported"
    monkeypatch.setattr(reports, "DIAGNOSIS", reports.DIAGNOSIS | {"findings": [], "verdict": "No issues found."})
    found = section()
    assert "No issues found." in found and re.search(r"contradicts [1-9]\d* annotation", found)
    assert 'href="#suspects">annotations to check' in found


def test_params_and_scores_are_compared_with_the_last_commit(tmp_path):
    def report(lr, **options):
        before = Baseline(
            commit="1234567890abcdef",
            params={"solver": {"max_iter": 9, "lr": lr}},
            metrics={
                "evaluate": {"segm": {"AP": 49.0}, "joint": {"AP": 0.0}},
                "filter": {"filtered": {"joint_f1": 60.0}},
            },
        )
        return (make_report(tmp_path, make_tasks(2), baseline=before, **options) / "index.html").read_text()

    text = report(1)
    assert "1 param differs" in text and "solver.lr" in text and "solver.max_iter" not in text
    assert "<dd>1234567890</dd>" in text
    assert ">+1.0</i>" in text and ">0.0</i>" in text
    assert 'class="better"' in text, "joint AP of 0 is outside the interval"
    assert "No param differs" in report(1, params={"solver": {"max_iter": 9, "lr": 1}})
    assert "<details open>" in report(1) and "<details open>" not in report({str(place): 1 for place in range(13)})
    assert "nothing before" in (make_report(tmp_path, make_tasks(2)) / "index.html").read_text()


def test_scores_without_an_interval_are_shown_without_one(tmp_path):
    nothing = {"low": float("nan"), "high": float("nan")}
    card = page._card("AP", "segm.AP", "", {"segm.AP": 50.0}, {"segm.AP": 40.0}, nothing)
    assert (card["low"], card["high"], card["delta"], card["sign"]) == (None, None, 10.0, "")


def test_picked_thresholds_are_listed(tmp_path):
    limits = {"picked": {"min_score": {"shape": 0.3}, "min_logit": {}}}
    auto = {"filter": {"thresholds": "auto"}}
    assert page.picked(limits, auto) == ["min_score of shape 0.3"]
    assert page.picked({}, auto) == [] and page.picked({}, {"filter": {"thresholds": "given"}}) is None
    assert "none improved" in (make_report(tmp_path, make_tasks(1), params=auto) / "index.html").read_text()


def test_differing_params_are_listed_by_key():
    here = {"a": {"b": 1, "c": [1, 2]}, "tasks": [{"name": "x", "w": 1.0}, {"name": "y", "w": None}]}
    old = {"a": {"b": 2, "c": [1, 2]}, "tasks": [{"name": "x", "w": True}], "d": []}
    assert page.changes(here, old) == [
        ("a.b", "1", "2"),
        ("d", "–", "[]"),
        ("tasks.y.name", "y", "–"),
        ("tasks.y.w", "null", "–"),
    ]


def test_numbers_as_they_are_shown():
    assert [html.number(value) for value in (1.25, None, float("nan"), 100)] == ["1.2", "–", "–", "100.0"]
    assert [html.delta(value) for value in (0.04, -0.04, 1.5, -1.5, None)] == ["0.0", "0.0", "+1.5", "−1.5", ""]
    assert json.loads(html.data(["</script>", "<!--", "'&"])) == ["</script>", "<!--", "'&"]
    assert [html.decimals(*values) for values in ((0.5, -3.0), (0.0, 0.31), (0.04, 2.0), (-0.002,))] == [1, 1, 2, 3]
    names = ("segm.AP", "tasks.my_task.accuracy", "filtered.joint_f1", "joint_AP", "bbox.AP50")
    assert [html.metric(name) for name in names] == ["mask AP", "my task accuracy", "joint F1", "joint AP", "box AP50"]


def test_a_coloured_difference_never_reads_as_zero():
    parts = html._environment().get_template("parts.html").module
    assert '"better">+0.030</td>' in parts.shift(0.03, 0.004, 0.3)
    assert ">+0.004 to +0.300</td>" in parts.span(0.004, 0.3)
    assert ">+0.1</td>" in parts.shift(0.12, -0.004, 0.3) and ">0.0 to +0.3</td>" in parts.span(-0.004, 0.3)


def test_an_image_that_cannot_be_read_is_named_and_leaves_the_old_report(tmp_path, monkeypatch):
    folder = make_report(tmp_path, make_tasks(1))
    before = sorted(folder.iterdir())
    monkeypatch.setattr(PIL.Image.Image, "save", lambda self, path, **_: path.write_text("broken"))
    with pytest.raises(UserError, match=r"raw/.*.jpg: the image does not decode"):
        make_report(tmp_path, make_tasks(1))
    assert sorted(folder.iterdir()) == before
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_without_figures_or_anything_to_show(tmp_path):
    folder = make_report(tmp_path, make_tasks(1), count=1)
    text = (folder / "index.html").read_text()
    assert [path.name for path in sorted(folder.iterdir())] == ["1.jpg", "index.html"]
    text = text.partition("<script>")[0]
    assert "as a table" not in text and "NaN" not in text and ">nan" not in text


def test_the_main_task_comes_first_whatever_its_name(tmp_path):
    tasks = {"b": {"classes": []}, "a": {"classes": []}}
    write_json(tmp_path / "analysis.json", {"tasks": tasks})  # which sorts them
    write_json(tmp_path / "manifest.json", {"tasks": [{"name": name} for name in tasks]})
    files = {name: (str(tmp_path / f"{name}.json"), "evaluate", ("tasks",)) for name in ("analysis", "manifest")}
    numbers = page.read_numbers(files, {"train": (str(tmp_path / "train.tsv"), "train", ("step",))})
    assert list(numbers["analysis"]["tasks"]) == ["b", "a"] and "train" not in numbers
    write_json(tmp_path / "analysis.json", {"tasks": {"c": {}}})
    with pytest.raises(UserError, match="analysis.json was made for other tasks: run `dvc repro evaluate` again"):
        page.read_numbers(files, {})


def test_the_rules_that_removed_are_read_in_order(tmp_path):
    (tmp_path / "val.csv").write_text("prediction,rule\n0,\n1,low_score\n2,\n")
    assert [*page.read_removed(tmp_path / "val.csv", 3)] == ["", "low_score", ""]
    (tmp_path / "none.csv").write_text("prediction,rule\n0,\n1,\n")
    assert [*page.read_removed(tmp_path / "none.csv", 2)] == ["", ""]
    with pytest.raises(UserError, match="has 3 rows for 4 predictions: run `dvc repro filter` again"):
        page.read_removed(tmp_path / "val.csv", 4)
    with pytest.raises(UserError, match="run `dvc repro filter` first"):
        page.read_removed(tmp_path / "other.csv", 3)
