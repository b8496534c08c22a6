"""Run all checks before training: first those without a network, then those with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mtseg.checks import alignment, batches, cost, images, labels, mapper, network, resolution, settings, style
from mtseg.checks.findings import Finding, of_severity
from mtseg.core.params import Input, Loss, Model, Solver, Task
from mtseg.core.tables import PART, return_memory
from mtseg.data import manifest
from mtseg.model.device import pick
from mtseg.model.heads.combinations import seen_combinations
from mtseg.model.mask2former import Mask2Former

MISPLACED = {  # they explain other differences between outlines, such as their sizes, and come first
    "masks_displaced", "masks_scaled", "masks_mirrored", "masks_transposed", "images_turned", "masks_of_other_image",
}  # fmt: skip
COLOURS = {"channels_swapped", "labels_permuted"}


def run(
    data: Path, *, root: Path, tasks: Sequence[Task], model: Model, input: Input, solver: Solver, loss: Loss,
    detections: int, max_dets: Sequence[int], device: str, seed: int,
) -> list[Finding]:  # fmt: skip
    """All findings for the manifest `data`. Errors in the labels skip all other checks; errors in the data or settings
    skip the checks of the network. Raises UserError if an image does not decode."""
    where, records = pick(device), manifest.load(data)
    tasks = records.tasks(tasks)
    large = records.splits["train"]["instances"] > PART
    if large:
        return_memory()
    train = records.images("train")
    if large:  # half of what reading took is free again
        return_memory()
    scored = {split: records.images(split) for split in records.splits if split != "train"}
    findings = labels.check(train, scored, tasks=tasks, input=input)
    if of_severity(findings, "error"):
        return findings
    findings += settings.check(
        train, scored, tasks=tasks, model=model, input=input, solver=solver, loss=loss, detections=detections,
        max_dets=max_dets,
    )  # fmt: skip
    findings += style.check(train, scored, tasks=tasks, input=input)
    ceilings = resolution.ceilings(scored["val"], tasks[0], input.size)
    # batches of a faulty mapper would repeat its findings
    findings += mapper.check(tasks, input=input) or batches.check(tasks, input=input)
    findings += images.check(train, scored, root=root, tasks=tasks, input=input)
    findings += resolution.check(ceilings, input=input)  # last: faults of val's outlines change it
    findings = in_order(findings)
    built, costs = None, {}
    if solver.max_iter and not of_severity(findings, "error"):
        torch.manual_seed(seed)
        seen = seen_combinations(records.combinations("train"), tasks, model)
        built = Mask2Former(tasks, model, loss=loss, seen=seen)
        costs = cost.costs(built, ceilings, images=solver.ims_per_batch) if ceilings else {}
    for line in resolution.lines(ceilings, costs, input.size):
        print(line)
    if not built:
        return findings
    built.to(where)
    findings += network.loaded(built, model=model, solver=solver)
    return findings + network.check(built, train, root=root, model=model, input=input, solver=solver, seed=seed)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Misplaced outlines first, and other sizes of the objects after other outlines, which change them. Boxes drawn for
    outlines also lie on no edges, and contain other colours; other outlines may lie on none. A misspelt class is in one
    split alone."""
    boxes = {one.where for one in findings if one.cause == "boxes_for_outlines"}
    loose = {one.where for one in findings if one.cause == "outlines_differ"}
    alike = {one.where for one in findings if one.cause == "classes_alike"}
    explains = {**dict.fromkeys(MISPLACED | COLOURS, boxes), "class_mix_differs": alike}
    kept = [one for one in findings if one.where not in explains.get(one.cause, ()) or one.severity == "error"]
    return sorted(
        kept,
        key=lambda one: (
            one.cause not in MISPLACED or bool(loose) and alignment.unexplained(one),
            (one.cause == "splits_differ" and one.where in loose) or alignment.unexplained(one),
        ),
    )


def verdict(findings: Sequence[Finding]) -> dict[str, list]:
    """Cause and place of every error, on which the stage `train` depends. Warnings and wording are left out, so that
    changing them does not start a new training run."""
    return {"errors": sorted([one.cause, one.where or ""] for one in of_severity(findings, "error"))}
