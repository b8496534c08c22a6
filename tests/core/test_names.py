"""Names that look the same are distinguished, and the difference is named."""

import time

import pytest

from mtseg.core.names import clean, difference, means_background, twins, unscrambled


def test_twins_differ_in_case_look_alike_characters_blanks_or_hyphens():
    cyrillic, dash = "c\u0430r", "front\u2013door"
    assert twins(["car", cyrillic, "Car", "cart"]) == [["car", cyrillic, "Car"]]
    assert twins(["front-door", dash, "front door", "front_door"]) == [["front-door", dash, "front door", "front_door"]]
    assert twins(["traffic light", "trafficlight", "\uff54raffic_light"]) != []
    assert twins(["kapi", "kap\u0131"]) != []
    assert twins(["left", "right", "l", "r", "1-1", "11", "-1", "1", "to\u0440", "tour"]) == []


def test_a_name_of_many_underscores_takes_no_time():
    start = time.monotonic()
    assert twins(["_" * 20_000 + "!", "a"]) == [] and time.monotonic() - start < 10


def test_marks_that_cannot_be_seen_are_no_part_of_a_name():
    assert clean("\u200f\ufeffcar\u202c \u200b") == "car"
    persian = "\u0645\u06cc\u200c\u0631\u0648\u0645"
    assert clean(persian) == persian, "a zero-width non-joiner is a part of a Persian word"


def test_names_for_no_object():
    assert all(
        map(means_background, ["background", "Background", "__background__", "no-object", "No Object", "void", "NaN"])
    )
    assert not any(map(means_background, ["backgrounds", "object", "none", "car"]))


def test_the_difference_names_the_characters():
    assert difference("car", "c\u0430r") == "LATIN SMALL LETTER A and CYRILLIC SMALL LETTER A"
    assert difference("Car", "c\u0430r") == "LATIN SMALL LETTER A and CYRILLIC SMALL LETTER A"
    assert difference("front-door", "front\u2013door") == "HYPHEN-MINUS and EN DASH"
    assert difference("car", "car\u200d") == "the end and ZERO WIDTH JOINER"
    assert difference("Car", "car") == "case"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac-roman", "cp437", "cp1251"])
def test_the_likely_spelling_of_a_name_that_was_read_in_another_encoding(encoding):
    for name in ("Gr\u00fcn", "\u00e9t\u00e9", "\u043c\u0430\u0448\u0438\u043d\u0430"):
        scrambled = name.encode().decode(encoding, "replace")
        if "\ufffd" not in scrambled:
            assert unscrambled(scrambled) == name
    twice = "Gr\u00fcn".encode().decode("cp1252").encode().decode("cp1252")
    assert unscrambled(twice) == "Gr\u00fcn"
    assert unscrambled("Gr&uuml;n") == unscrambled("Gr\\u00fcn") == unscrambled("Gr#U00fcn") == "Gr\u00fcn"
    assert unscrambled("&amp;amp;uuml;") == "\u00fc" and unscrambled("&" + "amp;" * 1000).startswith("&amp;")
    assert unscrambled("\u6c7d\u8f66".encode().decode("gbk")) == "\u6c7d\u8f66"
    assert unscrambled(clean("voil\u00e0".encode().decode("latin-1"))) == "voil\u00e0"


def test_names_in_any_script_are_not_scrambled():
    latin, others = (
        "car Gr\u00fcn na\u00efve S\u00e3o MA\u00c7\u00c3",
        "\u6c7d\u8f66 \u8054\u901a \u043b\u0451\u0434 \u03bc\u03ac\u03c4\u03b9",
    )
    names = [*latin.split(), *others.split()]
    assert not [name for name in names if unscrambled(name)]
