"""Everything that is checked before training: first what needs no network, then what needs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mtseg.checks import batches, images, labels, mapper, network, settings
from mtseg.checks.findings import Finding, of_severity
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.data import manifest
from mtseg.model.device import pick
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former


def run(
    data: Path, *, root: Path, tasks: Sequence[Task], model: Model, input: Input, solver: Solver, loss: Loss,
    device: str, seed: int,
) -> list[Finding]:  # fmt: skip
    """Every finding on the manifest `data`. After errors in the labels nothing else is checked, after errors in the
    data or settings no network. Raises UserError for an image that does not decode."""
    where, records = pick(device), manifest.load(data)
    tasks = records.tasks(tasks)
    train, val = records.images("train"), records.images("val")
    findings = labels.check(train, val, tasks=tasks, input=input)
    if of_severity(findings, "error"):
        return findings
    findings += settings.check(train, tasks=tasks, model=model, input=input, solver=solver, loss=loss)
    # a fault of the mapper would be found in its batches again
    findings += mapper.check(tasks, input=input) or batches.check(tasks, input=input)
    findings += images.check(train, val, root=root, tasks=tasks)
    if of_severity(findings, "error") or not solver.max_iter:
        return findings
    torch.manual_seed(seed)
    seen = seen_combinations(records.combinations("train"), tasks, model)
    given = Mask2Former(tasks, model, loss=loss, seen=seen).to(where)
    return findings + network.check(given, train, root=root, model=model, input=input, solver=solver, seed=seed)


def verdict(findings: Sequence[Finding]) -> dict[str, list]:
    """What training depends on: cause and place of every error. Warnings and wording are left out, so that a change of
    them starts no training."""
    return {"errors": sorted([one.cause, one.where or ""] for one in of_severity(findings, "error"))}
