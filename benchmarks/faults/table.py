"""The outcomes as a table in Markdown, and as the one line that matters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.case import Fault, Outcome
from mtseg.core.files import replace_file

RIGHT = 0.9  # share of all faults to be named right; of those of the catalogue, all
MARKS = ("<!-- faults -->", "<!-- /faults -->")
HEAD = ("fault", "of", "caught in", "named", "right")


def faulty(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if isinstance(outcome.case, Fault)]


def alarms(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Healthy runs of which something was said."""
    return [outcome for outcome in outcomes if not isinstance(outcome.case, Fault) and outcome.when]


def row(outcome: Outcome) -> tuple[str, ...]:
    causes = ", ".join(cause for cause, _ in outcome.named)
    named = f"crash: {outcome.told}" if outcome.crash else causes or ("refused" if outcome.when else "")
    if not isinstance(outcome.case, Fault):
        return (outcome.case.name, "healthy", outcome.when or "", named, "no" if outcome.when else "yes")
    return (
        outcome.case.name, outcome.case.number, outcome.when or "not caught", named, "yes" if outcome.right else "no",
    )  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """Faults of the catalogue first, by their number; healthy runs last."""

    def key(outcome: Outcome) -> tuple[bool, int]:
        number = getattr(outcome.case, "number", "")
        return not isinstance(outcome.case, Fault), int(number[1:] or 99) if number else 99

    rows = [HEAD, ("---",) * len(HEAD), *map(row, sorted(outcomes, key=key))]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |" for cells in rows)


def verdict(outcomes: Sequence[Outcome]) -> tuple[bool, str]:
    """Whether every target is met, and the leading figures."""
    every = faulty(outcomes)
    listed = [outcome for outcome in every if outcome.case.number]
    right, known = (sum(outcome.right for outcome in some) for some in (every, listed))
    caught, loud = sum(outcome.when is not None for outcome in every), len(alarms(outcomes))
    good = known == len(listed) and right >= RIGHT * len(every) and not loud
    share = right / max(len(every), 1)
    return good, (
        f"cause named right: {right} of {len(every)} faults ({share:.0%}; caught {caught}), F1 to F16 {known} of "
        f"{len(listed)}; alarms on healthy runs: {loud} of {len(outcomes) - len(every)}"
    )


def write(page: Path, text: str) -> None:
    """Put `text` between the marks of a page."""
    old = page.read_text(encoding="utf-8")
    begin, end = map(re.escape, MARKS)
    new = re.sub(f"({begin}).*({end})", lambda found: f"{found[1]}\n{text}\n{found[2]}", old, flags=re.S)
    with replace_file(page) as temporary:
        temporary.write_text(new, encoding="utf-8")
