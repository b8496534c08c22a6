"""The outcomes as a table in Markdown, and as the one line that matters."""

from __future__ import annotations

from collections.abc import Sequence

from ablations import page
from benchmarks.faults.case import FAILURES, Fault, Outcome

RIGHT = 0.9  # share of all faults to be named right; of those of the catalogue, all
HEAD = ("fault", "failure", "caught in", "named", "right")


def row(outcome: Outcome) -> tuple[str, ...]:
    causes = ", ".join(cause for cause, _ in outcome.named)
    named = f"crash: {outcome.line}" if outcome.crash else causes or ("refused" if outcome.when else "")
    if not isinstance(outcome.case, Fault):
        return (outcome.case.name, "healthy", outcome.when or "", named, "no" if outcome.when else "yes")
    when, right = outcome.when or "not caught", "yes" if outcome.right else "no"
    return (outcome.case.name, outcome.case.failure, when, named, right)


def table(outcomes: Sequence[Outcome]) -> str:
    """Faults of the catalogue of failures first, in its order; healthy runs last."""

    def key(outcome: Outcome) -> tuple[bool, int]:
        failure = getattr(outcome.case, "failure", "")
        return not isinstance(outcome.case, Fault), FAILURES.index(failure) if failure else len(FAILURES)

    rows = map(row, sorted(outcomes, key=key))
    return page.table(HEAD, [[cell.replace("|", "/") for cell in cells] for cells in rows])


def verdict(outcomes: Sequence[Outcome]) -> tuple[bool, str]:
    """Whether every target is met, and the main figures."""
    faults = [outcome for outcome in outcomes if isinstance(outcome.case, Fault)]
    listed = [outcome for outcome in faults if outcome.case.failure]
    right, known = (sum(outcome.right for outcome in some) for some in (faults, listed))
    caught, healthy = sum(outcome.when is not None for outcome in faults), len(outcomes) - len(faults)
    alarms = sum(outcome.when is not None for outcome in outcomes) - caught
    good = known == len(listed) and right >= RIGHT * len(faults) and not alarms
    return good, (
        f"cause named right: {right} of {len(faults)} faults ({right / max(len(faults), 1):.0%}; caught {caught}), "
        f"{known} of {len(listed)} of the catalogue of failures; alarms on healthy runs: {alarms} of {healthy}"
    )
