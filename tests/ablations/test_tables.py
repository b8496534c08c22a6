"""Tables, plots and the page, from rows alone; what is collected, from a repository without DVC's runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ablations import collect, experiments, means, studies, tables
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
    # 12.706 = t of one degree of freedom; both seeds differ by 13, however far apart they are
    assert lines[2] == "| flat | 0.1 | 2 | 30.0 ± 127.1 |  |"
    assert lines[3] == "| flat | 1 | 1 | 50.0 |  |"
    assert lines[4] == "| two heads | 0.1 | 2 | 43.0 ± 127.1 | +13.0 ± 0.0 |"
    assert len(lines) == 5


def test_a_seed_without_its_counterpart_is_not_compared():
    lines = tables.table(STUDY, "embedded", [row("flat", "1", 0, 50.0), row("two_heads", "1", 1, 60.0)]).splitlines()
    assert lines[3] == "| two heads | 1 | 1 | 60.0 |  |"


def test_a_cell_of_fewer_seeds_than_its_row_says_so():
    rows = [row("flat", "1", seed, 50.0 + seed) | {"F1": "4.0" if seed else ""} for seed in range(3)]
    rows += [row("two_heads", "1", seed, 60.0) for seed in range(1, 3)] + [row("two_heads", "1", 4, 60.0)]
    head, _, flat, heads = tables.table(STUDY, "embedded", rows).splitlines()
    assert head.startswith("| kind | share | seeds | joint AP | F1 |")
    assert flat.startswith("| flat | 1 | 3 | 51.0 ± 2.5 | 4.0 ± 0.0 (2) |")
    assert heads.endswith("| +8.5 ± 6.4 (2) |")


def test_a_block_names_the_commits_of_its_rows(tmp_path):
    assert "\n\nCommit abc1234.\n\n" in tables.block(STUDY, "embedded", ROWS, tmp_path)
    assert "Commits abc1234, def." in tables.block(STUDY, "embedded", [*ROWS, ROWS[0] | {"commit": "def"}], tmp_path)


def test_each_reference_has_a_column_where_it_is_run():
    both = STUDY.model_copy(update={"against": {"kind": ["flat", "two_heads"], "share": 7}})
    head, _, flat, *_ = tables.table(both, "embedded", ROWS).splitlines()
    assert head == "| kind | share | seeds | joint AP | Δ joint AP vs kind flat | Δ joint AP vs kind two heads |"
    assert flat == "| flat | 0.1 | 2 | 30.0 ± 127.1 |  | -13.0 ± 0.0 |"


COMMITTED = [
    (study, scale)
    for study in map(studies.read, studies.names())
    for scale in SCALES
    if collect.path(study, scale, ROOT / collect.RESULTS).exists()
]


@pytest.mark.parametrize("study, scale", COMMITTED, ids=lambda value: getattr(value, "name", value))
def test_page_and_figure_are_those_of_the_committed_rows_and_these_of_todays_runs(study, scale, tmp_path):
    rows = collect.read(collect.path(study, scale, ROOT / collect.RESULTS))
    assert {row["params"] for row in rows} <= {run.digest for run in runs(study, scale, params=ROOT / "params.yaml")}
    block = tables.block(study, scale, rows, tmp_path / FIGURES.name)
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"<!-- {study.name} {scale} -->\n\n{block}\n\n<!--" in text
    for drawn in tmp_path.glob("*/*.svg"):
        assert drawn.read_bytes() == (ROOT / FIGURES / drawn.name).read_bytes()


def test_the_page_has_a_place_for_every_study():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for study in map(studies.read, studies.names()):
        for scale in filter(study.count, SCALES):
            assert f"<!-- {study.name} {scale} -->" in text


def test_the_half_interval_of_three_values():
    assert means.half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert means.half_interval([1.0]) == 0


def test_the_same_bytes_each_time_and_the_page_around_stays(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nOurs.\n\n<!-- mine embedded -->\nold\n<!-- /mine embedded -->\n\nOurs too.\n")
    seen = set()
    for _ in range(2):
        block = tables.block(STUDY, "embedded", ROWS, tmp_path / "figures")
        write(page, {"mine embedded": block})
        seen.add((page.read_bytes(), (tmp_path / "figures" / "mine_embedded.svg").read_bytes()))
    assert len(seen) == 1
    text = page.read_text()
    assert text.startswith("# Results\n\nOurs.\n\n<!-- mine embedded -->\n\n| kind") and text.endswith(
        "\n\nOurs too.\n"
    )
    assert "old" not in text and "(figures/mine_embedded.svg)" in text


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
def repo(tmp_path, monkeypatch):
    """A repository with params.yaml, and a function that leaves an experiment of a run in it as DVC would."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    call(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    base = call(tmp_path, "git", "rev-parse", "HEAD").strip()

    def leave(run, stages: tuple[str, ...] = ("diagnose", "evaluate", "filter"), **files: str) -> None:
        from ruamel.yaml import YAML

        call(tmp_path, "git", "checkout", "--quiet", "--detach", base)
        YAML().dump(run.params, tmp_path / "params.yaml")
        lock = "schema: '2.0'\nstages:\n" + "".join(f"  {stage}:\n    cmd: x\n" for stage in stages)
        for name, text in {"dvc.lock": lock, **files}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        commit(tmp_path)
        call(tmp_path, "git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{run.name}", "HEAD")
        call(tmp_path, "git", "checkout", "--quiet", "--detach", base)

    return leave


