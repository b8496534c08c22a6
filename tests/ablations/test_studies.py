"""Studies and their runs: the params of every run are valid and can be written into params.yaml."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ablations import studies
from ablations.experiments import write_params
from ablations.run import chains
from ablations.studies import SCALES, Study, merged, read, read_params, runs
from mtseg.core.errors import UserError
from mtseg.core.params import load

PARAMS = Path(__file__).parents[2] / "params.yaml"
BASE = read_params(PARAMS)
CASES = [(name, scale) for name in studies.names() for scale in SCALES if read(name).count(scale)]


def study(**keys) -> Study:
    given = {"name": "mine", "question": "?", "seeds": 1, "vary": {"a": {"x": None}}, "metrics": {}}
    return Study.model_validate(given | keys)


def expanded(**keys):
    return runs(study(**keys), "embedded", params=PARAMS)


@pytest.mark.parametrize("name, scale", CASES)
def test_every_run_of_every_study_has_valid_params_and_a_name_of_its_own(name, scale):
    found = runs(read(name), scale, params=PARAMS)
    assert found and len({run.name for run in found}) == len(found)
    for run in found:
        assert run.checked.seed == run.checked.data.seed == run.seed
        assert scale != "embedded" or run.checked.generate.seed == run.seed


def test_params_for_other_data_do_not_change_the_studies(tmp_path):
    own = merged(BASE, {
        "data": {"raw": "data/raw/mine", "format": "coco", "mapping": "recipes/mappings/carparts.yaml", "share": 0.5,
                 "seed": 9},
        "generate": {"unseen": 3, "alike": 0.2, "seed": 7}, "seed": 8,
        "model": {"unseen_combinations": 0.01, "hidden_dim": 64},
        "device": "cuda", "loss": {"dice": 1.0}, "input": {"workers": 3, "flip": 0.0}, "visualise": {"size": 99},
        "export": {"onnx": True},
        "solver": {"clip": 0.0}, "filter": {"min_score": {"part": 0.3}, "min_logit": {}},
        "tasks": [BASE["tasks"][0] | {"name": "part", "classes": ["door"]}],
    })  # fmt: skip
    YAML().dump(own, tmp_path / "params.yaml")
    for name, scale in CASES:
        with_own = runs(read(name), scale, params=tmp_path / "params.yaml")
        assert [run.digest for run in with_own] == [run.digest for run in runs(read(name), scale, params=PARAMS)]


@pytest.mark.parametrize("name, scale", CASES)
def test_the_params_of_a_run_can_be_written_into_params_yaml(name, scale, tmp_path):
    *_, run = runs(read(name), scale, params=PARAMS)
    file = Path(shutil.copy(PARAMS, tmp_path))
    write_params(file, run.params)
    assert load(file) == run.checked
    assert file.read_text().count(" # ") > 20, "the comments stay"


@pytest.mark.parametrize("name", studies.names())
def test_levels_differ_in_what_is_run(name):
    for scale in SCALES:
        found = [run.params for run in runs(read(name), scale, params=PARAMS) if run.seed == 0]
        assert all(one != other for index, one in enumerate(found) for other in found[:index])


def test_runs_are_the_product_of_the_levels_and_seeds():
    vary = {"a": {"x": None, "y": {"loss": {"mask": 1.0}}}, "b": {1: None, 2: {"model": {"num_queries": 7}}}}
    found = expanded(vary=vary, seeds=2)
    assert [run.name for run in found[:3]] == ["mine-x-1-s0", "mine-x-2-s0", "mine-y-1-s0"]
    assert len(found) == 8
    both = found[-1].params
    assert both["loss"]["mask"] == 1.0 and both["model"]["num_queries"] == 7 and both["seed"] == 1


def test_a_scale_may_run_less():
    vary = {"a": {1: None, 2: {"loss": {"mask": 1.0}}}}
    given = study(vary=vary, seeds={"carparts": 1}, only={"carparts": {"a": ["2"]}})
    assert runs(given, "embedded", params=PARAMS) == []
    assert [run.factors for run in runs(given, "carparts", params=PARAMS)] == [{"a": "2"}]


def test_a_level_may_be_another_at_a_scale():
    both = {"solver": {"accumulate": 8}, "at": {"carparts": {"solver": {"max_iter": 7}}}}
    given = study(vary={"a": {"x": None, "y": both}}, seeds=1)
    steps = {scale: [run.params["solver"] for run in runs(given, scale, params=PARAMS)] for scale in SCALES}
    assert steps["carparts"][1]["max_iter"] == 7 != steps["embedded"][1]["max_iter"]
    assert [[solver["accumulate"] for solver in own] for own in steps.values()] == [[1, 8]] * 2


def test_a_task_called_main_or_tasks_may_have_a_threshold():
    for name in ("main", "tasks"):
        base = merged(BASE, {"filter": {"min_score": {name: 0.5, "fill": 0.2}}})
        found = merged(base, {"filter": {"min_score": {name: 0.3}}})
        assert found["filter"]["min_score"] == {name: 0.3, "fill": 0.2} and found["tasks"] == BASE["tasks"]


def test_tasks_are_set_by_index_or_as_a_whole_and_the_base_stays():
    before = read_params(PARAMS)
    changed = merged(BASE, {"tasks": {1: {"background": False}}})
    assert [task["background"] for task in changed["tasks"]] == [True, False, True]
    assert merged(BASE, {"tasks": BASE["tasks"][:1]})["tasks"] == BASE["tasks"][:1]
    assert before == BASE


@pytest.mark.parametrize(
    ("text", "message"), [(None, "No such file"), ("", "NoneType"), ("[", "parsing"), ("- 1", "list")]
)
def test_a_params_yaml_that_cannot_be_read_is_one_line(text, message, tmp_path):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"params.yaml: .*{message}"):
        runs(study(), "embedded", params=path)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"tasks": {3: {"background": False}}}, "no task 3: .* have tasks 0 to 2"),
        ({"main": 3}, "no task 3: .* have tasks 0 to 2"),
        ({"tasks": {1: 3}}, "task 1 is given 3: expected keys"),
    ],
)
def test_a_mistake_in_tasks_is_reported(overlay, message):
    with pytest.raises(UserError, match=message):
        merged(BASE, overlay)


def test_another_main_task_takes_the_main_ones_weights():
    found = merged(BASE, {"main": 2})["tasks"]
    assert [task["name"] for task in found] == [BASE["tasks"][index]["name"] for index in (2, 0, 1)]
    assert [task["loss_weight"] for task in found] == [task["loss_weight"] for task in BASE["tasks"]]


def test_runs_that_share_a_training_follow_one_another():
    vary = {"a": {"x": None, "y": {"filter": {"nms": "none"}}, "z": {"model": {"num_queries": 7}}}}
    found = [[run.name for run in chain] for chain in chains(expanded(vary=vary, seeds=2))]
    assert found == [["mine-x-s0", "mine-y-s0"], ["mine-z-s0"], ["mine-x-s1", "mine-y-s1"], ["mine-z-s1"]]


def test_a_misspelt_key_names_the_run():
    (run,) = expanded(vary={"a": {"x": {"model": {"num_querys": 7}}}})
    with pytest.raises(UserError, match=r"mine-x-s0: unknown key 'model.num_querys', did you mean 'model.num_queries'"):
        _ = run.checked


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("only: {embedded: {b: [1, 10]}}", "no level 10 of b; there are: 1, 2"),
        ("only: {embedded: {c: [1]}}", "no factor c"),
        ("against: {a: z}", "no level z of a; there are: x, y"),
        ("plot: {x: c, series: b, y: AP}", "plot names"),
        ("plot: {x: a, series: b, y: AR}", "plot names"),
        ("plot: {x: a}", "plot.series Field required"),
        ("metrics: {AP: evalute:segm.AP}", "metric 'AP' is evalute:segm.AP; valid: diagnosis:key, evaluate:key"),
        ("metrics: {AP: evaluate}", "metric 'AP' is evaluate; valid"),
        ("seeds: 1\nseeds: 2", 'duplicate key "seeds"'),
        ("metrics: [", "mine.yaml: "),
        ("vary: {a: {x: {at: {nowhere: }}}}", r"mine.yaml: vary.a.x.at.nowhere.\[key\] .* 'embedded' or 'carparts'"),
        ("vary: {a: {x: {at: }}}", "mine.yaml: vary.a.x.at .* valid dictionary"),
        ("vary: {a: {x: {at: {embedded: }}}}", "mine.yaml: vary.a.x.at.embedded .* valid dictionary"),
        ("seeds: -1", "mine.yaml: seeds.* greater than or equal to 0"),
    ],
)
def test_a_mistake_in_a_study_is_reported(keys, message, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    given = {"vary": "{a: {x: , y: }, b: {1: , 2: }}", "seeds": "1", "metrics": "{AP: evaluate:segm.AP}"}
    lines = [f"{key}: {value}" for key, value in given.items() if not keys.startswith(key)]
    text = "\n".join(["question: which?", *lines, keys, ""])
    (tmp_path / "studies/mine.yaml").write_text(text)
    monkeypatch.setattr(studies, "HERE", tmp_path)
    with pytest.raises(UserError, match=message):
        read("mine")
