"""All that is looked at before a step is trained, in two rounds: what needs no network, and what needs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mtseg.checks import batches, labels, mapper, network, settings
from mtseg.checks import images as pictures
from mtseg.checks.findings import Finding, of_severity
from mtseg.core.errors import UserError
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.core.tables import Image
from mtseg.data import manifest
from mtseg.model.device import pick
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former


def of_data(
    train: Sequence[Image], val: Sequence[Image], *, root: Path, tasks: Sequence[Task], model: Model, input: Input,
    solver: Solver, loss: Loss,
) -> list[Finding]:  # fmt: skip
    """Labels, settings, the mapper and its batches, the pictures. `tasks` with their classes filled in. Raises
    UserError for a picture that does not decode."""
    found = labels.check(train, val, tasks=tasks, input=input)
    if of_severity(found, "error"):  # on these the rest would stumble
        return found
    found += settings.check(train, tasks=tasks, model=model, input=input, solver=solver, loss=loss)
    # what the mapper does wrong would be told of its batches again
    found += mapper.check(tasks, input=input) or batches.check(tasks, input=input)
    return found + pictures.check(train, val, root=root, tasks=tasks)


def of_network(
    given: Mask2Former, train: Sequence[Image], *, root: Path, model: Model, input: Input, solver: Solver, seed: int
) -> list[Finding]:
    """Heads, matching, losses and detection by known answers; one step of training on a copy of the network."""
    return network.check(given, train, root=root, model=model, input=input, solver=solver, seed=seed)


def alone(
    data: Path, *, root: Path, tasks: Sequence[Task], model: Model, input: Input, solver: Solver, loss: Loss,
    device: str, seed: int,
) -> list[Finding]:  # fmt: skip
    """Every finding, without a training behind it; the network is looked at only where the data have no error."""
    where, records = pick(device), manifest.load(data)
    tasks = records.tasks(tasks)
    train, val = records.images("train"), records.images("val")
    found = of_data(train, val, root=root, tasks=tasks, model=model, input=input, solver=solver, loss=loss)
    if of_severity(found, "error"):
        return found
    torch.manual_seed(seed)
    seen = seen_combinations(records.combinations("train"), tasks, model)
    given = Mask2Former(tasks, model, loss=loss, seen=seen).to(where)
    return found + of_network(given, train, root=root, model=model, input=input, solver=solver, seed=seed)


def heed(found: Sequence[Finding], say: Callable[[str], None]) -> None:
    """Tell the warnings and notes. Raises UserError with every error."""
    for finding in found:
        if finding.severity != "error":
            say(finding.line())
    if errors := of_severity(found, "error"):
        raise UserError.many("preflight found what has to be mended before training:", [one.text() for one in errors])
