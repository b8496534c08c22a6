"""Names that look the same are distinguished, and the difference is named."""

from mtseg.core.names import clean, difference, means_background, twins


def test_twins_differ_in_case_look_alike_characters_blanks_or_hyphens():
    cyrillic, dash = "c\u0430r", "front\u2013door"
    assert twins(["car", cyrillic, "Car", "cart"]) == [["car", cyrillic, "Car"]]
    assert twins(["front-door", dash, "front door", "front_door"]) == [["front-door", dash, "front door", "front_door"]]
    assert twins(["traffic light", "trafficlight", "\uff54raffic_light"]) != []
    assert twins(["left", "right", "l", "r", "1-1", "11", "-1", "1", "to\u0440", "tour"]) == []


def test_marks_that_cannot_be_seen_are_no_part_of_a_name():
    assert clean("\u200f\ufeffcar\u202c \u200b") == "car"
    persian = "\u0645\u06cc\u200c\u0631\u0648\u0645"
    assert clean(persian) == persian, "a zero-width non-joiner is a part of a Persian word"


def test_names_for_no_object():
    assert all(map(means_background, ["background", "Background", "__background__", "no-object", "No Object", "void"]))
    assert not any(map(means_background, ["backgrounds", "object", "none", "car"]))


def test_the_difference_names_the_characters():
    assert difference("car", "c\u0430r") == "LATIN SMALL LETTER A and CYRILLIC SMALL LETTER A"
    assert difference("Car", "c\u0430r") == "LATIN SMALL LETTER A and CYRILLIC SMALL LETTER A"
    assert difference("front-door", "front\u2013door") == "HYPHEN-MINUS and EN DASH"
    assert difference("car", "car\u200d") == "the end and ZERO WIDTH JOINER"
    assert difference("Car", "car") == "case"
