"""How a training fares, beside its losses: figures that stay on the device and are fetched once a log period."""

from __future__ import annotations

import torch
from torch import Tensor

from mtseg.core.tables import UNLABELLED
from mtseg.model.decoder import QueryOutput
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Matches, Target

MEBIBYTE = 2**20


class Health:
    """Over the steps since the last `fetch`:

    background_TASK  share of the matched queries with a label of the task that answer no-object all the same (F10)
    stability        share of the instances that the last two decoder layers match to the same query
    gradient_PART    mean norm of the gradient, before clipping: each head, the other parts without them
    memory           peak of the CUDA device in MiB; not on a CPU, whose figure no two runs share
    """

    def __init__(self, network: Mask2Former):
        self.tasks, self.class_logits, self.device = network.tasks, network.heads.class_logits, network.device
        heads = {name: list(head.parameters()) for name, head in network.decoder.heads.items()}
        inside = {id(parameter) for head in heads.values() for parameter in head}
        rest = {"decoder": network.decoder, "pixel_decoder": network.pixel_decoder, "backbone": network.backbone}
        self.parts = heads | {
            name: [parameter for parameter in part.parameters() if id(parameter) not in inside]
            for name, part in rest.items()
        }
        answered = [task.name for task in self.tasks if task.background]
        self.shares = [*(f"background_{name}" for name in answered), "stability"]
        self.names = [*self.shares, *(f"of_{name}" for name in self.shares), *self.parts, "steps"]
        self.sums = torch.zeros(len(self.names), device=self.device)

    @torch.no_grad()
    def watch(self, output: QueryOutput, targets: list[Target], matches: Matches) -> None:
        """Note a batch's matching; waits for nothing."""
        most = max((len(target.labels) for target in targets), default=0)
        if not most:
            return
        L, B, _, _ = output.mask_embed_LBQC.shape
        query_LBN = torch.full((L, B, most), -1, device=self.device)
        query_LBN[matches.layer, matches.image, matches.instance] = matches.query
        last_BN, found_BN = query_LBN[-1], query_LBN[-1] >= 0
        labels_BNT = torch.full((B, most, len(self.tasks)), UNLABELLED, device=self.device)
        for b, target in enumerate(targets):
            labels_BNT[b, : len(target.labels)] = target.labels
        parts, wholes, answers = [], [], self.class_logits(output.last())
        for i, task in enumerate(self.tasks):
            if task.background:
                answer_BQ = answers[task.name].argmax(-1)
                counted_BN = found_BN & (labels_BNT[..., i] != UNLABELLED)
                answer_BN = answer_BQ.gather(1, last_BN.clamp(min=0))
                parts.append((counted_BN & (answer_BN == task.num_classes)).sum())
                wholes.append(counted_BN.sum())
        parts.append((found_BN & (last_BN == query_LBN[-2])).sum())
        wholes.append(found_BN.sum())
        self.sums[: 2 * len(parts)] += torch.stack(parts + wholes)

    @torch.no_grad()
    def gradients(self) -> Tensor:
        """Note a step's gradients, not yet clipped; their norms [parts], on the device."""
        norms = torch.stack([self._norm(part) for part in self.parts.values()])
        self.sums[2 * len(self.shares) : -1] += norms
        self.sums[-1] += 1
        return norms

    def _norm(self, parameters: list[Tensor]) -> Tensor:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else self.sums.new_zeros(())

    def fetch(self) -> dict[str, float]:
        """The figures since the last time, nan for a share of nothing; starts anew."""
        sums = dict(zip(self.names, self.sums.tolist(), strict=True))
        self.sums.zero_()
        row = {name: sums[name] / whole if (whole := sums[f"of_{name}"]) else float("nan") for name in self.shares}
        row |= {f"gradient_{name}": sums[name] / max(sums["steps"], 1) for name in self.parts}
        if self.device.type == "cuda":
            row["memory"] = torch.cuda.max_memory_allocated(self.device) / MEBIBYTE
        return row

    def state(self) -> list[float]:
        return self.sums.tolist()

    def load(self, state: list[float]) -> None:
        self.sums.copy_(torch.tensor(state))
