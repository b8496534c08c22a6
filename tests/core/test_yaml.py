import os
import time

import pytest

from mtseg.core import yaml

LEVELS = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))


@pytest.mark.parametrize("text", [LEVELS, MERGED, "a: &a [*a]", "a: &a {b: *a}"])
def test_aliases_that_multiply_are_refused_at_once(text):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"aliases \(\*name\)") as error:
        yaml.parse(text)
    assert len(str(error.value)) < 200 and time.monotonic() - start < 1


@pytest.mark.parametrize("text", ["[" * 500, "{a: " * 500])
def test_deep_nesting_is_refused(text):
    with pytest.raises(ValueError, match="nested too deep"):
        yaml.parse(text)


def test_a_long_file_is_refused_before_it_is_read_as_yaml(tmp_path):
    (tmp_path / "long.yaml").write_text("a: " + "x" * yaml.LONGEST)
    with pytest.raises(ValueError, match="characters, and at most"):
        yaml.read(tmp_path / "long.yaml")


@pytest.mark.parametrize("text", ["device: *auto", "a: [*b\nc: }", "*.car: x", "a: *b\n" + "[" * 500])
def test_an_alias_of_nothing_and_other_bad_text_are_refused_in_a_file_too(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match="is not YAML|nested too deep"):
        yaml.read(tmp_path / "bad.yaml")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match="a pipe"):
        yaml.read(tmp_path / "pipe.yaml")


def test_usual_aliases_and_merges_are_read():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\nd: 2 * 3"
    found = yaml.parse(text)
    assert found["b"] == {"x": 2, "y": [1, 2]} and found["c"] == [found["a"]] * 2
    assert yaml.parse("a: 01", "base") == {"a": "01"}
