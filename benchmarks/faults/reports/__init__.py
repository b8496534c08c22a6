"""Faults from public bug reports, round by round; the comment of each is the report, as owner/repository#number.

All were written, with the causes that count as correct, before any of their round was run; `first_try.tsv` has what was
named then, before anything was changed for them."""

from importlib import import_module

ROUNDS = tuple(import_module(f"{__name__}.round_{number}") for number in (1, 2, *range(4, 16)))
