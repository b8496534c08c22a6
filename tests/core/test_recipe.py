"""Recipes: applied to params.yaml completely or not at all."""

import shutil
from pathlib import Path

import pytest

from mtseg.core.errors import UserError
from mtseg.core.params import load
from mtseg.core.recipe import apply, find

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path):
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def apply_text(params: Path, text: str, raw: str | None = None) -> None:
    recipe = params.with_name("recipe.yaml")
    recipe.write_text(text)
    apply(recipe, params=params, raw=raw)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_names_files_that_exist(params, tmp_path, recipe):
    apply(recipe, params=params, raw=str(tmp_path))
    mapping = load(params).data.mapping
    assert mapping is None or (ROOT / mapping).is_file()
    assert mapping is None or mapping.parent == Path("recipes/mappings"), "convert depends on that folder"


def test_values_change_and_all_else_stays(params, tmp_path):
    before = params.read_text().splitlines()
    apply_text(params, "solver:\n  max_iter: 7\n", raw=str(tmp_path))
    after = params.read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [b.split()[:2] for _, b in changed] == [["raw:", str(tmp_path)], ["max_iter:", "7"]]
    assert all(a.partition("#")[2] == b.partition("#")[2] for a, b in changed)


def test_a_list_is_replaced_as_a_whole_and_applying_twice_changes_nothing(params, tmp_path):
    task = "{name: a, classes: [x], loss_weight: 1, match_weight: 1, background: true, class_weights: null"
    task += ", flip_pairs: []}"
    apply_text(params, f"tasks:\n  - {task}\n", raw=str(tmp_path))
    once = params.read_text()
    assert [task.name for task in load(params).tasks] == ["a"]
    apply_text(params, f"tasks:\n  - {task}\n", raw=str(tmp_path))
    assert params.read_text() == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("solver:\n  max_itr: 7\n", "unknown key 'solver.max_itr', did you mean 'solver.max_iter'?"),
        ("solver: 3\n", "solver"),
        ("- 1\n", "expected sections"),
        ("a: [", "is not YAML"),
        ("data:\n  raw: nowhere\n", "no folder nowhere"),
    ],
)
def test_a_bad_recipe_is_refused_with_nothing_written(params, text, message):
    before = params.read_text()
    with pytest.raises(UserError) as error:
        apply_text(params, text)
    assert message in str(error.value)
    assert params.read_text() == before


def test_an_unknown_recipe_lists_the_valid_ones(params):
    for name in ("cars", "cars.yaml", "recipes/cars.yaml"):
        with pytest.raises(UserError, match="available in recipes/: carparts, coco"):
            apply(find(name), params=params)


def test_a_recipe_is_found_by_its_name_or_its_path(params):
    assert find("carparts") == find("recipes/carparts.yaml") == Path("recipes/carparts.yaml")
    assert find(str(params)) == params
