import pytest

from mtseg.core.errors import UserError
from mtseg.data.labels import Vocabulary, vocabulary
from mtseg.data.raw import BadRecord
from tests.data import folders
from tests.data.folders import tasks

CLASSES = {
    "shape": ("circle", "square"),
    "colour": ("red", "green"),
    "fill": ("plain", "dotted"),
    "edge": ("plain", "dashed"),
}
FLAT = ("circle", "red", "dotted", "dashed")


@pytest.fixture(params=[1, 3, 4])
def words(request):
    return Vocabulary(dict(list(CLASSES.items())[: request.param]))


@pytest.fixture
def free():
    return Vocabulary(dict.fromkeys(("shape", "colour", "fill")))


def test_a_flat_string_names_the_classes_in_the_tasks_order(words):
    parts = FLAT[: len(words.classes)]
    for label in (",".join(parts), " , ".join(parts)):
        assert words.labels(label) == dict(zip(words.classes, parts, strict=True))


def test_a_missing_comma_or_part_is_refused_with_the_string(words):
    parts = FLAT[: len(words.classes)]
    wrong = [",".join([*parts, "more"]), ",".join(["", *parts[1:]]), " "]
    if len(parts) > 1:
        wrong += [
            ",".join(parts[:-1]),
            " ".join(parts),
            ",".join(parts).replace(",", " ", 1),
            ",".join([*parts[:-1], ""]),
        ]
    for label in wrong:
        with pytest.raises(BadRecord) as caught:
            words.labels(label)
        assert repr(label) in str(caught.value)


def test_parts_in_the_wrong_order_are_unknown_classes(words):
    label = ",".join(reversed(FLAT[: len(words.classes)])) if len(words.classes) > 1 else "red"
    with pytest.raises(BadRecord, match="shape has no class .*, valid: circle, square"):
        words.labels(label)


def test_a_dash_is_no_label_for_a_further_task_alone(free):
    assert free.labels("circle,-,dotted") == {"shape": "circle", "colour": None, "fill": "dotted"}
    with pytest.raises(BadRecord, match="main task shape must have a label"):
        free.labels("-,red,dotted")


def test_attributes_name_the_further_classes(free):
    attributes = {"colour": "red", "fill": None, "occluded": True}
    assert free.labels("circle", attributes) == {"shape": "circle", "colour": "red", "fill": None}
    with pytest.raises(BadRecord, match="has no fill.*such as 'circle': {shape: circle, colour: red, fill: CLASS}"):
        free.labels("circle", {"colour": "red"})
    with pytest.raises(BadRecord, match="fill is true"):
        free.labels("circle", {"colour": "red", "fill": True})


def test_flags_name_a_class_with_its_task_or_one_that_is_of_one_task_alone(free):
    wanted = {"shape": "circle", "colour": "red", "fill": "dotted"}
    flags = {"colour=red": True, "colour=green": False, "fill: dotted": True, "occluded": True}
    assert free.labels("circle", None, flags) == wanted
    with pytest.raises(BadRecord, match="has no colour, fill"):
        free.labels("circle", None, {"red": True, "dotted": True})  # no class list says whose these are
    listed = Vocabulary({name: CLASSES[name] for name in ("shape", "colour", "fill")})
    assert listed.labels("circle", None, {"red": True, "green": False, "dotted": True}) == wanted
    with pytest.raises(BadRecord, match="both 'red' and 'green' for colour"):
        listed.labels("circle", None, {"red": True, "green": True, "dotted": True})
    with pytest.raises(BadRecord, match="'plain' is a class of fill, edge"):
        Vocabulary(CLASSES).labels("circle", None, {"red": True, "plain": True})


def test_a_flag_named_as_a_task_is_a_checkbox(free):
    ticked = {"colour": True, "fill": False, "occluded": True}
    assert free.labels("circle", None, ticked) == {"shape": "circle", "colour": "true", "fill": "false"}
    flags = {"colour": False, "colour=red": True, "fill": True}
    assert free.labels("circle", {"fill": "dotted"}, flags) == {"shape": "circle", "colour": "red", "fill": "dotted"}