EVALUATED = {"metrics/evaluate.json": '{"joint": {"AP": 61.25}}', "metrics/filter.json": '{"filtered": {"f1": 4.0}}'}


def test_numbers_come_from_experiments_and_stay_without_them(repo, tmp_path):
    planned = runs(STUDY, "embedded", params=ROOT / "params.yaml")
    repo(planned[4], **EVALUATED)
    file = tmp_path / "results" / "mine_embedded.csv"
    assert collect.collect(STUDY, planned, experiments.finished(), file) == 1
    before = file.read_bytes()
    (found,) = collect.read(file)
    assert found["seed"] == "1" and found["joint AP"] == "61.25" and found["F1"] == "4.0" and found["none"] == ""
    assert call(tmp_path, "git", "rev-parse", "HEAD").startswith(found["commit"])
    assert collect.collect(STUDY, planned, {}, file) == 0
    assert file.read_bytes() == before


def test_a_star_is_the_mean_of_what_stands_there(repo):
    run = runs(STUDY, "embedded", params=ROOT / "params.yaml")[0]
    tasks = {"shape": {"AP": 60.0, "f1": 5.0}, "fill": {"AP": 71.5}, "odd": {}}
    repo(run, **{"metrics/evaluate.json": json.dumps({"tasks": tasks})})
    ref = experiments.result(run, experiments.finished())
    assert ref
    keys = ("tasks.*.AP", "tasks.fill.AP", "tasks.*.f1", "tasks.*.ece", "tasks.*", "*.*.AP", "tasks")
    assert [collect.number(ref, f"evaluate:{key}") for key in keys] == ["65.75", "71.5", "5.0", "", "", "65.75", ""]


def test_a_run_is_done_when_an_experiment_has_its_name_its_params_and_scores(repo):
    first, second, *_ = runs(STUDY, "embedded", params=ROOT / "params.yaml")
    repo(first)
    assert experiments.result(first, experiments.finished())
    assert not experiments.result(second, experiments.finished())
    changed = first.params | {"loss": first.params["loss"] | {"mask": 2.0}}
    other = replace(first, params=changed)
    assert other.name == first.name and not experiments.result(other, experiments.finished())


def test_a_run_is_not_done_where_a_stage_whose_metrics_its_study_names_was_not_run(repo):
    asking = STUDY.model_copy(update={"metrics": {"labels": "diagnosis:oracles.labels"}})
    (run, *_), (other, *_) = (runs(study, "embedded", params=ROOT / "params.yaml") for study in (asking, STUDY))
    repo(run, stages=("evaluate", "filter"), **{"metrics/diagnosis.json": '{"oracles": {"labels": 5.0}}'})
    assert experiments.result(other, experiments.finished()), "it has all that the other study asks for"
    assert not experiments.result(run, experiments.finished()), "metrics/diagnosis.json is the last commit's"


def test_an_experiment_is_the_run_wherever_its_data_lay(repo, tmp_path):
    planned = {raw: runs(STUDY, "embedded", params=ROOT / "params.yaml", raw=raw)[0] for raw in (None, tmp_path)}
    repo(planned[tmp_path])
    assert planned[None].params["data"]["raw"] != planned[tmp_path].params["data"]["raw"]
    assert experiments.result(planned[None], experiments.finished())


def test_a_row_of_other_params_goes_and_so_does_its_table(repo, tmp_path):
    planned = runs(STUDY, "embedded", params=ROOT / "params.yaml")
    repo(planned[4], **EVALUATED)
    file = tmp_path / "results" / "mine_embedded.csv"
    collect.collect(STUDY, planned, experiments.finished(), file)
    changed = STUDY.model_copy(update={"params": {"loss": {"dice": 3.0}}})
    collect.collect(changed, runs(changed, "embedded", params=ROOT / "params.yaml"), {}, file)
    assert collect.read(file) == []
    (tmp_path / "page.md").write_text("a\n\n<!-- x -->\n\nold\n\n<!-- /x -->\n")
    for _ in range(2):
        write(tmp_path / "page.md", {"x": ""})
        assert (tmp_path / "page.md").read_text() == "a\n\n<!-- x -->\n\n<!-- /x -->\n"


def test_an_experiment_goes_when_its_successor_has_finished_and_comes_back_when_that_failed(repo):
    first, second, *_ = runs(STUDY, "embedded", params=ROOT / "params.yaml")
    for run in (first, second):
        repo(run)
    before = experiments.finished()
    assert experiments.other_code([ref for refs in before.values() for ref in refs]) == 0
    olds = {name: call(Path(), "git", "rev-parse", *refs) for name, refs in before.items()}
    experiments.replace([first.name, second.name, "nonesuch"])
    assert experiments.finished() == {}
    repo(first, **EVALUATED)
    for _ in range(2):
        experiments.settle()
        news = {name: call(Path(), "git", "rev-parse", *refs) for name, refs in experiments.finished().items()}
        assert news[first.name] != olds[first.name] and news[second.name] == olds[second.name]
    assert not experiments.finished(experiments.REPLACED)


def test_experiments_that_start_from_other_code_are_counted(repo, tmp_path):
    first, second, *_ = runs(STUDY, "embedded", params=ROOT / "params.yaml")
    for run in (first, second):
        repo(run)
    refs = [ref for refs in experiments.finished().values() for ref in refs]
    (tmp_path / "mtseg").mkdir()
    (tmp_path / "mtseg" / "new.py").touch()
    commit(tmp_path)
    assert experiments.other_code(refs) == 2
