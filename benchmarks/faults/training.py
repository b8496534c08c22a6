"""Faults of the network, its losses, matching and optimiser; tests/checks runs them on a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.faults.case import SEPARATE, Fault, Patch, changed, everywhere, together
from mtseg.model import losses, matching
from mtseg.model.backbones import mobilenetv3_large
from mtseg.model.decoder import QueryDecoder
from mtseg.model.heads import Combinations, Head, Softmax
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser

TASK = "colour"  # the task of faults that concern a single one


def losses_by(change: Callable[[dict], Any]) -> Patch:
    """Apply `change` to the losses that the network returns in training mode."""

    def forward(real: Callable, self: Mask2Former, *args: Any, **kwargs: Any) -> Any:
        found = real(self, *args, **kwargs)
        return change(found) if self.training else found

    return changed(Mask2Former, "forward", forward)


def after_steps(steps: int) -> Patch:
    """The loss becomes NaN during a training."""
    calls = []

    def change(found: dict) -> dict:
        calls.append(1)
        return found if len(calls) < steps else found | {"loss_mask_0": found["loss_mask_0"] * float("nan")}

    return losses_by(change)


def nan_gradient(found: dict) -> dict:
    """Add the square root of 0, which is finite and has an infinite gradient."""
    return found | {"loss_mask_0": found["loss_mask_0"] + (found["loss_mask_0"] * 0).sqrt()}


def background_as_label(real: Callable, self: Mask2Former, *args: Any) -> Any:
    """Read labels as the argmax over all outputs, including no-object."""
    for one, masks in real(self, *args):
        for t, task in enumerate(self.tasks[1:], start=1):
            one.pred_labels[:, t] = one.get(f"logits_{task.name}").argmax(-1)
        yield one, masks


def too_few_outputs(real: Callable, self: QueryDecoder, outputs: dict[str, int], **kwargs: Any) -> None:
    """Give the further tasks N outputs instead of N + 1."""
    _, *further = outputs
    real(self, outputs | {name: outputs[name] - 1 for name in further}, **kwargs)


def main_task_alone(real: Callable, output: Any, targets: Any, **kwargs: Any) -> Any:
    """Hide the further labels from the matching."""
    labels = [torch.cat([t.labels[:, :1], t.labels[:, 1:].clamp(max=-1)], dim=1) for t in targets]
    return real(output, [replace(t, labels=own) for t, own in zip(targets, labels, strict=True)], **kwargs)


def transposed(real: Callable, cost: np.ndarray) -> Any:
    """Solve the transposed cost and read its pairs by the wrong axis."""
    instance, query = real(cost.T)
    order = np.argsort(query)
    return query, np.ascontiguousarray(instance[order[::-1]])


def assigned(change: Callable) -> Patch:
    return changed(matching, "linear_sum_assignment", change)


def label_losses(change: Callable[..., dict]) -> Patch:
    """Replace the losses of the head of TASK by `change(real, head, logits, labels_MT, matched, **kwargs)`."""

    def losses(real: Callable, head: Head, *args: Any, **kwargs: Any) -> dict:
        served = TASK in [task.name for task in head.tasks]
        return change(real, head, *args, **kwargs) if served else real(head, *args, **kwargs)

    return together(changed(Softmax, "losses", losses), changed(Combinations, "losses", losses))


def detached(real: Callable, head: Head, logits: Any, *args: Any, **kwargs: Any) -> dict:
    """Keep a gradient of 0: with a softmax over combinations the layer also serves the other tasks' losses."""
    found = real(head, logits, *args, **kwargs)
    return found | {TASK: found[TASK].detach() + 0 * logits[TASK].sum()}


def background_first(real: Callable, head: Head, logits: Any, *args: Any, **kwargs: Any) -> dict:
    """No-object is trained as the first output and read as the last."""
    slots = {task.name: logits[task.name].roll(-1, -1) for task in head.tasks if task.background}
    return real(head, logits | slots, *args, **kwargs)


