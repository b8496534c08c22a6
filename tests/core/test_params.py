"""params.yaml: accepted values, and the message for each mistake."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from mtseg.core.errors import UserError
from mtseg.core.params import SLIMMEST, Params, Section, load, validate

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def raw() -> dict[str, Any]:
    return YAML(typ="safe").load(PARAMS)


@pytest.fixture
def reload(tmp_path):
    """Write a tree as params.yaml and load it."""

    def write(tree: dict[str, Any]) -> Params:
        with (tmp_path / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(tree, file)
        return load(tmp_path / "params.yaml")

    return write


@pytest.fixture
def refusal(reload):
    """The message for a tree that is rejected."""

    def refuse(tree: dict[str, Any]) -> str:
        with pytest.raises(UserError) as error:
            reload(tree)
        return str(error.value).partition("params.yaml")[2].removeprefix(": ").removeprefix(":\n  ")

    return refuse


def test_no_value_has_a_default_outside_the_file_but_those_that_older_files_lack(reload):
    params = load(PARAMS)
    assert [name for name, field in Params.model_fields.items() if not field.is_required()] == ["launch", "export"]
    assert params.tasks[0].background
    older = YAML(typ="safe").load(PARAMS)
    del older["export"], older["launch"], older["data"]["ignore_shapes"], older["data"]["max_megapixels"]
    del older["data"]["max_file_mb"], older["data"]["follow_links"]
    assert reload(older) == params


def test_block_style_so_that_an_experiment_rewrites_one_line():
    yaml = YAML()

    def flow(node: Any) -> bool:
        children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
        return bool(children and node.fa.flow_style()) or any(flow(child) for child in children)

    assert not flow(yaml.load(PARAMS))


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00005", "1.25e-5", "1.25e-05", "5e-05", "1E-5", "'1e-5'"])
def test_a_small_number_is_a_number_however_it_is_written(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("base_lr: auto ", f"base_lr: {text} "))
    lr = load(path).solver.base_lr
    assert isinstance(lr, float) and lr == float(text.strip("'"))


@pytest.mark.parametrize(
    ("right", "misspelt"),
    [
        ("solver.base_lr", "solver.base_lrr"),
        ("data.on_error", "data.on-error"),
        ("tasks.1.classes", "tasks.1.clases"),
        ("solver", "solvr"),
    ],
)
def test_a_misspelt_key_is_reported_with_the_correct_one(raw, refusal, right, misspelt):
    *path, key = right.split(".")
    section = raw
    for part in path:
        section = section[int(part) if part.isdigit() else part]
    section[misspelt.rpartition(".")[2]] = section.pop(key)
    assert refusal(raw) == f"unknown key '{misspelt}', did you mean '{right}'?"


def test_unknown_keys_come_first_then_missing_then_wrong_ones_a_line_each(raw, refusal):
    raw["solver"]["base_lr"] = "fast"
    del raw["model"]["num_queries"]
    raw["zzz"] = 1
    assert refusal(raw).split("\n  ") == [
        "unknown key 'zzz'",
        "missing key 'model.num_queries'",
        "solver.base_lr: should be 'auto' or a valid number, got 'fast'",
    ]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("solver", "base_lr", -1e-4),
        ("solver", "base_lr", float("nan")),
        ("solver", "schedule", "cos"),
        ("solver", "ims_per_batch", 0),
        ("input", "size", 100),
        ("input", "flip", 2),
        ("input", "min_scale", 3.0),
        ("model", "num_heads", 7),
        ("model", "num_queries", "many"),
        ("input", "size", 0),
        ("data", "on_error", "ignore"),
        ("data", "raw", ""),
        ("data", "format", "pascal"),
        ("data", "mapping", "mine/parts.yaml"),
        ("data", "mapping", "recipes/mappings/../parts.yaml"),
        ("model", "backbone", "resnet5"),
        ("model", "backbone", "_resnet"),
        ("solver", "base_lr", True),
        ("solver", "max_iter", True),
        ("input", "flip", False),
        ("filter", "min_logit", True),
        ("filter", "min_logit", float("nan")),
        ("filter", "min_score", {"shape": 2}),
        ("filter", "min_score", {"shape": "high"}),
        ("filter", "min_score", [0.1]),
        ("filter", "thresholds", "best"),
        ("filter", "nms", "soft"),
        ("filter", "most", 0),
        ("filter", "min_area", -1),
        ("data", "split", 1),
        ("data", "split", {"val": 0.5, "test": 0.5}),
        ("data", "split", {"test": 0.5}),
        ("data", "split", {"val": 0.5, "tset": 0.1}),
        ("data", "split", {"val": 0}),
        ("data", "share", 0),
        ("generate", "unseen", 37),
        ("generate", "scale", 2.5),
        ("test", "max_dets", []),
        ("test", "ranking", "best"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key(raw, refusal, section, key, value):
    raw[section][key] = value
    message = refusal(raw)
    assert message.startswith(section) and key in message and "\n" not in message


def numeric(section=Params, key=""):
    """(key, lowest, highest) of every numeric param; None where a bound is missing."""
    for name, field in section.model_fields.items():
        if len(kinds := [kind for kind in (field.annotation, *get_args(field.annotation)) if is_section(kind)]):
            yield from numeric(kinds[0], f"{key}{name}.")
            continue
        for kind in number_schemas(TypeAdapter(section).json_schema()["properties"][name]):
            lowest, highest = (
                next((kind[bound] for bound in bounds if bound in kind), None)
                for bounds in (("ge", "gt"), ("le", "lt"))
            )
            yield f"{key}{name}", lowest, highest


def is_section(kind):
    return isinstance(kind, type) and issubclass(kind, Section)


def number_schemas(schema):
    """The first schema of a number in a schema: one for each key is enough, a mapping's or a list's is the same."""
    found = [schema] if schema.get("type") in ("integer", "number") else []
    inner = [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *inner):
        found += number_schemas(one)
    return found[:1]


NUMERIC = [*numeric()]


def place(raw, key):
    """Section and key of a param; of `tasks` the first task's."""
    section, _, name = key.rpartition(".")
    return (raw["tasks"][0] if section == "tasks" else raw[section] if section else raw), name


