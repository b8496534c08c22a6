"""Faults from public bug reports, round by round; the comment of each is the report, as owner/repository#number.

All were written, with the causes that count as correct, before any of their round was run; `first_try.tsv` has what was
named then, before anything was changed for them."""

from benchmarks.faults.reports import (
    round_1,
    round_2,
    round_4,
    round_5,
    round_6,
    round_7,
    round_8,
    round_9,
    round_10,
    round_11,
    round_12,
    round_13,
    round_14,
)  # fmt: skip

ROUNDS = (
    round_1,
    round_2,
    round_4,
    round_5,
    round_6,
    round_7,
    round_8,
    round_9,
    round_10,
    round_11,
    round_12,
    round_13,
    round_14,
)