def test_explicit_labels_outrank_a_flat_reading():
    two = Vocabulary({"part": None, "colour": None})
    assert two.labels("cup, mug", {"colour": "red"}) == {"part": "cup, mug", "colour": "red"}
    assert two.labels("cup, mug", {"occluded": True}) == {"part": "cup", "colour": "mug"}
    for words in (Vocabulary({"part": None}), Vocabulary(dict.fromkeys(("part", "colour", "fill")))):
        with pytest.raises(BadRecord, match="data.mapping"):
            words.labels("cup, mug")


def test_blank_is_no_class_and_blanks_round_a_class_are_none_of_it(free):
    assert free.labels("circle", {"colour": " red ", "fill": "-"})["colour"] == "red"
    with pytest.raises(BadRecord, match="colour is ' '"):
        free.labels("circle", {"colour": " ", "fill": "-"})


MAPPING = """
shape: [square, circle]
categories:
  red_circle: {shape: circle, colour: red}
  square: {shape: square, colour: null}
  background: null
"""


def test_a_mapping_turns_a_flat_category_into_labels_and_orders_classes(tmp_path):
    (tmp_path / "m.yaml").write_text(MAPPING)
    words = vocabulary(tasks(shape="auto", colour="auto"), tmp_path / "m.yaml")
    assert words.classes == {"shape": ("square", "circle"), "colour": None}
    assert words.labels("red_circle") == {"shape": "circle", "colour": "red"}
    assert words.labels("square") == {"shape": "square", "colour": None}
    assert words.labels("background") is None
    with pytest.raises(BadRecord, match="'blue_circle' is not in data.mapping"):
        words.labels("blue_circle")


def test_classes_of_the_params_outrank_those_of_the_mapping(tmp_path):
    (tmp_path / "m.yaml").write_text(MAPPING)
    words = vocabulary(tasks(shape=["circle", "square"], colour="auto"), tmp_path / "m.yaml")
    assert words.classes["shape"] == ("circle", "square")
    with pytest.raises(UserError, match="m.yaml: red_circle: colour has no class 'red', valid: blue"):
        vocabulary(tasks(shape="auto", colour=["blue"]), tmp_path / "m.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "cannot be read"),
        ("a: [", "is not YAML"),
        ("shape: [circle]", "has no section 'categories:'"),
        ("categories: {c: {shape: circle}}", "m.yaml: c: expected null or a class for each of shape, colour"),
        ("categories: {c: {shape: null, colour: red}}", "shape has no class null"),
        ("shape: circle\ncategories: {}", "'shape' must be a list of class names"),
    ],
)
def test_a_mapping_that_is_wrong_is_one_line(tmp_path, text, message):
    if text:
        (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        vocabulary(tasks(shape="auto", colour="auto"), tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        "\u5361\u8f66\uff0cred\uff0cdotted",  # full-width commas
        "\u5361\u8f66\u3001red\u3001dotted",
        "\ufeff\u5361\u8f66,\u00a0red ,dotted\u200b",  # byte order mark, no-break and zero-width blanks
    ],
)
def test_a_label_is_the_same_however_it_is_typed(free, typed):
    assert free.labels(typed) == {"shape": "\u5361\u8f66", "colour": "red", "fill": "dotted"}


def test_composed_and_decomposed_characters_are_the_same_class():
    words = Vocabulary({"part": ("T\u00fcr",), "colour": None})
    assert words.labels("Tu\u0308r,dunkel  rot") == {"part": "T\u00fcr", "colour": "dunkel rot"}
    assert words.labels("Tu\u0308r", {"colour": "a\u00a0b"}) == {"part": "T\u00fcr", "colour": "a b"}


