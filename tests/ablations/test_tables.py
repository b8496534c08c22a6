"""Tables and plots from rows, and rows from experiments, which are made with git alone."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ablations import experiments, rows, studies, tables
from ablations.page import FIGURES, PAGE, write
from ablations.studies import SCALES, Study, runs
from mtseg.core.errors import UserError
from tests.repository import call, commit

ROOT = Path(__file__).parents[2]
STUDY = Study.model_validate(
    {
        "name": "mine",
        "question": "?",
        "vary": {"kind": {"flat": None, "two_heads": {"loss": {"mask": 1.0}}}, "share": {0.1: None, 1: {"seed": 0}}},
        "seeds": 2,
        "metrics": {"joint AP": "evaluate:joint.AP", "F1": "filter:filtered.f1", "none": "evaluate:no.such"},
        "against": {"kind": "flat"},
        "plot": {"x": "share", "series": "kind", "y": "joint AP"},
    }
)


def row(kind: str, share: str, seed: int, value: float) -> dict[str, str]:
    return {"kind": kind, "share": share, "seed": str(seed), "commit": "abc1234", "joint AP": str(value), "none": ""}


ROWS = [
    row("two_heads", "0.1", 0, 33.0),  # in no order
    *(row("flat", "0.1", seed, value) for seed, value in enumerate((20.0, 40.0))),
    row("two_heads", "0.1", 1, 53.0),
    row("flat", "1", 0, 50.0),
]


def test_the_table_gives_means_intervals_and_differences_by_seed():
    lines = tables.table(STUDY, "embedded", ROWS).splitlines()
    assert lines[0] == "| kind | share | seeds | joint AP | Δ joint AP vs kind flat |"
    # 12.706 is t for one degree of freedom; the difference is 13 for both seeds
    assert lines[2] == "| flat | 0.1 | 2 | 30.0 ± 127.1 |  |"
    assert lines[3] == "| flat | 1 | 1 | 50.0 |  |"
    assert lines[4] == "| two heads | 0.1 | 2 | 43.0 ± 127.1 | +13.0 ± 0.0 |"
    assert len(lines) == 5


def test_a_seed_without_its_counterpart_is_not_compared():
    lines = tables.table(STUDY, "embedded", [row("flat", "1", 0, 50.0), row("two_heads", "1", 1, 60.0)]).splitlines()
    assert lines[3] == "| two heads | 1 | 1 | 60.0 |  |"


def test_a_cell_with_fewer_seeds_than_its_row_has_their_number():
    given = [row("flat", "1", seed, 50.0 + seed) | {"F1": "4.0" if seed else ""} for seed in range(3)]
    given += [row("two_heads", "1", seed, 60.0) for seed in range(1, 3)] + [row("two_heads", "1", 4, 60.0)]
    head, _, flat, heads = tables.table(STUDY, "embedded", given).splitlines()
    assert head.startswith("| kind | share | seeds | joint AP | F1 |")
    assert flat.startswith("| flat | 1 | 3 | 51.0 ± 2.5 | 4.0 ± 0.0 (2) |")
    assert heads.endswith("| +8.5 ± 6.4 (2) |")


def test_each_reference_has_a_column_where_it_is_run():
    both = STUDY.model_copy(update={"against": {"kind": ["flat", "two_heads"], "share": 7}})
    head, _, flat, *_ = tables.table(both, "embedded", ROWS).splitlines()
    assert head == "| kind | share | seeds | joint AP | Δ joint AP vs kind flat | Δ joint AP vs kind two heads |"
    assert flat == "| flat | 0.1 | 2 | 30.0 ± 127.1 |  | -13.0 ± 0.0 |"


COMMITTED = [
    (study, scale)
    for study in map(studies.read, studies.names())
    for scale in SCALES
    if rows.path(study, scale, ROOT / rows.RESULTS).exists()
]


@pytest.mark.parametrize("study, scale", COMMITTED, ids=lambda value: getattr(value, "name", value))
def test_committed_rows_are_of_the_current_params_and_give_the_committed_page_and_figure(study, scale, tmp_path):
    file = rows.path(study, scale, ROOT / rows.RESULTS)
    found, planned = rows.read(file), runs(study, scale, params=ROOT / "params.yaml")
    assert [*rows.done(study, planned, file).values()] == found
    block = tables.block(study, scale, found, tmp_path / FIGURES.name)
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"<!-- {study.name} {scale} -->\n\n{block}\n\n<!--" in text
    for drawn in tmp_path.glob("*/*.svg"):
        assert drawn.read_bytes() == (ROOT / FIGURES / drawn.name).read_bytes()


def test_the_page_has_a_place_for_every_study():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for study in map(studies.read, studies.names()):
        for scale in filter(study.count, SCALES):
            assert f"<!-- {study.name} {scale} -->" in text


def test_a_block_without_marks_comes_at_the_end_once(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    for text in ("one", "two"):
        write(page, {"new": text})
    assert page.read_text() == "# Results\n\n<!-- new -->\n\ntwo\n\n<!-- /new -->\n"
    page.write_text("<!-- new -->\n")
    with pytest.raises(UserError, match="has no <!-- /new -->"):
        write(page, {"new": "three"})


@pytest.fixture
def leave(tmp_path, monkeypatch):
    """A function that adds an experiment of a run to a repository, as DVC would."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    base = experiments.head()

    def leave(run, metrics: dict | None = None) -> None:
        YAML().dump(run.params, tmp_path / "params.yaml")
        (tmp_path / "metrics").mkdir(exist_ok=True)
        (tmp_path / "metrics/evaluate.json").write_text(json.dumps(metrics or {}))
        commit(tmp_path)
        call(tmp_path, "git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{run.name}", "HEAD")
        call(tmp_path, "git", "checkout", "--quiet", "--detach", base)

    return leave


