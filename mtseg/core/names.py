"""Class names and labels as people type them: the same name in every form of Unicode and with any blanks.

Look-alike characters: Unicode Technical Standard 39, "confusable" characters, of which the common ones are listed here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # zero-width blanks, byte order mark, soft hyphen
LOOK_ALIKE = str.maketrans(
    "аеорсухіјѕԁһӏАВЕКМНОРСТХІЈЅοαρνικτυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ‐‑‒–—−‘’′＿",
    "aeopcyxijsdhlABEKMHOPCTXIJSoapviktuABEZHIKMNOPTYX------'''_",
)
COMMAS = re.compile("[,，、﹐]")


def clean(name: str) -> str:
    """The name in Unicode's form NFC, without invisible characters, with single plain blanks, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", name).translate(INVISIBLE).split())


def twins(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ only in case, look-alike characters, blanks, hyphens or underscores."""
    groups: dict[str, list[str]] = {}
    for name in names:
        shape = unicodedata.normalize("NFKC", name).translate(LOOK_ALIKE).casefold()
        groups.setdefault(re.sub(r"[\s_-]+", " ", shape), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def difference(one: str, other: str) -> str:
    """What distinguishes twins that look the same: the first different character of each with its Unicode name; "" if
    they differ in case or length only."""
    for a, b in zip(one, other, strict=False):
        if a.casefold() != b.casefold():
            return f"{unicodedata.name(a, hex(ord(a)))} and {unicodedata.name(b, hex(ord(b)))}"
    return ""
