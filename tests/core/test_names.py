"""Names that look the same are told apart, and what distinguishes them is named."""

from mtseg.core.names import difference, twins


def test_twins_differ_in_case_look_alike_characters_blanks_or_hyphens():
    cyrillic, dash = "c\u0430r", "front\u2013door"
    assert twins(["car", cyrillic, "Car", "cart"]) == [["car", cyrillic, "Car"]]
    assert twins(["front-door", dash, "front door", "front_door"]) == [["front-door", dash, "front door", "front_door"]]
    assert twins(["left", "right", "l", "r"]) == []


def test_the_difference_names_the_characters():
    assert difference("car", "c\u0430r") == "LATIN SMALL LETTER A and CYRILLIC SMALL LETTER A"
    assert difference("Car", "car") == ""
