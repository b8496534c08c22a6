"""Class names and labels as people type them: the same name in every form of Unicode and with any blanks.

Look-alike characters: Unicode Technical Standard 39, "confusable" characters, of which the common ones are listed here.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import zip_longest

# zero-width blanks, byte order mark, soft hyphen, marks of the writing direction, which copied text often carries
INVISIBLE = dict.fromkeys([*map(ord, "\u200b\u2060\ufeff\u00ad\u200e\u200f\u061c"), *range(0x202A, 0x202F)])
JOINERS = dict.fromkeys([0x200C, 0x200D, *range(0xFE00, 0xFE10)])  # part of the spelling in some scripts, invisible too
LOOK_ALIKE = str.maketrans(
    "аеорсухіјѕԁһӏıАВЕКМНОРСТХІЈЅοαρνικτυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ‐‑‒–—−‘’′＿",
    "aeopcyxijsdhliABEKMHOPCTXIJSoapviktuABEZHIKMNOPTYX------'''_",
)
COMMAS = re.compile("[,，、﹐]")
# blanks, hyphens and underscores between words; between numbers they matter: 1-1 is not 11
SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=\w)|(?<=\w)[\s_-]+(?=[^\W\d_])|(?<=[^\W\d_])[\s_-]+$")
SCRAMBLING = ("cp1252", "mac-roman", "cp437", "cp1251", "gbk")  # in which UTF-8 is read by mistake
LONGEST = 1000
BACKGROUND = {"background", "bg", "noobject", "nothing", "unlabeled", "unlabelled", "void"}
BACKGROUND |= {"nan", "null", "undefined"}  # as Python and JavaScript write a missing name


def clean(name: str) -> str:
    """The name in Unicode's form NFC, without invisible characters, with single plain blanks, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", name).translate(INVISIBLE).split())


def control(name: str) -> str | None:
    """The first control character of a name, or half of a character (a lone surrogate), escaped; None if it has none.
    A terminal may obey the first, and the second cannot be written to a file."""
    found = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs")), None)
    return found and found.encode("unicode_escape").decode()


def unscrambled(name: str, times: int = 4) -> str | None:
    """The likely spelling of a name that was escaped, such as "Gr&uuml;n", or whose UTF-8 was read in another encoding,
    as that of "GrÃ¼n"; None for others, which are hardly ever valid UTF-8 when they are written back. times: that it
    was escaped or read so, at most."""
    if not times:
        return None
    plain = html.unescape(re.sub(r"(?:\\u|#U)([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), name))
    if plain != name:
        return unscrambled(plain, times - 1) or plain
    if name.isascii():
        return None
    # the second half of à and í are a blank and an invisible character, which `clean` takes out
    whole = re.sub("(?<=[a-z])Ã(?= |$)", "Ã\xa0", re.sub("(?<=[a-z])Ã(?=[a-z])", "Ã\xad", name))
    for encoding in SCRAMBLING:
        with suppress(UnicodeError):
            # bytes that an encoding lacks are mostly read as control characters
            found = b"".join(c.encode("latin-1" if "\x7f" < c < "\xa0" else encoding) for c in whole).decode()
            rare = encoding == "gbk" and any("\x7f" < c < "\u0800" for c in found)  # Chinese would be read as Greek
            if found != whole and not rare:
                return unscrambled(found, times - 1) or found
    return None


def twins(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ only in case, look-alike characters, blanks, hyphens or underscores."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(shape(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def are_twins(one: str, other: str) -> bool:
    """Whether two names look nearly the same; see `twins`."""
    return shape(one) == shape(other)


def means_background(name: str) -> bool:
    """Whether it is a usual name for what is no object, such as "Background" or "no-object"."""
    return shape(name).strip("_") in BACKGROUND


@lru_cache(2**16)
def shape(name: str) -> str:
    """The same for names that look nearly the same. One of more than `LONGEST` characters is alike to itself only: the
    time grows with the square of its blanks."""
    if len(name) > LONGEST:
        return name
    plain = unicodedata.normalize("NFKC", name).translate(JOINERS).translate(LOOK_ALIKE).casefold()
    return SEPARATORS.sub("", plain)


def difference(one: str, other: str) -> str:
    """What distinguishes twins: "case", or the first character that differs, with its Unicode name."""
    if one.casefold() == other.casefold():
        return "case"
    for a, b in zip_longest(one, other):
        if a is None or b is None or a.casefold() != b.casefold():
            return " and ".join("the end" if c is None else unicodedata.name(c, f"U+{ord(c):04X}") for c in (a, b))
    return ""