PLANNED = runs(STUDY, "embedded", params=ROOT / "params.yaml")


def test_a_row_holds_the_numbers_of_an_experiment(leave):
    leave(PLANNED[4], {"joint": {"AP": 61.25}, "tasks": {"a": {"AP": 60.0, "f1": 5.0}, "b": {"AP": 71.5}, "c": {}}})
    ref = experiments.find(PLANNED[4])
    assert rows.row(STUDY, PLANNED[4], ref) == {
        "kind": "flat", "share": "0.1", "seed": "1", "params": PLANNED[4].digest, "commit": experiments.head()[:7],
        "joint AP": "61.25", "F1": "", "none": "",
    }  # fmt: skip
    keys = ("tasks.*.AP", "tasks.b.AP", "tasks.*.f1", "tasks.*.ece", "tasks.*", "*.*.AP", "tasks")
    assert [rows.number(ref, f"evaluate:{key}") for key in keys] == ["65.75", "71.5", "5.0", "", "", "65.75", ""]


def test_an_experiment_is_found_by_name_and_params_for_any_data_folder(leave, tmp_path):
    elsewhere = runs(STUDY, "embedded", params=ROOT / "params.yaml", raw=tmp_path)[0]
    leave(elsewhere)
    assert PLANNED[0].params["data"]["raw"] != elsewhere.params["data"]["raw"]
    assert experiments.find(PLANNED[0]) and not experiments.find(PLANNED[1])
    other = STUDY.model_copy(update={"params": {"loss": {"dice": 3.0}}})
    assert not experiments.find(runs(other, "embedded", params=ROOT / "params.yaml")[0]), "same name, other params"


def test_rows_of_other_params_are_removed_and_so_is_their_table(tmp_path):
    file = tmp_path / "results" / "mine_embedded.csv"
    new = {run.name: row(*run.factors.values(), run.seed, 5.0) | {"params": run.digest} for run in PLANNED}
    rows.update(STUDY, PLANNED, file, dict(reversed(new.items())))
    assert [*rows.done(STUDY, PLANNED, file)] == [run.name for run in PLANNED]
    rows.update(STUDY, PLANNED[2:], file, {})
    assert len(rows.read(file)) == len(PLANNED) - 2
    changed = STUDY.model_copy(update={"params": {"loss": {"dice": 3.0}}})
    rows.update(changed, runs(changed, "embedded", params=ROOT / "params.yaml"), file, {})
    assert rows.read(file) == []
    (tmp_path / "page.md").write_text("a\n\n<!-- x -->\n\nold\n\n<!-- /x -->\n")
    for _ in range(2):
        write(tmp_path / "page.md", {"x": ""})
        assert (tmp_path / "page.md").read_text() == "a\n\n<!-- x -->\n\n<!-- /x -->\n"


def test_commits_with_other_code_are_counted(leave, tmp_path):
    before = experiments.head()
    (tmp_path / "mtseg").mkdir()
    (tmp_path / "mtseg" / "new.py").touch()
    commit(tmp_path)
    assert experiments.other_code([before, before, "0123456", experiments.head()]) == 3
