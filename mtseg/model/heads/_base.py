"""Base class of the heads.

L decoder layers, B images, Q queries, N instances of an image, M matched pairs, T tasks of a head, K outputs of a
task's linear layer, k detections of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED

Logits = Mapping[str, Tensor]  # task -> [..., K], the outputs of the linear layers of all tasks


@dataclass(frozen=True)
class Candidates:
    """Pairs of a query and labels of each image: query [B, k], labels [B, k, T], probability of the labels [B, k].

    fields: [B, k, ...] each, stored with the detections. The field `probabilities` [B, k, T], of each label given
    the labels of the preceding tasks, replaces those of the softmax of the class logits.
    """

    query: Tensor
    labels: Tensor
    probability: Tensor
    fields: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, image: int) -> Candidates:
        """Those of one image, without the dimension B."""
        fields = {name: x[image] for name, x in self.fields.items()}
        return Candidates(self.query[image], self.labels[image], self.probability[image], fields)


class Head(nn.Module, ABC):
    """Turns the outputs of the linear layers of one task or several into losses, matching costs and labels.

    A head must define `losses`; the other methods have defaults based on `class_logits`. The first head of a network is
    the main one: its `candidates` are the detections, and its first task has a background slot. The other heads label
    the detected queries.
    """

    def __init__(self, tasks: Sequence[Task]):
        super().__init__()
        self.tasks = tuple(tasks)
        for t, task in enumerate(self.tasks):  # on the device: a tensor of a list would be a transfer in each step
            weights = torch.tensor(task.weights, dtype=torch.float64)
            self.register_buffer(f"weights_{t}", weights, persistent=False)

    def class_weights(self, t: int, like: Tensor) -> Tensor:
        """[classes]: `weights` of the head's task `t`, in the precision and on the device of `like`."""
        return self.get_buffer(f"weights_{t}").to(like)

    def outputs(self, task: Task) -> int:
        """Outputs of the task's linear layer."""
        return task.num_outputs

    def class_logits(self, logits: Logits) -> dict[str, Tensor]:
        """task -> [..., classes], with no-object last if the task has a background slot. Their softmax is the marginal
        probability of each class."""
        return {task.name: logits[task.name] for task in self.tasks}

    @abstractmethod
    def losses(
        self, logits: Logits, labels_MT: Tensor, matched: tuple[Tensor, Tensor, Tensor], *, no_object: float
    ) -> dict[str, Tensor]:
        """task -> [L], summed over the queries of a layer. Matched queries, at `matched` (layer, image, query), have
        the weight of their class in `task.weights`, 0 if unlabelled; unmatched queries of a task with a background slot
        have the weight `no_object`. The caller applies the task's loss weight and the normaliser."""

    def probabilities(self, logits: Logits, labels_BNT: Tensor) -> list[Tensor]:
        """T x [L, B, Q, N], for the matching cost: probability of each label of each image's instances, 1 where
        unlabelled."""
        found = []
        for x_LBQK, label_BN in zip(self.class_logits(logits).values(), labels_BNT.unbind(-1), strict=True):
            index = label_BN.clamp(min=0)[None, :, None].expand(*x_LBQK.shape[:1], -1, x_LBQK.shape[2], -1)
            own = x_LBQK.softmax(-1).gather(-1, index)
            found.append(own.masked_fill((label_BN == UNLABELLED)[None, :, None], 1))
        return found

    def candidates(self, logits: Logits, most: int) -> Candidates:
        """The at most `most` pairs of a query and a main class with the highest probability in each image, best first;
        called on the main head. logits: {task: [B, Q, K]}."""
        main = self.tasks[0]
        probability_BQK = self.class_logits(logits)[main.name].softmax(-1)[..., : main.num_classes]
        flat = probability_BQK.flatten(1)
        probability, index = flat.topk(min(most, flat.shape[1]))
        query = index // main.num_classes
        labels = torch.cat([(index % main.num_classes)[..., None], self.labels(logits, query)[..., 1:]], dim=-1)
        return Candidates(query, labels, probability)

    def labels(self, logits: Logits, query: Tensor) -> Tensor:
        """int [B, k, T]: the most probable class of each task for the queries [B, k]. logits: {task: [B, Q, K]}."""
        own = zip(self.tasks, self.class_logits(logits).values(), strict=True)
        return torch.stack([x[..., : task.num_classes].argmax(-1).gather(1, query) for task, x in own], dim=-1)

    def logits_of(self, labels_T: Tensor, strength: float) -> dict[str, Tensor]:
        """task -> [..., K]: outputs +-`strength` that predict the labels [..., T], no-object where a label is negative.
        Used by checks."""
        found = {}
        for task, label in zip(self.tasks, labels_T.unbind(-1), strict=True):
            slot = task.num_classes if task.background else 0  # without that slot all classes get -strength
            chosen = F.one_hot(torch.where(label < 0, slot, label), self.outputs(task))
            right = chosen.bool() if task.background else chosen.bool() & (label >= 0)[..., None]
            found[task.name] = torch.where(right, strength, -strength)
        return found
