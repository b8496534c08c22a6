"""Optimiser steps. A loss or gradient that is not finite stops the training, and is reported by name, step and
images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import SupportsFloat

import torch
from torch import Tensor

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file
from mtseg.core.params import Solver
from mtseg.data.loader import Example
from mtseg.model.device import amp_dtype, to_host
from mtseg.model.losses import Normaliser
from mtseg.model.mask2former import Mask2Former
from mtseg.model.points import Place
from mtseg.model.ranks import ALONE, Ranks
from mtseg.training.monitor import Health
from mtseg.training.optimizer import optimizer, schedule

PATIENCE = 20  # successive steps that float16 may skip: its loss scale is then 2^-20 of the initial one


class NotFinite(UserError):
    """A loss or gradient is infinite or NaN. cause: `loss_not_finite` or `gradient_not_finite`. names: the losses, or
    the parts of the network. where: the step and its images."""

    def __init__(self, cause: str, names: str, where: str, advice: str):
        super().__init__(f"{cause}: {where}: {names}; {advice}")
        self.cause, self.names, self.where = cause, names, where


class Stepper:
    """A network with its optimiser. broken: file to which a batch is saved if its loss or gradient is not finite.
    ranks: each computes its share of the batches; all then have the same gradients, and the same weights."""

    def __init__(self, network: Mask2Former, solver: Solver, *, broken: Path | None = None, ranks: Ranks = ALONE):
        self.network, self.solver, self.broken, self.ranks = network, solver, broken, ranks
        self.optimizer = optimizer(network, solver)  # it freezes the heads of tasks without weight
        self.trained = [p for p in network.parameters() if p.requires_grad]
        self.schedule = schedule(solver)
        self.dtype = amp_dtype(network.device) if solver.amp else None
        torch.backends.cuda.matmul.allow_tf32 = solver.tf32  # of convolutions PyTorch allows it by itself
        self.scaler = torch.amp.GradScaler(network.device.type, enabled=self.dtype == torch.float16)
        self.health = Health(network)
        network.watch = self.health.watch
        self._skipped = 0  # steps in a row

    def __call__(self, batches: list[list[Example]], step: int) -> dict[str, float]:
        """One step, number `step` from 0, with gradients accumulated over `batches`, of which each rank gives its
        share. Returns lr, loss, and the losses by name, summed over decoder layers. Raises NotFinite if a loss or
        gradient is not finite; in float16, where the scaler skips a step with such a gradient and lowers its scale,
        only after `PATIENCE` successive steps.

        The host waits for the device once for each batch, for the matching costs, and once for losses and norms, when
        all is queued."""
        if not self.network.training:
            self.network.train()
        lr = self.schedule(min(step / max(self.solver.max_iter, 1), 1 - 1e-9))
        lr *= min(1.0, (step + 1) / max(self.solver.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr
        norm, places = self._normaliser(batches)
        before, losses, fault = self.health.sums.clone(), [], None
        for number, batch in enumerate(batches):
            try:
                with torch.autocast(self.network.device.type, self.dtype, enabled=bool(self.dtype)):
                    own = self.network(batch, norm, places[number])
            except FloatingPointError as error:
                fault = number, str(error)
                break
            self.scaler.scale(sum(own.values())).backward()
            losses.append({name: value.detach() for name, value in own.items()})
        self._sum_gradients(before, fault, step, batches)
        self.scaler.unscale_(self.optimizer)
        norms = self.health.gradients()
        if self.solver.clip:
            torch.nn.utils.clip_grad_norm_(self.trained, self.solver.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        *rows, norms = to_host([*(torch.stack([*own.values()]) for own in losses), norms])
        of_ranks = zip(*self.ranks.gather([row.tolist() for row in rows]), strict=True)
        values = {"lr": self.solver.lr * lr, "loss": 0.0}
        for batch, own, shares in zip(batches, losses, of_ranks, strict=True):
            try:
                row = map(sum, zip(*shares, strict=True))
                for name, value in checked(dict(zip(own, row, strict=True))).items():
                    total = name.rpartition("_")[0]  # loss_mask_0, loss_mask_1, ... -> loss_mask
                    values[total] = values.get(total, 0.0) + value
                    values["loss"] += value
            except FloatingPointError as error:
                raise self._stop("loss_not_finite", str(error), step, [batch]) from None
        self._check([math.isfinite(norm) for norm in norms.tolist()], step, batches)
        return values

    def _normaliser(self, batches: list[list[Example]]) -> tuple[Normaliser, list[Place]]:
        """The normaliser of the step, and the place of each of this rank's batches in that of all ranks."""
        own = [[example["instances"].gt_labels for example in batch] for batch in batches]
        shares = [*zip(*self.ranks.gather(own), strict=True)]  # of each batch those of all ranks
        norm = self.network.normaliser([labels for batch in shares for share in batch for labels in share])
        places = []
        for batch in shares:
            counts = [[len(labels) for labels in share] for share in batch]
            rank = self.ranks.rank
            places.append(Place(sum(counts[:rank], []), sum(counts[rank + 1 :], [])))
        return norm, places

    def _sum_gradients(
        self, before: Tensor, fault: tuple[int, str] | None, step: int, batches: list[list[Example]]
    ) -> None:
        """Sum the gradients and this step's health statistics over all ranks. before: the statistics before the step.
        fault: number of the batch that has no loss, and why. Raises NotFinite in all ranks if one has a fault."""
        of_ranks = self.ranks.gather((fault, [p.grad is not None for p in self.trained]))
        for number, text in (fault for fault, _ in of_ranks if fault):
            raise self._stop("loss_not_finite", text, step, [batches[number]])
        if self.ranks.size == 1:
            return
        graded = zip(*(own for _, own in of_ranks), strict=True)
        used = [p for p, has in zip(self.trained, graded, strict=True) if any(has)]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        own = self.health.sums - before
        self.ranks.add([*(p.grad for p in used), own])
        self.health.sums.copy_(before + own)

    def _check(self, finite: list[bool], step: int, batches: list[list[Example]]) -> None:
        """finite: whether the norm of each part's gradient is."""
        self._skipped = 0 if all(finite) else self._skipped + 1
        scaled = self.scaler.is_enabled()
        if self._skipped >= (PATIENCE if scaled else 1):
            parts = ", ".join(part for part, ok in zip(self.health.parts, finite, strict=True) if not ok)
            if scaled:
                parts += f", in {PATIENCE} skipped steps in a row; float16 is scaled by {self.scaler.get_scale():g}"
            raise self._stop("gradient_not_finite", parts, step, batches)

    def _stop(self, cause: str, names: str, step: int, batches: Sequence[Sequence[Example]]) -> NotFinite:
        batches = [[x for share in shares for x in share] for shares in zip(*self.ranks.gather(batches), strict=True)]
        files = ", ".join(example["file_name"] for batch in batches for example in batch)
        advice = "set solver.amp: false, " if self.scaler.is_enabled() else ""
        advice += "lower solver.base_lr, look at these images"
        if self.broken:
            if self.ranks.first:
                with replace_file(self.broken) as temporary:
                    torch.save([[plain(example) for example in batch] for batch in batches], temporary)
            advice += f"; the batch is saved in {self.broken} (read it with torch.load)"
        return NotFinite(cause, names, f"step {step + 1}, {files}", advice)


def plain(example: Example) -> dict:
    """An example as a dict of tensors, str and numbers, which torch.load(weights_only=True) can read."""
    target = example["instances"]
    rest = {name: value for name, value in example.items() if name != "instances"}
    return rest | {"gt_masks": target.gt_masks.tensor, "gt_labels": target.gt_labels}


def checked(losses: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """The losses as floats. Raises FloatingPointError that names those that are not finite."""
    values = {name: float(value) for name, value in losses.items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise FloatingPointError(", ".join(bad))
    return values