@pytest.mark.parametrize("name", ["__ignore__", "_background_", "__unknown__"])
def test_a_name_that_labelme_reserves_is_no_class_unless_it_is_listed(name):
    with pytest.raises(BadRecord, match="data.mapping") as caught:
        Vocabulary({"part": None}).labels(name)
    assert name in str(caught.value)
    assert Vocabulary({"part": (name,)}).labels(name) == {"part": name}


def test_unquoted_keys_of_a_mapping_are_their_text(tmp_path):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("categories:\n  01: {part: true}\n  true: {part: no}\n  1.10: null\n  other:\n")
    words = vocabulary(tasks(part="auto"), mapping)
    assert words.labels("01") == {"part": "true"} and words.labels("true") == {"part": "no"}
    assert words.labels("1.10") is None and words.labels("other") is None
    with pytest.raises(BadRecord, match="not in data.mapping"):
        words.labels("1")


def test_labels_and_keys_of_a_mapping_are_the_same_but_for_blanks_and_commas(tmp_path):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("categories:\n  'door\uff0c front': {part: door}\n  'Tu\u0308r': {part: '\ufeffdoor '}\n")
    words = vocabulary(tasks(part="auto"), mapping)
    for label in ("door,front", "door , front", "door\u3001front", "T\u00fcr"):
        assert words.labels(label) == {"part": "door"}
    mapping.write_text("categories:\n  'a,b': {part: door}\n  'a\uff0cb': {part: roof}\n")
    with pytest.raises(UserError, match="another entry"):
        vocabulary(tasks(part="auto"), mapping)


def test_a_look_alike_of_a_known_name_is_refused_with_its_characters(tmp_path):
    with pytest.raises(BadRecord, match="'car': CYRILLIC SMALL LETTER A and LATIN SMALL LETTER A"):
        Vocabulary({"part": ("roof", "car")}).labels("c\u0430r")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("categories:\n  car: {part: car}\n")
    with pytest.raises(BadRecord, match="'car': CYRILLIC SMALL LETTER A and LATIN SMALL LETTER A"):
        vocabulary(tasks(part="auto"), mapping).labels("c\u0430r")


def test_names_of_attributes_and_flags_are_as_people_type_them(free):
    wanted = {"shape": "circle", "colour": "red", "fill": "dotted"}
    assert free.labels("circle", {"colour\u200b ": "red", "fill": "dotted"}) == wanted
    assert free.labels("circle", None, {"colour\uff1ared": True, "fill\uff1d dotted": True}) == wanted
    with pytest.raises(BadRecord, match="has no fill .*Fill"):
        free.labels("circle", {"colour": "red", "Fill": "dotted"})


@pytest.mark.parametrize("group", [None, "", " "])
def test_an_empty_group_is_no_group(tmp_path, group):
    for split in ("train", "val"):
        (tmp_path / "raw" / split).mkdir(parents=True)
        right = [[x + 12, y] for x, y in folders.SQUARE]
        shapes = [folders.shape("a", points, group_id=group) for points in (folders.SQUARE, right)]
        folders.labelme(tmp_path / "raw" / split, "a", *shapes)
    folders.converted(tmp_path / "raw", tasks(part="auto"))
    assert folders.report(tmp_path / "raw")["instances"] == {"train": 2, "val": 2}


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\x00", "a\ud800"])
def test_a_control_character_in_a_name_is_refused(name, tmp_path):
    with pytest.raises(BadRecord, match=r"has the control character \\"):
        Vocabulary({"part": None}).labels(name)
    with pytest.raises(BadRecord, match=r"colour .* has the control character \\"):
        Vocabulary({"part": None, "colour": None}).labels("a", {"colour": name})
    with pytest.raises(ValueError, match=r"has the control character \\"):
        tasks(part=(name, "b"))


def test_a_long_label_is_not_quoted_in_full():
    with pytest.raises(BadRecord) as error:
        Vocabulary({"part": ("a",)}).labels("x" * 10**6)
    assert len(str(error.value)) < 500
