"""Two revisions are compared on one page, with intervals and images, and notes on what cannot be compared."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtseg.core.errors import UserError
from mtseg.core.files import write_json, write_table
from mtseg.evaluation.ap import classes, pairs, scores
from mtseg.report import compare, data_changes
from mtseg.report.compare import Side, common
from mtseg.report.history import Revision
from stages.compare import main
from tests.reports import EVIL, evaluated, evil_tasks, make_images, predicted
from tests.repository import call, commit, dvc
from tests.scenes import images_of, make_tasks, predict_all

ROOT = Path(__file__).parents[2]
PARAMS = {"test": {"ranking": "product_quality", "max_dets": [1, 10, 100]}, "solver": {"max_iter": 9}}
METRICS = {"evaluate": {"segm": {"AP": 50.0}, "tasks": {}}, "filter": {"removed": {"small": 3}}}


def revision(root=".", name="one", **changes) -> Revision:
    return Revision(name, "1" * 40, PARAMS | {"data": {"raw": str(root)}} | changes, METRICS, {})


def side(tmp_path, images, rows, tasks, name="one") -> Side:
    evaluation = evaluated(images, rows, tasks)
    return Side(revision(tmp_path, name), evaluation, evaluation)


def pair(tmp_path, tasks, name="two") -> tuple[Side, Side]:
    """One side with every kind of error, and one with perfect predictions."""
    images = make_images(tmp_path, tasks)
    found, truth = predicted(images, tasks), predict_all(images, tasks)
    return side(tmp_path, images, found, tasks), side(tmp_path, images, truth, tasks, name)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_change_is_that_of_the_metrics_and_its_interval_is_of_the_same_draws(tmp_path, count):
    tasks = make_tasks(count)
    a, b = pair(tmp_path, tasks)
    rows, of_class, _ = compare.paired(a, b)
    values = {row["metric"]: row for row in rows}
    metrics = [scores.metrics(side.raw) for side in (a, b)]
    for key in ("segm", "joint"):
        row = values[f"{key}.AP"]
        assert [row["a"], row["b"]] == pytest.approx([metrics[0][key]["AP"], 100], abs=1e-3)
        assert row["delta"] == pytest.approx(row["b"] - row["a"], abs=1e-3)
        assert 0 < row["low"] <= row["delta"] <= row["high"] <= 100
    assert values["filtered.joint_f1"]["b"] == 100
    expected = {(row["task"], row["class"]): row["AP"] for row in classes.table(a.raw) if row["AP"] is not None}
    assert {key: row["a"] for key, row in of_class.items()} == pytest.approx(expected, abs=1e-3)
    same, _, errors = compare.paired(a, a)
    assert errors and not any(row["delta"] for row in errors)
    assert all(row["delta"] == row["low"] == row["high"] == 0 for row in same), "the same draws serve both"


def test_the_images_that_changed_most_come_first_and_in_the_right_list(tmp_path):
    a, b = pair(tmp_path, make_tasks(3))
    better, worse = compare.changed(a, b)
    assert better and not worse
    assert compare.changed(b, a) == (
        [],
        [row | {"a": row["b"], "b": row["a"], "delta": -row["delta"]} for row in better],
    )
    assert [row["delta"] for row in better] == sorted((row["delta"] for row in better), reverse=True)
    assert compare.changed(a, a) == ([], [])
    assert 1 not in {row["id"] for row in better}, "it has no objects, and neither predicts any"


def test_the_page_shows_it_all_escaped(tmp_path):
    a, b = pair(tmp_path, evil_tasks(3), name=EVIL)
    b = replace(b, revision=revision(tmp_path, EVIL, solver={"max_iter": 7}, other=EVIL))
    assert compare.write(tmp_path / "compare", a, b) == []
    html = (tmp_path / "compare/index.html").read_text()
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "solver.max_iter" in html and "<b>&<!--" not in html
    shown = re.findall(r'<img src="([^"]+)"', html)
    assert {path.name for path in (tmp_path / "compare").iterdir()} == {"index.html", *shown}
    assert 0 < len(shown) <= 3 * 2 * compare.SHOWN and all(shown.count(name) == 3 for name in shown)
    assert re.search(r">NA \d+ %<", html), "labels are written with their scores"
    first = {path.name: path.read_bytes() for path in (tmp_path / "compare").iterdir()}
    compare.write(tmp_path / "compare", a, b)
    assert {path.name: path.read_bytes() for path in (tmp_path / "compare").iterdir()} == first


def test_other_images_are_left_out_and_ids_and_order_may_differ(tmp_path):
    tasks = make_tasks(2)
    a, b = pair(tmp_path, tasks)
    theirs = [replace(image, id=100 - image.id) for image in b.raw.images[:-2]]  # in reverse order
    theirs[3] = replace(theirs[3], instances=theirs[3].instances[1:])  # other annotations
    notes = []
    images = images_of(theirs, tasks)
    one, other = common(a, side(tmp_path, images, predict_all(images, tasks), tasks), notes)
    assert one.raw.images.id.tolist() == other.raw.images.id.tolist() == [1, 2, 3, 5, 6, 7]
    assert {*other.raw.predictions.image_id.tolist()} <= {1, 2, 3, 5, 6, 7}
    assert len(notes) == 1 and "9 and 7 images, of which 6 are in both" in notes[0]
    rows, *_ = compare.paired(one, other)
    assert next(row for row in rows if row["metric"] == "segm.AP")["b"] == 100
    for own in (one.raw, other.raw):
        anew = pairs.of_masks(own.images, own.predictions)
        assert {*zip(*map(np.ndarray.tolist, (own.pairs.prediction, own.pairs.instance)), strict=True)} == {
            *zip(*map(np.ndarray.tolist, (anew.prediction, anew.instance)), strict=True)
        }
    assert common(a, side(tmp_path, images_of([], tasks), [], tasks), notes) is None and "no image" in notes[-1]


def test_other_tasks_are_left_out_and_another_main_task_compares_nothing(tmp_path):
    tasks = make_tasks(3)
    a, b = pair(tmp_path, tasks)
    fewer = make_tasks(2)
    images = images_of(list(b.raw.images), fewer)
    notes = []
    one, other = common(a, side(tmp_path, images, predict_all(images, fewer), fewer), notes)
    assert one.raw.tasks == other.raw.tasks == tasks[:2] and "those that both have: shape, colour" in notes[0]
    assert {*one.raw.predictions.labels} == {"shape", "colour"}
    compare.paired(one, other)
    renamed = (tasks[0].model_copy(update={"classes": ("circle", "square", "moon")}), *tasks[1:])
    images = images_of(list(b.raw.images), renamed)
    assert common(a, side(tmp_path, images, [], renamed), notes) is None
    assert "main task" in notes[-1]
    images = images_of(list(b.raw.images), tasks[1:])
    assert common(a, side(tmp_path, images, [], tasks[1:]), notes) is None


def test_metrics_of_either_are_listed_and_what_one_lacks_has_no_change():
    a, b = revision(), replace(revision(), metrics=METRICS | {"evaluate": {"segm": {"AP": 60.0, "APs": 1.0}}})
    rows = {row["metric"]: row for row in compare.metric_rows(a, b)}
    assert rows["segm.AP"]["delta"] == 10
    assert rows["segm.APs"]["delta"] is None and rows["segm.APs"]["b"] == 1


def test_images_come_from_where_either_side_has_them_and_else_there_is_a_note(tmp_path):
    a, b = pair(tmp_path, make_tasks(2))
    moved = revision(tmp_path / "elsewhere")
    assert compare.write(tmp_path / "compare", a, replace(b, revision=moved)) == []
    notes = compare.write(tmp_path / "compare", replace(a, revision=moved), replace(b, revision=moved))
    assert notes and all("not shown" in note and "elsewhere" in note for note in notes)
    assert [path.name for path in (tmp_path / "compare").iterdir()] == ["index.html"]


@pytest.mark.parametrize("count", [1, 3])
def test_what_errors_cost_is_listed_for_both(tmp_path, count):
    a, b = pair(tmp_path, make_tasks(count))
    *_, rows = compare.paired(a, b)
    of = list(dict.fromkeys(row["of"] for row in rows))
    assert of == [*(task.name for task in a.raw.tasks), *(["all labels", "joint AP"] if count > 1 else [])]
    cost = [row for row in rows if row["of"] == "joint AP"]
    assert [row["kind"] for row in cost] == [f"labels of {task.name}" for task in a.raw.tasks if count > 1]
    assert count == 1 or max(row["a"] for row in cost) > 0 and not any(row["b"] for row in cost)
    missed = next(row for row in rows if row["kind"] == "missed")
    assert missed["a"] > missed["b"] == 0 and missed["delta"] == -missed["a"]


def test_one_image_has_changes_without_an_interval(tmp_path):
    tasks = make_tasks(2)
    images = make_images(tmp_path, tasks)
    rows = [[row for row in own if row.image_id == 2] for own in (predicted(images, tasks), predict_all(images, tasks))]
    a, b = (side(tmp_path, images[1:2], own, tasks) for own in rows)
    compare.write(tmp_path / "compare", a, b)
    assert "nan" not in (tmp_path / "compare/index.html").read_text().partition("<script>")[0].lower()


def test_the_test_split_is_compared_where_both_have_one(tmp_path):
    tasks = make_tasks(2)
    a, b = pair(tmp_path, tasks)
    scored = [scores.metrics(side.raw) for side in (a, b)]
    metrics = [METRICS | {"evaluate": METRICS["evaluate"] | {"tasks": {}}, "test": own} for own in scored]
    with_test = [
        replace(
            side,
            revision=replace(side.revision, metrics=own),
            test=replace(side, revision=replace(side.revision, metrics=own)),
        )
        for side, own in zip((a, b), metrics, strict=True)
    ]

    def section(*sides) -> str:
        compare.write(tmp_path / "compare", *sides)
        _, found, rest = (tmp_path / "compare/index.html").read_text().partition('<section id="test">')
        return rest.partition("</section>")[0]

    found = section(*with_test)
    assert f"{len(a.raw.images)} images of test" in found and 'class="better"' in found
    assert all(f'<th scope="row">{task.name}</th>' in found for task in tasks)
    assert section(a, b) == section(with_test[0], b) == ""
    rows = {
        row["metric"]: row for row in compare.metric_rows(a.revision, with_test[1].revision) if row["file"] == "test"
    }
    assert rows["segm.AP"]["a"] is None and rows["segm.AP"]["b"] == 100


def write_results(folder, evaluation):
    """The files of a pipeline run that are compared."""
    for part in ("data/coco", "data/predictions", "data/evaluation", "data/filtered", "metrics", "plots"):
        (folder / part).mkdir(parents=True)
    evaluation.images.write(folder / "data/coco/val.parquet")
    for part in ("predictions", "filtered"):
        evaluation.predictions.write(folder / f"data/{part}/val.parquet", evaluation.tasks)
    for part in ("evaluation", "filtered"):
        evaluation.pairs.write(folder / f"data/{part}/pairs.parquet", evaluation.images, evaluation.predictions)
    write_table(folder / "plots/classes.csv", classes.table(evaluation))
    write_json(folder / "metrics/evaluate.json", scores.metrics(evaluation))
    write_json(folder / "metrics/filter.json", {})


def write_test_results(folder, evaluation):
    """The same of a test split."""
    (folder / "data/test").mkdir()
    evaluation.images.write(folder / "data/coco/test.parquet")
    for name, overlaps in (("predictions/test", "test/pairs"), ("test/filtered", "test/filtered_pairs")):
        evaluation.predictions.write(folder / f"data/{name}.parquet", evaluation.tasks)
        evaluation.pairs.write(folder / f"data/{overlaps}.parquet", evaluation.images, evaluation.predictions)
    write_json(folder / "metrics/test.json", scores.metrics(evaluation))


@pytest.mark.parametrize(
    "params",
    ["test:\ndata:\n", "test: []\ndata: raw\n", "test: {ranking: old, max_dets: many}\ndata: {raw: 3}\n", "{}"],
)
def test_params_of_other_versions_fall_back_to_the_defaults(tmp_path, monkeypatch, params):
    tasks = make_tasks(2)
    images = make_images(tmp_path / "raw", tasks)
    write_results(tmp_path / "run", evaluated(images, predicted(images, tasks), tasks))
    (tmp_path / "run/params.yaml").write_text(params)
    monkeypatch.chdir(tmp_path / "run")
    loaded = compare.load("workspace", tmp_path)
    assert loaded.lacks is None and loaded.raw.ranking == "product_quality" and loaded.raw.max_dets == (100,)
    assert isinstance(loaded.root, Path)


def test_the_predictions_on_test_are_loaded_if_there_are_scores_of_them(tmp_path, monkeypatch):
    tasks = make_tasks(2)
    images = make_images(tmp_path / "raw", tasks)
    evaluation = evaluated(images, predicted(images, tasks), tasks)
    write_results(tmp_path / "run", evaluation)
    (tmp_path / "run/params.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path / "run")
    write_json("metrics/test.json", {})
    assert compare.load("workspace", tmp_path).test is None
    write_test_results(tmp_path / "run", evaluation)
    loaded = compare.load("workspace", tmp_path).test
    assert loaded.lacks is None
    assert loaded.raw.predictions.rle.tolist() == evaluation.predictions.rle.tolist()
    Path("data/predictions/test.parquet").unlink()
    loaded = compare.load("workspace", tmp_path)
    assert loaded.lacks is None and "data/predictions/test.parquet is missing" in loaded.test.lacks


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A repository with a commit and an experiment `better`; DVC caches their predictions."""
    repo = tmp_path_factory.mktemp("compared")
    tasks = make_tasks(2)
    images = make_images(repo / "raw", tasks)
    good, bad = predict_all(images, tasks), predicted(images, tasks)
    for name, rows in (("good", good), ("bad", bad)):
        write_results(repo / "made" / name, evaluated(images, rows, tasks))
    for name in ("params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, repo)
    params = (repo / "params.yaml").read_text().replace("data/raw/shapes", "raw")
    (repo / "params.yaml").write_text(params)
    (repo / "dvc.yaml").write_text(
        "stages: {all: {cmd: 'grep -q \"seed: 1 \" params.yaml && cp -r made/good/* . || cp -r made/bad/* .', "
        "params: [seed], outs: [data/coco, data/predictions, data/evaluation, data/filtered], "
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


@pytest.fixture
def run(repo, monkeypatch, capsys):
    """A function that runs the command on two revisions and returns its output."""

    def command(*revisions: str, folder: Path = repo) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["compare", *revisions])
        capsys.readouterr()
        main()
        return capsys.readouterr().out

    return command


@pytest.mark.slow
def test_a_commit_an_experiment_and_the_workspace_are_compared(repo, run):
    assert run("HEAD", "better") == "open compare/index.html\n"
    html = (repo / "compare/index.html").read_text()
    assert '<code>seed</code></th><td class="text">0</td><td class="text">1</td>' in html
    assert "Better in B" in html and "better, joint F1 100.0" in html
    assert run("workspace", "HEAD") == "open compare/index.html\n"
    html = (repo / "compare/index.html").read_text()
    assert "No param differs" in html and "<figure" not in html
    assert "compare/" not in call(repo, "git", "status", "--porcelain")


@pytest.mark.slow
def test_what_the_cache_lost_is_one_line_with_what_to_run_and_the_metrics_are_still_compared(repo, run):
    hidden = repo / ".dvc/cache"
    hidden.rename(repo / ".dvc/gone")
    try:
        output = run("better")
    finally:
        (repo / ".dvc/gone").rename(hidden)
    assert re.search(r"^note: better: data/coco/val.parquet is not in DVC's cache: .*`dvc repro`.*\nopen", output)
    html = (repo / "compare/index.html").read_text()
    assert "not in DVC&#39;s cache" in html and "segm.AP" in html and "<figure" not in html


@pytest.mark.slow
def test_a_fresh_clone_has_no_cache_and_gets_a_note(repo, run, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    call(repo, "git", "clone", "--quiet", str(repo), str(clone))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    output = run(folder=clone)
    assert re.search(r"^note: HEAD: data/coco/val.parquet is not in DVC's cache: .*`dvc repro`", output, re.MULTILINE)
    assert "segm.AP" in (clone / "compare/index.html").read_text()


def test_changed_annotations_are_counted_by_split_and_task(tmp_path, monkeypatch):
    tasks = make_tasks(3)
    images = make_images(tmp_path, tasks)
    records = list(images)
    first, *rest = records[2].instances
    name = tasks[1].name
    other = replace(first, labels=first.labels | {name: (first.labels[name] + 1) % tasks[1].num_classes})
    records[2] = replace(records[2], instances=(other, *rest))
    (change,) = data_changes.annotation_changes(images, images_of(records, tasks))
    assert change == {"what": f"labels of {name}", "changed": 1, "added": 0, "removed": 0}
    one, two = pair(tmp_path, tasks)
    compare.write(tmp_path / "compare", one, two, [{"split": "train"} | change])
    html = (tmp_path / "compare/index.html").read_text()
    assert re.search(rf"train</th><td class=\"text\">labels of {name}</td><td>1</td><td>0</td><td>0</td>", html)
    (tmp_path / "data/coco").mkdir(parents=True)
    images.write(tmp_path / "data/coco/val.parquet")
    monkeypatch.chdir(tmp_path)
    workspace = replace(one.revision, commit=None)
    assert data_changes.rows(workspace, workspace, tmp_path) == []


@pytest.mark.slow
def test_an_unknown_revision_is_an_error(repo, run):
    with pytest.raises(UserError, match="nowhere is not a commit, branch, tag or experiment"):
        run("HEAD", "nowhere")


def test_a_folder_without_results_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="workspace has no params.yaml: run `dvc repro`"):
        compare.load("workspace", tmp_path)


def test_two_runs_that_differ_in_share_alone_say_what_more_images_would_bring(tmp_path):
    leading = [{"metric": "joint.AP", "a": 40.0, "b": 44.0, "delta": 4.0, "low": 1.0, "high": 7.0}]
    data, params = [{"split": "train", "what": "images", "a": 100, "b": 400}], [("data.share", "0.25", "1.0")]
    found = compare.more_images(params, data, leading)
    assert found["images"] == 400 and [row["more"] for row in found["rows"]] == [100, 400]
    assert [found["rows"][1][key] for key in ("low", "gain", "high")] == pytest.approx([0.5, 2.0, 3.5])
    assert found["rows"][0]["gain"] == pytest.approx(2 * np.log2(1.25))
    back = [leading[0] | {"delta": -4.0, "low": -7.0, "high": -1.0}]
    exchanged = compare.more_images(params, [data[0] | {"a": 400, "b": 100}], back)
    assert exchanged["rows"] == [pytest.approx(row) for row in found["rows"]]
    assert compare.more_images([*params, ("seed", "1", "2")], data, leading) == {}
    assert compare.more_images(params, [], leading) == compare.more_images(params, data, []) == {}
    a, b = pair(tmp_path, make_tasks(2))
    b = replace(b, revision=revision(tmp_path, data={"raw": str(tmp_path), "share": 0.5}))
    compare.write(tmp_path / "compare", a, b, [data[0] | {"changed": 0, "added": 300, "removed": 0}])
    assert "Learning curve" in (tmp_path / "compare/index.html").read_text()
