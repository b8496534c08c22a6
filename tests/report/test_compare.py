"""Two revisions on one page: what differs, how surely, and where; and what cannot be compared is said."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mtseg.core.errors import UserError
from mtseg.data import coco
from mtseg.evaluation import predictions
from mtseg.evaluation.scores import evaluate, write_classes
from mtseg.report import compare, sides
from mtseg.report.sides import Side, common
from tests.reports import EVIL, evil_tasks, make_images, predicted
from tests.repository import call, commit, dvc
from tests.scenes import make_tasks, predict_all

ROOT = Path(__file__).parents[2]
PARAMS = {"test": {"ranking": "product_quality", "max_dets": [1, 10, 100]}, "solver": {"max_iter": 9}}


def held(root=".", **changes) -> dict:
    return {
        "params": PARAMS | {"data": {"raw": str(root)}} | changes,
        "evaluate": {"segm": {"AP": 50.0}, "tasks": {}},
        "filter": {"removed": {"small": 3}},
    }


def pair(tmp_path, tasks, *, of=None) -> tuple[Side, Side]:
    """One side with every kind of mistake; the other finds everything."""
    images = make_images(tmp_path, tasks)
    found = predicted(images, tasks)
    truth = predict_all(images, tasks)
    one = Side("one", "1" * 40, held(tmp_path), None, tasks, tuple(images), tuple(found), tuple(found))
    return one, replace(one, rev=of or "two", raw=tuple(truth), filtered=tuple(truth))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_change_is_that_of_the_metrics_and_its_interval_is_of_the_same_draws(tmp_path, count):
    tasks = make_tasks(count)
    a, b = pair(tmp_path, tasks)
    rows, of_class, _ = compare.paired(a, b)
    values = {row["metric"]: row for row in rows}
    metrics = [
        evaluate(side.images, side.raw, tasks=tasks, ranking="product_quality", max_dets=(1, 10, 100))
        for side in (a, b)
    ]
    for key in ("segm", "joint"):
        row = values[f"{key}.AP"]
        assert [row["a"], row["b"]] == pytest.approx([metrics[0][0][key]["AP"], 100], abs=1e-3)
        assert row["delta"] == pytest.approx(row["b"] - row["a"], abs=1e-3)
        assert 0 < row["low"] <= row["delta"] <= row["high"] <= 100
    assert values["filtered.joint_f1"]["b"] == 100
    expected = {(row["task"], row["class"]): row["AP"] for row in metrics[0][1] if row["AP"] is not None}
    assert {key: row["a"] for key, row in of_class.items()} == pytest.approx(expected, abs=1e-3)
    same, _, errors = compare.paired(a, a)
    assert errors and not any(row["delta"] for row in errors)
    assert all(row["delta"] == row["low"] == row["high"] == 0 for row in same), "the same draws serve both"


def test_the_pictures_that_changed_most_come_first_and_in_the_right_list(tmp_path):
    a, b = pair(tmp_path, make_tasks(3))
    better, worse = compare.changed(a, b)
    assert better and not worse
    assert compare.changed(b, a) == (
        [],
        [row | {"a": row["b"], "b": row["a"], "delta": -row["delta"]} for row in better],
    )
    assert [row["delta"] for row in better] == sorted((row["delta"] for row in better), reverse=True)
    assert compare.changed(a, a) == ([], [])
    assert 1 not in {row["id"] for row in better}, "empty, and rightly left empty by both"


def test_the_page_shows_it_all_escaped(tmp_path):
    tasks = evil_tasks(3)
    a, b = pair(tmp_path, tasks, of=EVIL)
    b = replace(b, held=held(tmp_path, solver={"max_iter": 7}, name=EVIL) | {"classes": None})
    assert compare.write(tmp_path / "compare", a, b) == []
    html = (tmp_path / "compare/index.html").read_text()
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "solver.max_iter" in html and "<b>&<!--" not in html
    shown = re.findall(r'<img src="([^"]+)"', html)
    assert shown and {path.name for path in (tmp_path / "compare").iterdir()} == {"index.html", *shown}
    assert len(shown) == 3 * (len(shown) // 3) <= 3 * 2 * compare.SHOWN
    first = {path.name: path.read_bytes() for path in (tmp_path / "compare").iterdir()}
    compare.write(tmp_path / "compare", a, b)
    assert {path.name: path.read_bytes() for path in (tmp_path / "compare").iterdir()} == first


def test_other_pictures_are_left_out_and_ids_may_differ(tmp_path):
    a, b = pair(tmp_path, make_tasks(2))
    moved = {image.id: image.id + 100 for image in b.images}
    kept = [replace(image, id=moved[image.id]) for image in b.images[:-2]]
    kept[3] = replace(kept[3], instances=kept[3].instances[1:])  # annotated otherwise
    found = tuple(replace(p, image_id=moved[p.image_id]) for p in b.raw)
    notes = []
    one, other = common(a, replace(b, images=tuple(kept), raw=found, filtered=found), notes)
    assert one.images == other.images and {image.id for image in one.images} == {1, 2, 3, 5, 6, 7}
    assert {p.image_id for p in other.raw} <= {1, 2, 3, 5, 6, 7}
    assert len(notes) == 1 and "9 and 7 pictures, of which 6 are in both" in notes[0]
    rows, *_ = compare.paired(one, other)
    assert next(row for row in rows if row["metric"] == "segm.AP")["b"] == 100
    assert common(a, replace(b, images=()), notes) is None and "no picture" in notes[-1]


def test_other_tasks_are_left_out_and_another_main_task_compares_nothing(tmp_path):
    tasks = make_tasks(3)
    a, b = pair(tmp_path, tasks)
    notes = []
    one, other = common(a, replace(b, tasks=tasks[:2]), notes)
    assert one.tasks == other.tasks == tasks[:2] and "those that both have, shape, colour" in notes[0]
    compare.paired(one, other)
    renamed = tasks[0].model_copy(update={"classes": ("circle", "square", "moon")})
    assert common(a, replace(b, tasks=(renamed, *tasks[1:])), notes) is None
    assert "main task" in notes[-1]
    assert common(a, replace(b, tasks=tasks[1:]), notes) is None


def test_metrics_of_either_are_listed_and_what_one_lacks_has_no_change():
    a, b = held(), held()
    b["evaluate"] = {"segm": {"AP": 60.0, "APs": 1.0}, "tasks": {}}
    rows = {row["metric"]: row for row in compare.metric_rows(a, b)}
    assert rows["segm.AP"]["delta"] == 10
    assert rows["segm.APs"]["delta"] is None and rows["segm.APs"]["b"] == 1


def test_pictures_come_from_where_either_side_has_them_and_else_there_is_a_note(tmp_path):
    a, b = pair(tmp_path, make_tasks(2))
    moved = held(tmp_path / "elsewhere")
    assert compare.write(tmp_path / "compare", a, replace(b, held=moved)) == []
    (note,) = compare.write(tmp_path / "compare", replace(a, held=moved), replace(b, held=moved))
    assert "not shown" in note and "elsewhere" in note
    assert [path.name for path in (tmp_path / "compare").iterdir()] == ["index.html"]


@pytest.mark.parametrize("count", [1, 3])
def test_what_errors_cost_is_told_of_both(tmp_path, count):
    a, b = pair(tmp_path, make_tasks(count))
    *_, rows = compare.paired(a, b)
    of = list(dict.fromkeys(row["of"] for row in rows))
    assert of == [*(task.name for task in a.tasks), *(["all labels jointly", "joint AP"] if count > 1 else [])]
    cost = [row for row in rows if row["of"] == "joint AP"]
    assert [row["kind"] for row in cost] == [f"labels of {task.name}" for task in a.tasks if count > 1]
    assert count == 1 or max(row["a"] for row in cost) > 0 and not any(row["b"] for row in cost)
    missed = next(row for row in rows if row["kind"] == "missed")
    assert missed["a"] > missed["b"] == 0 and missed["delta"] == -missed["a"]


def test_one_picture_has_changes_without_an_interval(tmp_path):
    a, b = pair(tmp_path, make_tasks(2))
    a, b = (replace(side, images=side.images[1:2]) for side in (a, b))
    a, b = (replace(side, raw=tuple(p for p in side.raw if p.image_id == 2), filtered=()) for side in (a, b))
    compare.write(tmp_path / "compare", a, b)
    assert "nan" not in (tmp_path / "compare/index.html").read_text().partition("<script>")[0].lower()


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A repository with a commit and an experiment, `better`, whose predictions DVC holds."""
    repo = tmp_path_factory.mktemp("compared")
    tasks = make_tasks(2)
    images = make_images(repo / "raw", tasks)
    good, bad = predict_all(images, tasks), predicted(images, tasks)
    for name, found in (("good", good), ("bad", bad)):
        folder = repo / "made" / name
        for part in ("data/coco", "data/predictions", "data/filtered", "metrics", "plots"):
            (folder / part).mkdir(parents=True)
        coco.write(folder / "data/coco/val.json", images, tasks)
        for part in ("predictions", "filtered"):
            predictions.write(folder / f"data/{part}/val.json", None, found, images, tasks)
        metrics, classes = evaluate(images, found, tasks=tasks, ranking="product_quality", max_dets=(1, 10, 100))
        write_classes(folder / "plots/classes.csv", classes)
        (folder / "metrics/evaluate.json").write_text(json.dumps(metrics))
        (folder / "metrics/filter.json").write_text("{}")
    for name in ("params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, repo)
    params = (repo / "params.yaml").read_text().replace("data/raw/shapes", "raw")
    (repo / "params.yaml").write_text(params)
    (repo / "dvc.yaml").write_text(
        "stages: {all: {cmd: 'grep -q \"seed: 1 \" params.yaml && cp -r made/good/* . || cp -r made/bad/* .', "
        "params: [seed], outs: [data/coco, data/predictions, data/filtered], "
        "metrics: [{metrics/evaluate.json: {cache: false}}, {metrics/filter.json: {cache: false}}], "
        "plots: [{plots/classes.csv: {cache: false}}]}}\n"
    )
    call(repo, "git", "init", "--quiet")
    dvc(repo, "init", "--quiet")
    dvc(repo, "repro", "--quiet")
    commit(repo)
    dvc(repo, "exp", "run", "--quiet", "--name", "better", "-S", "seed=1")
    call(repo, "git", "checkout", "--quiet", ".")
    dvc(repo, "checkout", "--quiet")
    return repo


def run(repo: Path, *revisions: str, fails: bool = False, within: tuple[str, ...] = ()) -> str:
    command = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from stages.compare import main, run_stage; run_stage(main)"
    )
    return call(repo, *within, "python", "-W", "ignore", "-c", command, *revisions, fails=fails)