def test_every_number_has_bounds_and_a_value_beyond_them_is_one_line(raw):
    assert len(NUMERIC) > 55
    for key, lowest, highest in NUMERIC:
        assert lowest is not None and highest is not None, key
        section, name = place(raw, key)
        before = section[name]
        shape = {"class_weights": lambda v: {"circle": v}, "steps": lambda v: [v], "max_dets": lambda v: [v]}
        for value in (lowest - 1, highest + 1, 10**30, 1e308, float("inf"), float("nan"), -1e308, True, "1e999"):
            section[name] = shape.get(name, lambda v: v)(value)
            with pytest.raises(UserError) as error:
                validate(raw, PARAMS)
            assert name in str(error.value) and "\n" not in str(error.value), (key, value)
        section[name] = before
    validate(raw, PARAMS)


def test_the_limits_are_documented():
    page = (PARAMS.parent / "docs/robustness.md").read_text(encoding="utf-8").partition("## Limits")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    found = {key.strip("`"): ends for keys, *ends in rows for key in keys.split(", ")}
    assert found == {key: [f"{lowest:,.0f}", f"{highest:,.0f}"] for key, lowest, highest in NUMERIC}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2024-13-45", "'2024-13-45' cannot be read (month must be in 1..12) in"),
        ("9" * 5000, "cannot be read (Exceeds the limit"),
        ("0x" + "f" * 5000, "got a number of thousands of digits"),
        ("'" + "x" * 10**5 + "'", "xxx..."),
        ("!!int x", "'x' cannot be read"),
        ("[" * 500, "nested too deep"),
        ("&a [*a]", "aliases"),
    ],
)
def test_an_odd_value_is_one_short_line(tmp_path, value, message):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("num_queries: 20", f"num_queries: {value}"))
    with pytest.raises(UserError) as error:
        load(path)
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 700


def test_half_a_character_in_a_path_is_one_line(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace("mapping: ", 'mapping: "a\\uDC80" '))
    with pytest.raises(UserError, match=r"data\.mapping: a\\udc80 is in neither folder"):
        load(tmp_path / "params.yaml")


def test_what_is_named_after_files_is_listed(raw, refusal, reload):
    for section, key, known in (
        ("data", "format", "'masks' or 'yolo'"),
        ("model", "backbone", "'resnet101', 'resnet50'"),
    ):
        before, raw[section][key] = raw[section][key], "resnet5"
        message = refusal(raw)
        assert known in message and message.endswith("got 'resnet5'") and "_" + "resnet" not in message
        raw[section][key] = before
    raw["model"]["backbone"] = "timm/resnet18"
    raw["data"]["mapping"] = "recipes/mappings/parts.yaml"
    assert reload(raw).model.backbone == "timm/resnet18"


