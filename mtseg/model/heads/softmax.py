"""A separate softmax for each task, as Mask2Former has for its classes: one output for each class and, if the task has
a background slot, one for no-object.

L decoder layers, B images, Q queries, K outputs, M matched pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtseg.core.tables import UNLABELLED
from mtseg.model.heads._base import Head, Logits


class Softmax(Head):
    def losses(
        self, logits: Logits, labels_MT: Tensor, matched: tuple[Tensor, Tensor, Tensor], *, no_object: float
    ) -> dict[str, Tensor]:
        """Weighted cross-entropy. The target of unmatched queries is no-object, the last output, if the task has it."""
        found = {}
        for t, (task, label_M) in enumerate(zip(self.tasks, labels_MT.unbind(-1), strict=True)):
            L, B, Q, K = logits[task.name].shape
            target = torch.full((L, B, Q), K - 1 if task.background else UNLABELLED, device=label_M.device)
            target[matched] = label_M
            weight = self.class_weights(t, logits[task.name])
            if task.background:
                weight = F.pad(weight, (0, 1), value=no_object)
            each = F.cross_entropy(
                logits[task.name].flatten(0, 2), target.flatten(), weight, ignore_index=UNLABELLED, reduction="none"
            )
            found[task.name] = each.view(L, -1).sum(1)
        return found