@pytest.mark.slow
def test_a_commit_an_experiment_and_the_workspace_are_compared(repo):
    assert run(repo, "HEAD", "better") == "open compare/index.html\n"
    html = (repo / "compare/index.html").read_text()
    assert '<code>seed</code></th><td class="text">0</td><td class="text">1</td>' in html
    assert "Better in B" in html and "-b.jpg" in html
    assert run(repo, "workspace", "HEAD") == "open compare/index.html\n"
    html = (repo / "compare/index.html").read_text()
    assert "No param differs" in html and "-b.jpg" not in html
    assert "compare/" not in call(repo, "git", "status", "--porcelain")


@pytest.mark.slow
def test_what_the_cache_lost_is_one_line_that_says_what_to_run_and_the_metrics_are_still_compared(repo):
    hidden = repo / ".dvc/cache"
    hidden.rename(repo / ".dvc/gone")
    try:
        said = run(repo, "better", "workspace")
    finally:
        (repo / ".dvc/gone").rename(hidden)
    assert re.search(r"^note: better: data/coco/val.json is not in DVC's cache: .*`dvc repro`\nopen", said)
    html = (repo / "compare/index.html").read_text()
    assert "not in DVC&#39;s cache" in html and "segm.AP" in html and "-b.jpg" not in html


@pytest.mark.slow
def test_a_fresh_clone_has_no_cache_and_is_told_so(repo, tmp_path):
    clone = tmp_path / "clone"
    call(repo, "git", "clone", "--quiet", str(repo), str(clone))
    said = run(clone, "HEAD", "workspace", within=("env", f"DVC_SITE_CACHE_DIR={tmp_path}/site"))
    assert re.search(r"^note: HEAD: data/coco/val.json is not in DVC's cache: .*`dvc repro`$", said, re.MULTILINE)
    assert "segm.AP" in (clone / "compare/index.html").read_text()


@pytest.mark.slow
def test_an_unknown_revision_is_one_line(repo):
    said = run(repo, "HEAD", "nowhere", fails=True)
    assert said.startswith("error: nowhere: is no commit, branch, tag or experiment") and said.count("\n") == 1


def test_a_folder_without_results_is_told_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="workspace: the files here hold no results: run `dvc repro`"):
        sides.load("workspace", tmp_path)
