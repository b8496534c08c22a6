"""Tables in a Markdown page: the text between the marks `<!-- NAME -->` and `<!-- /NAME -->` is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file

PAGE = Path("docs/results.md")
FIGURES = Path("docs/figures")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def commits(names: Iterable[str]) -> str:
    """A line that lists the commits, each once."""
    names = sorted({*names})
    return f"Commit{'s' * (len(names) > 1)} {', '.join(names)}."


def write(page: Path, blocks: Mapping[str, str]) -> None:
    """Put each block between its marks, or at the end of the page. Raises UserError if the closing mark is missing."""
    text = page.read_text(encoding="utf-8")
    for name, content in blocks.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        if not found:
            before, rest = f"{text.rstrip()}\n\n", f"\n{closing}\n"
        _, closed, after = rest.partition(closing)
        if not closed:
            raise UserError(f"{page}: {opening} has no {closing}")
        text = "\n\n".join(part for part in (f"{before}{opening}", content, f"{closing}{after}") if part)
    with replace_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
