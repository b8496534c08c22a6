"""Is what a network takes for seen what its training data show? Told from the data themselves, not from the count that
it was built on."""

from __future__ import annotations

from collections.abc import Sequence

from mtseg.checks.findings import Finding
from mtseg.core.params import Model
from mtseg.core.tables import Image
from mtseg.model.heads import Combinations
from mtseg.model.mask2former import Mask2Former


def check(network: Mask2Former, train: Sequence[Image], *, model: Model, change: str) -> list[Finding]:
    """An error where the combinations of labels that weigh 1 are not those of train and their mirror images. change:
    what to mend."""
    tasks, given = network.tasks, network.heads[0]
    every = (tuple(i.labels[task.name] for task in tasks) for image in train for i in image.instances if not i.crowd)
    shown = {labels for labels in every if None not in labels}
    flipped = [task.flipped() for task in tasks]
    shown |= {tuple(flip[label] for flip, label in zip(flipped, labels, strict=True)) for labels in shown}
    if not isinstance(given, Combinations):
        if len(tasks) == 1 or model.unseen_combinations == 1 or not shown:
            return []
        evidence = f"model.unseen_combinations is {model.unseen_combinations:g}, but every head has its own softmax"
    elif given.unseen != model.unseen_combinations:
        evidence = f"what is unseen weighs {given.unseen:g}, model.unseen_combinations is {model.unseen_combinations:g}"
    else:
        seen = {tuple(labels) for labels in given.seen.tolist()}
        missing, alien = len(shown - seen), len(seen - shown)
        if not missing and not alien:
            return []
        evidence = (f"of {len(shown)} combinations of labels that train and its mirror images show {missing} are held "
                    f"for unseen, of {len(seen)} held for seen {alien} are not among them")  # fmt: skip
    return [Finding("prior_wrong", "error", evidence, change)]
