"""One optimiser step, watched: what is not finite stops it, with the step, the name and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from mtseg.checks.findings import Finding
from mtseg.core.errors import UserError
from mtseg.core.params import Solver
from mtseg.data.loader import Example
from mtseg.model.device import amp_dtype
from mtseg.model.mask2former import Mask2Former
from mtseg.training.health import Health
from mtseg.training.optimizer import optimizer, schedule

PATIENCE = 20  # steps in a row that float16 may leave out: by then its scale is a millionth of what it was


class NotFinite(UserError):
    """A loss or a gradient is not; `finding` says which."""

    def __init__(self, finding: Finding):
        super().__init__(finding.text())
        self.finding = finding


class NotScalars(TypeError):
    """What training returned is no dict of named scalar losses."""


class Stepper:
    """Network and optimiser. broken: the file that a batch goes into whose loss or gradient is not finite."""

    def __init__(self, network: Mask2Former, solver: Solver, *, broken: Path | None = None):
        self.network, self.solver, self.broken = network, solver, broken
        self.optimizer = optimizer(network, solver)
        self.schedule = schedule(solver)
        self.dtype = amp_dtype(network.device) if solver.amp else None
        self.scaler = torch.amp.GradScaler(network.device.type, enabled=self.dtype == torch.float16)
        self.health = Health(network)
        network.watch = self.health.watch
        self._left_out = 0  # steps in a row
        self._last: tuple[torch.Tensor, int, list[list[Example]]] | None = None

    def __call__(self, batches: list[list[Example]], step: int) -> dict[str, float]:
        """Step number `step`, from 0, over the batches together. Returns lr, loss, and the losses by name, summed over
        decoder layers. Raises NotFinite for a loss that is not finite, or a gradient of the step before: by then the
        device has come past it, and asking does not hold it up."""
        self.network.train()
        lr = self.schedule(min(step / max(self.solver.max_iter, 1), 1 - 1e-9))
        lr *= min(1.0, (step + 1) / max(self.solver.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr
        norm = self.network.normaliser([example for batch in batches for example in batch])
        totals: dict[str, float] = {}
        for batch in batches:
            autocast = torch.autocast(self.network.device.type, self.dtype) if self.dtype else nullcontext()
            try:
                with autocast:
                    losses = self.network(batch, norm)
                for name, value in checked(losses).items():
                    totals[name] = totals.get(name, 0.0) + value
            except FloatingPointError as error:
                self.settle()
                raise self._stop("loss_not_finite", str(error), step, [batch]) from None
            self.settle()
            self.scaler.scale(sum(losses.values())).backward()
        self.scaler.unscale_(self.optimizer)
        self._last = (self.health.gradients(), step, batches)
        if self.solver.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.solver.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return {"lr": self.solver.lr * lr, "loss": sum(totals.values()), **by_name(totals)}

    def settle(self) -> None:
        """Raise NotFinite when the last step's gradient was not finite. In float16 it may be: the scaler then leaves
        the step out and scales less. Not `PATIENCE` times in a row."""
        if self._last is None:
            return
        (norms, step, batches), self._last = self._last, None
        finite = norms.isfinite().tolist()
        self._left_out = 0 if all(finite) else self._left_out + 1
        if self._left_out >= (PATIENCE if self.scaler.is_enabled() else 1):
            parts = ", ".join(part for part, fine in zip(self.health.parts, finite, strict=True) if not fine)
            if self.scaler.is_enabled():
                parts += (
                    f", in {PATIENCE} steps in a row, all left out; float16 is scaled by {self.scaler.get_scale():g}"
                )
            raise self._stop("gradient_not_finite", parts, step, batches)

    def state(self) -> dict:
        self.settle()
        return {
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "health": torch.tensor(self.health.state()),
        }  # fmt: skip

    def load(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.health.load(state["health"].tolist())

    def _stop(self, cause: str, names: str, step: int, batches: Sequence[Sequence[Example]]) -> NotFinite:
        pictures = ", ".join(example["file_name"] for batch in batches for example in batch)
        change = "set solver.amp: false, " if self.scaler.is_enabled() else ""
        change += "lower solver.base_lr, look at these pictures"
        if self.broken:
            self.broken.parent.mkdir(parents=True, exist_ok=True)
            torch.save([[plain(example) for example in batch] for batch in batches], self.broken)
            change += f"; the batch as the network got it is in {self.broken}, for torch.load"
        return NotFinite(Finding(cause, "error", names, change, f"step {step + 1}, {pictures}"))


def plain(example: Example) -> dict:
    """An example as tensors, text and numbers, which torch.load reads with weights_only=True."""
    target = example["instances"]
    rest = {name: value for name, value in example.items() if name != "instances"}
    return rest | {"gt_masks": target.gt_masks.tensor, "gt_labels": target.gt_labels}


def checked(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """The losses as floats, with one transfer. Raises NotScalars unless they are a dict of named scalars (F3), and
    FloatingPointError naming those that are not finite."""
    if not isinstance(losses, dict) or not losses:
        what = "an empty one" if isinstance(losses, dict) else type(losses).__name__
        raise NotScalars(f"in training the model returns a dict of losses, not {what}")
    if others := {name: type(value).__name__ for name, value in losses.items() if not torch.is_tensor(value)}:
        raise NotScalars(f"losses must be tensors, these are {others}")
    shapes = {name: tuple(value.shape) for name, value in losses.items() if value.ndim}
    if shapes:
        raise NotScalars(f"losses must be scalars, these have shapes {shapes}")
    values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
    bad = [name for name, value in values.items() if not abs(value) < float("inf")]
    if bad:
        raise FloatingPointError(", ".join(bad))
    return values


def by_name(losses: dict[str, float]) -> dict[str, float]:
    """Losses summed over decoder layers: `loss_mask_0`, `loss_mask_1`, ... -> `loss_mask`."""
    totals: dict[str, float] = {}
    for name, value in losses.items():
        total = name.rpartition("_")[0]
        totals[total] = totals.get(total, 0.0) + value
    return totals