def other_targets(real: Callable, labels: list[torch.Tensor], matches: Any) -> torch.Tensor:
    """Reverse the order of an image's labels of the second task."""
    return real([torch.cat([one[:, :1], one[:, 1:2].flip(0), one[:, 2:]], 1) for one in labels], matches)


def weight_divided(real: Callable, head: Head, *args: Any, **kwargs: Any) -> dict:
    found = real(head, *args, **kwargs)
    weight = next(task.loss_weight for task in head.tasks if task.name == TASK)
    return found | {TASK: found[TASK] / weight}


def not_in_optimiser(part: str) -> Patch:
    """Leave the parameters of a part out of every parameter group."""

    def optimizer(real: Callable, network: Mask2Former, solver: Any) -> Any:
        left_out = {id(p) for name, p in network.named_parameters() if name.startswith(part)}
        made = real(network, solver)
        for group in made.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in left_out]
        return made

    return everywhere(optimiser.optimizer, optimizer)


def first_come(real: Callable, cost: np.ndarray) -> Any:
    return np.arange(min(cost.shape)), np.arange(min(cost.shape))


MATCHER = ("matcher_wrong",)
MOBILE = {"model.backbone": "mobilenetv3_large", "model.weights": None, "model.freeze_norm": False}
FAULTS = (
    Fault("training returns the losses as a list", failure="loss_not_scalar", causes=("loss_not_scalar",),
          code=losses_by(lambda found: list(found.values()))),
    Fault("a loss turns to NaN at step 30", causes=("loss_not_finite",), code=after_steps(30), since="training"),
    Fault("a gradient is NaN, the loss is not", causes=("gradient_not_finite",), code=losses_by(nan_gradient)),
    Fault("a backbone's last level from the wrong block", failure="backbone_level", changes=MOBILE,
          says=r"wrong \(channels, stride\).*mobilenetv3_large|mobilenetv3_large.*wrong \(channels, stride\)",
          code=lambda: patch.dict(mobilenetv3_large.ENDS, res5=13)),
    Fault("heads of N outputs, unmatched queries learn class N", failure="no_object_slot", changes=SEPARATE,
          causes=("head_size",),
          code=changed(QueryDecoder, "__init__", too_few_outputs)),
    Fault("a loss weight of 0 makes 0/0", failure="zero_loss_weight", changes={f"tasks.{TASK}.loss_weight": 0.0},
          causes=("loss_not_finite",), code=label_losses(weight_divided)),
    Fault("the matcher ignores the further tasks", failure="task_untrained_in_matching",
          causes=("task_untrained_in_matching", *MATCHER),
          code=changed(matching, "matching_cost", main_task_alone)),
    Fault("the matcher takes the most expensive pairs", causes=MATCHER, code=assigned(lambda real, cost: real(-cost))),
    Fault("the matcher pairs in order and ignores the cost", causes=MATCHER, code=assigned(first_come)),
    Fault("the matcher takes the cost transposed", causes=MATCHER, code=assigned(transposed)),
    Fault("a head's loss is detached", causes=("gradient_missing",),
          code=label_losses(detached)),
    Fault("no-object learnt in the first slot", causes=("no_object_slot",),
          code=label_losses(background_first)),
    Fault("no-object taken for a label", failure="no_object_slot", changes=SEPARATE, causes=("no_object_slot",),
          code=changed(Mask2Former, "detect", background_as_label)),
    Fault("labels in reverse order in one task's loss", causes=("loss_targets",),
          code=changed(losses, "_matched", other_targets)),
    Fault("the heads are not in the optimiser", causes=("weights_frozen",),
          code=not_in_optimiser("decoder.heads")),
    Fault("the backbone is not in the optimiser", causes=("weights_frozen",),
          code=not_in_optimiser("backbone")),
)  # fmt: skip
