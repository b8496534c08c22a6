"""Check that the combinations of labels that a network treats as seen are those of the training data."""

from __future__ import annotations

from collections.abc import Sequence

from mtseg.checks.findings import Finding
from mtseg.core.params import Model, with_flips
from mtseg.core.tables import Image
from mtseg.model.heads import Combinations
from mtseg.model.mask2former import Mask2Former


def check(network: Mask2Former, train: Sequence[Image], *, model: Model, change: str) -> list[Finding]:
    """An error if the combinations of weight 1 are not those of the train images and their mirror images. change: the
    fix that the finding suggests."""
    tasks, head = network.tasks, network.heads[0]
    instances = (instance for image in train for instance in image.instances if not instance.crowd)
    labels = (tuple(instance.labels[task.name] for task in tasks) for instance in instances)
    in_train = with_flips((each for each in labels if None not in each), tasks)
    if not isinstance(head, Combinations):
        if len(tasks) == 1 or model.unseen_combinations == 1 or not in_train:
            return []
        evidence = f"model.unseen_combinations is {model.unseen_combinations:g}, but every task has its own softmax"
    elif head.unseen != model.unseen_combinations:
        evidence = f"unseen combinations have weight {head.unseen:g}, expected {model.unseen_combinations:g}"
    else:
        seen = {tuple(labels) for labels in head.seen.tolist()}
        if seen == in_train:
            return []
        evidence = (
            f"{len(in_train - seen)} of the {len(in_train)} combinations of labels in train (with mirror images) count "
            f"as unseen; {len(seen - in_train)} of the {len(seen)} that count as seen are not in train"
        )
    return [Finding("prior_wrong", "error", evidence, change)]