@pytest.mark.parametrize("split", [0.3, {"val": 0.2}, {"val": 0.2, "test": 0.1}])
def test_the_split_is_a_share_for_val_or_a_share_for_each(raw, reload, split):
    raw["data"]["split"] = split
    assert reload(raw).data.split == split


@pytest.mark.parametrize("key", ["min_score", "min_logit"])
def test_thresholds_are_of_tasks_that_there_are(raw, refusal, reload, key):
    for limits in ({}, {"fill": 0.5}, {"shape": 0.5, "colour": 1e-3}):
        raw["filter"][key] = limits
        assert getattr(reload(raw).filter, key) == limits
    raw["filter"][key] = {"fill": 0.5, "color": 0.5}
    assert refusal(raw) == f"unknown key 'filter.{key}.color', did you mean 'filter.{key}.colour'?"
    raw["filter"][key] = {"weight": 0.5}
    assert refusal(raw) == f"unknown key 'filter.{key}.weight', tasks are shape, colour, fill"


def test_flattened_data_have_one_task_and_no_name_for_a_threshold(raw, refusal, reload):
    raw["data"]["flatten"] = True
    raw["filter"] |= {"min_score": {}, "min_logit": 1.0}
    assert reload(raw).data.flatten
    raw["filter"]["min_score"] = {"shape": 0.5}
    assert refusal(raw) == "filter.min_score: must be a number: with data.flatten there is no task shape"


@pytest.mark.parametrize("steps", [[0.9, 0.5], [0.5, 0.5], [0.5, 0.501], [0, 0.5], [0.5, 1.0], [0.001]])
def test_lr_steps_that_coincide_or_lie_outside_are_rejected_if_used(raw, refusal, reload, steps):
    raw["solver"] |= {"schedule": "cosine", "max_iter": 100, "steps": steps}
    reload(raw)
    raw["solver"]["schedule"] = "steps"
    assert refusal(raw).startswith("solver: steps of 100 iterations are")


