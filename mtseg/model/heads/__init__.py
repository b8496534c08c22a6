"""Heads, one per file: losses and labels from the decoder's outputs for a query (see `Head`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mtseg.core.params import Model, Task
from mtseg.model.heads._base import Candidates, Head, Logits
from mtseg.model.heads.combinations import Combinations
from mtseg.model.heads.softmax import Softmax

__all__ = ["Candidates", "Combinations", "Head", "Heads", "Softmax", "build"]


class Heads(nn.ModuleList):
    """The heads of a network, the main one first, for the tasks in their order. T is the number of all tasks; each
    method joins the results of the method of the same name in `Head`.

    match_weights: [T], 0 for a task of loss weight 0.
    """

    def __init__(self, heads: Iterable[Head]):
        super().__init__(heads)
        weights = [task.match_weight if task.loss_weight else 0.0 for task in self.tasks]
        self.register_buffer("match_weights", torch.tensor(weights), persistent=False)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for head in self for task in head.tasks)

    def outputs(self) -> dict[str, int]:
        return {task.name: head.outputs(task) for head in self for task in head.tasks}

    def class_logits(self, logits: Logits) -> dict[str, Tensor]:
        return {name: x for head in self for name, x in head.class_logits(logits).items()}

    def losses(
        self, logits: Logits, labels_MT: Tensor, matched: tuple[Tensor, Tensor, Tensor], *, no_object: float
    ) -> dict[str, Tensor]:
        found = {}
        for head, labels in zip(self, self._split(labels_MT), strict=True):
            found |= head.losses(logits, labels, matched, no_object=no_object)
        return found

    def probabilities(self, logits: Logits, labels_BNT: Tensor) -> list[Tensor]:
        pairs = zip(self, self._split(labels_BNT), strict=True)
        return [each for head, labels in pairs for each in head.probabilities(logits, labels)]

    def candidates(self, logits: Logits, most: int) -> Candidates:
        main, *further = self
        found = main.candidates(logits, most)
        labels = [found.labels, *(head.labels(logits, found.query) for head in further)]
        return Candidates(found.query, torch.cat(labels, dim=-1), found.probability, found.fields)

    def logits_of(self, labels_T: Tensor, strength: float) -> dict[str, Tensor]:
        pairs = zip(self, self._split(labels_T), strict=True)
        return {name: x for head, labels in pairs for name, x in head.logits_of(labels, strength).items()}

    def _split(self, labels_T: Tensor) -> tuple[Tensor, ...]:
        return labels_T.split([len(head.tasks) for head in self], dim=-1)


def build(tasks: Sequence[Task], model: Model, seen: Sequence[tuple[int, ...]] = ()) -> Heads:
    """One softmax over combinations of labels if `seen`, those in the training data, is not empty (see `combinations`);
    else a softmax for each task."""
    if seen:
        return Heads([Combinations(tasks, seen, unseen=model.unseen_combinations)])
    return Heads([Softmax([task]) for task in tasks])
