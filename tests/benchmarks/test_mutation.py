"""benchmarks/mutation.py: each mutant is one change of the code, and the table counts what killed it."""

import ast
import json

import pytest

from benchmarks import mutation

CODE = '''
def mean(values: list[int], start: int = 0) -> float:
    """The mean."""
    if not values or start > 3:
        raise ValueError(f"{start + 1} of 7")
    print(sum(values), 5)
    return sum(values[start:]) / max(len(values), 1)
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.setattr(mutation, "OUT", tmp_path / "out.jsonl")
    monkeypatch.setattr(mutation, "EQUIVALENT", tmp_path / "same.tsv")
    (tmp_path / "same.tsv").write_text("file\tline\tplace\tbefore\tafter\twhy no test can fail\n")
    (tmp_path / "a.py").write_text(CODE)
    return tmp_path


def test_every_mutant_is_one_change_and_none_is_of_a_message(project):
    found = list(mutation.mutants("a.py", 100))
    changes = {(mutant.before, mutant.after) for mutant in found}
    assert {("start > 3", "start >= 3"), ("max", "min"), ("sum", "max"), ("3", "4"), ("1", "2")} <= changes
    assert ("not values or start > 3", "not values and start > 3") in changes
    assert len({mutant.key for mutant in found}) == len(found)
    assert not {"5", "7", "1 + start", "start + 1"} & {before for before, _ in changes}
    assert [mutant.key for mutant in mutation.mutants("a.py", 3)] == [mutant.key for mutant in found[:3]]


def test_a_mutant_runs_with_its_change(project):
    found = {(mutant.before, mutant.after): mutant for mutant in mutation.mutants("a.py", 100)}
    names = {}
    exec(found["1", "2"].code, names)
    assert names["mean"]([6]) == 3


def test_a_call_whose_value_is_not_used_is_left_out():
    tree = ast.parse("values.sort()")
    assert isinstance(mutation.change(tree.body[0]), ast.Pass)


def test_the_table_counts_what_killed_and_excuses_what_is_equivalent(project, capsys):
    plan = list(mutation.mutants("a.py", 4))
    lines = [json.dumps([mutant.key, by]) for mutant, by in zip(plan, ("t", "t", "", ""), strict=True)]
    mutation.OUT.write_text("\n".join(lines) + "\n")
    text, line, good = mutation.table(plan)
    assert "| a.py | 4 | 2 | 0 | 2 |" in text and "50.0%" in line and not good
    assert capsys.readouterr().out.count("survives") == 2
    with mutation.EQUIVALENT.open("a") as file:
        file.writelines("\t".join([*mutant.key, "why"]) + "\n" for mutant in plan[2:])
    text, line, good = mutation.table(plan)
    assert "| a.py | 4 | 2 | 2 | 0 |" in text and "100.0%" in line and good


def test_the_plan_names_files_that_exist():
    for name, (_, tests) in mutation.PLAN.items():
        assert (mutation.ROOT / f"mtseg/{name}.py").exists()
        for test in tests:
            folder, own = test.split("/")
            assert (mutation.ROOT / f"tests/{folder}/test_{own}.py").exists()