def test_a_slim_image_never_vanishes(raw, refusal, reload):
    raw["input"] |= {"size": 32, "min_scale": 0.5}
    assert reload(raw).input.min_scale * reload(raw).input.size == SLIMMEST
    raw["input"]["min_scale"] = 0.4
    assert "min_scale 0.4 x size 32 is less than 16 pixels" in refusal(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip_pairs": [["left", "right"]]}, "flip_pairs has unknown classes ['left', 'right'], valid: ['a', 'b']"),
        ({"flip_pairs": [["a", "b"], ["b", "a"]]}, "occurs twice in flip_pairs"),
        ({"classes": ["a", "a"]}, "distinct names"),
        ({"class_weights": {"a": 2.0, "c": 1.0}}, "class_weights has unknown classes ['c'], valid: ['a', 'b']"),
        ({"class_weights": {"a": -1.0}}, "class_weights"),
        ({"class_weights": "balanced"}, "class_weights"),
        ({"background": False}, "requires background: true"),
        ({"name": "colour"}, "must be distinct"),
        ({"name": "mask"}, "not one of area, "),  # loss_mask is a loss of the masks
        ({"name": "rle"}, "not one of area, "),
        ({"name": "colour_probability"}, "not one of area, "),
        ({"classes": ["a", "-"]}, "empty or '-'"),
        ({"classes": ["a", " "]}, "empty or '-'"),
        ({"name": "my task"}, "tasks.0.name"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(raw, refusal, change, message):
    raw["tasks"][0] |= {"classes": ["a", "b"], "flip_pairs": []} | change
    assert message in refusal(raw)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_any_number_of_tasks(raw, reload, number):
    first = raw["tasks"][0]
    raw["tasks"] = [first] + [dict(first, name=f"task_{i}", background=i % 2 == 0) for i in range(1, number)]
    raw["model"]["unseen_combinations"] = 1
    tasks = reload(raw).tasks
    assert len(tasks) == number
    assert all(task.num_outputs == task.num_classes + task.background for task in tasks)


def test_a_task_needs_its_name_alone(raw, reload, refusal):
    raw["tasks"] = [{"name": "part"}, {"name": "side", "classes": ["left", "right"]}]
    first, second = reload(raw).tasks
    assert first.classes == "auto" and first.background and second.classes == ("left", "right")
    raw["tasks"] = [{"classes": "auto"}]
    assert refusal(raw).splitlines() == ["missing key 'tasks.0.name'"]
    raw["tasks"] = []
    assert refusal(raw) == "tasks: should have at least 1 item, got []"


def test_one_softmax_over_combinations_has_one_no_object(raw, reload):
    raw["tasks"] = [raw["tasks"][0], dict(raw["tasks"][0], name="other", background=True)]
    raw["model"]["unseen_combinations"] = 0.5
    with pytest.raises(UserError, match="'other': background: true requires model.unseen_combinations: 1"):
        reload(raw)


def test_a_class_without_a_weight_weighs_1(raw, reload):
    for given, weights in ((None, (1, 1)), ({"b": 2.5}, (1, 2.5))):
        raw["tasks"][0] |= {"classes": ["a", "b"], "class_weights": given}
        assert reload(raw).tasks[0].weights == weights


def test_lr_follows_the_effective_batch(raw, reload):
    raw["solver"] |= {"base_lr": "auto", "reference_lr": 1e-4, "reference_batch": 16}
    for ims_per_batch, accumulate, lr in [(16, 1, 1e-4), (2, 1, 1.25e-5), (2, 8, 1e-4), (4, 8, 2e-4)]:
        raw["solver"] |= {"ims_per_batch": ims_per_batch, "accumulate": accumulate}
        assert reload(raw).solver.lr == reload(raw).solver.rule_lr == pytest.approx(lr)
    raw["solver"] |= {"base_lr": 1e-5}
    assert reload(raw).solver.lr == 1e-5 and reload(raw).solver.rule_lr == pytest.approx(2e-4)


def test_a_flip_swaps_the_pairs_and_leaves_the_rest(raw, reload):
    raw["tasks"][0] |= {"classes": ["none", "left", "right"], "flip_pairs": [["left", "right"]]}
    assert reload(raw).tasks[0].flipped() == (0, 2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("\0", "is not YAML"), ("- 1", "expected sections"), ("", "expected sections")],
)
def test_a_file_that_is_no_params_file(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(path)


def test_no_params_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="is a directory"):
        load(tmp_path)


def test_class_names_are_taken_as_they_are_meant(reload):
    tree = YAML(typ="safe").load(PARAMS)
    tree["tasks"][0]["classes"] = [0, True, "T\u00fc\u00a0r", " Tu\u0308r"]
    assert reload(tree).tasks[0].classes == ("0", "true", "T\u00fc r", "T\u00fcr")


def test_class_names_without_quotes_are_as_written(tmp_path):
    lines = PARAMS.read_text().replace("  - circle\n  - square\n", "  - 01\n  - 1.10\n  - True\n  - no\n", 1)
    lines = lines.replace("  flip_pairs: []", "  flip_pairs: [[01, no]]", 1)
    lines = lines.replace("  class_weights:\n", "  class_weights: {1.10: 2}\n", 1)
    (tmp_path / "params.yaml").write_text(lines)
    task = load(tmp_path / "params.yaml").tasks[0]
    assert task.classes[:4] == ("01", "1.10", "True", "no")
    assert task.flip_pairs == (("01", "no"),) and task.class_weights == {"1.10": 2.0}


def test_a_class_name_without_text_is_one_line(refusal):
    tree = YAML(typ="safe").load(PARAMS)
    tree["tasks"][0]["classes"] = [None, "b"]
    assert "tasks.0.classes" in refusal(tree)


@pytest.mark.parametrize(("name", "advice"), [("carparts.yaml", "parts.yaml"), ("new.yaml", "new.yaml, and move")])
def test_a_mapping_elsewhere_is_told_the_path_that_works(raw, refusal, name, advice):
    raw["data"]["mapping"] = name
    assert f"set it to recipes/mappings/{advice}" in refusal(raw).replace("carparts", "parts")


def test_a_mapping_may_lie_in_the_data_folder(raw, reload):
    raw["data"] |= {"raw": "data/raw/mine", "mapping": "data/raw/mine/names/map.yaml"}
    assert reload(raw).data.mapping.name == "map.yaml"
