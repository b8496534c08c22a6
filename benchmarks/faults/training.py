"""Faults of the network, its losses, matching and optimiser, patched in from the check on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.faults.case import APART, Fault
from benchmarks.faults.patches import Patch, both, everywhere, replaced, replaced_value
from mtseg.model import losses, matching
from mtseg.model.backbones import mobilenetv3_large
from mtseg.model.decoder import QueryDecoder
from mtseg.model.heads import Combinations, Head, Softmax
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser

TASK = "colour"  # the one that is tampered with where one is
SOLVE = "linear_sum_assignment"


def changed_losses(change: Callable[[dict], Any]) -> Patch:
    """In training mode the network returns what `change` makes of its losses."""

    def make(real: Callable) -> Callable:
        def forward(self: Mask2Former, *args: Any, **kwargs: Any) -> Any:
            found = real(self, *args, **kwargs)
            return change(found) if self.training else found

        return forward

    return replaced(Mask2Former, "forward", make)


def background_as_label(real: Callable) -> Callable:
    """The best of all outputs, no-object among them, is taken for the label."""

    def detect(self: Mask2Former, *args: Any) -> Any:
        found = real(self, *args)
        for one in found:
            for t, task in enumerate(self.tasks[1:], start=1):
                one.pred_labels[:, t] = one.get(f"logits_{task.name}").argmax(-1)
        return found

    return detect


def raising(real: Callable) -> Callable:
    def normaliser(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("too many values to unpack")

    return normaliser


def vector(found: dict) -> dict:
    return found | {"loss_mask_0": found["loss_mask_0"] * torch.ones(2)}


def infinite(found: dict) -> dict:
    return found | {"loss_dice_0": found["loss_dice_0"] / 0}


def after_steps(steps: int) -> Patch:
    """The loss turns to NaN in the middle of a training."""
    calls = []

    def change(found: dict) -> dict:
        calls.append(1)
        return found if len(calls) < steps else found | {"loss_mask_0": found["loss_mask_0"] * float("nan")}

    return changed_losses(change)


def nan_gradient(found: dict) -> dict:
    """The square root of 0: finite forwards, infinite backwards."""
    return found | {"loss_mask_0": found["loss_mask_0"] + (found["loss_mask_0"] * 0).sqrt()}


def too_few_outputs(real: Callable) -> Callable:
    """N outputs, not N + 1, of the further tasks."""

    def init(self: QueryDecoder, outputs: dict[str, int], **kwargs: Any) -> None:
        _, *further = outputs
        real(self, outputs | {name: outputs[name] - 1 for name in further}, **kwargs)

    return init


def no_slot(real: Callable) -> Callable:
    """N outputs, not N + 1, of the main task."""

    def init(self: QueryDecoder, outputs: dict[str, int], **kwargs: Any) -> None:
        main = next(iter(outputs))
        real(self, outputs | {main: outputs[main] - 1}, **kwargs)

    return init


def main_task_alone(real: Callable) -> Callable:
    """To the matching no object has another label than the main one."""

    def alone(labels: torch.Tensor) -> torch.Tensor:
        return torch.cat([labels[:, :1], labels[:, 1:].clamp(max=-1)], dim=1)

    return lambda output, targets, **kwargs: real(
        output, [replace(t, labels=alone(t.labels)) for t in targets], **kwargs
    )


def first_come(real: Callable) -> Callable:
    return lambda cost: (np.arange(min(cost.shape)), np.arange(min(cost.shape)))


def dearest(real: Callable) -> Callable:
    return lambda cost: real(-cost)


def transposed(real: Callable) -> Callable:
    """Queries taken for instances: pairs come out for the wrong axis."""

    def assign(cost: np.ndarray) -> Any:
        instance, query = real(cost.T)
        order = np.argsort(query)
        return query, np.ascontiguousarray(instance[order[::-1]])

    return assign


def label_losses(change: Callable[..., dict]) -> Patch:
    """Losses of either kind of head by `change(real, head, logits, labels_MT, matched, **kwargs)`, where it serves the
    task tampered with."""

    def make(real: Callable) -> Callable:
        def losses(head: Head, *args: Any, **kwargs: Any) -> dict:
            served = TASK in [task.name for task in head.tasks]
            return change(real, head, *args, **kwargs) if served else real(head, *args, **kwargs)

        return losses

    return both(replaced(Softmax, "losses", make), replaced(Combinations, "losses", make))


def detached(real: Callable, head: Head, logits: Any, *args: Any, **kwargs: Any) -> dict:
    """Under a softmax over combinations the layer still gets gradients, from the losses of the other tasks."""
    found = real(head, logits, *args, **kwargs)
    return found | {TASK: found[TASK].detach() + 0 * logits[TASK].sum()}


def background_first(real: Callable, head: Head, logits: Any, *args: Any, **kwargs: Any) -> dict:
    """No-object is learnt in the first slot, read in the last."""
    slots = {task.name: logits[task.name].roll(-1, -1) for task in head.tasks if task.background}
    return real(head, logits | slots, *args, **kwargs)


def other_targets(real: Callable) -> Callable:
    """The labels of the second task belong to the image's instances in reverse order."""

    def matched(labels: list[torch.Tensor], matches: Any) -> torch.Tensor:
        return real([torch.cat([one[:, :1], one[:, 1:2].flip(0), one[:, 2:]], 1) for one in labels], matches)

    return matched


def weight_divided(real: Callable, head: Head, *args: Any, **kwargs: Any) -> dict:
    found = real(head, *args, **kwargs)
    weight = next(task.loss_weight for task in head.tasks if task.name == TASK)
    return found | {TASK: found[TASK] / weight}


def not_in_optimiser(part: str) -> Callable:
    """The parameters of a part are handed to no group."""

    def make(real: Callable) -> Callable:
        def optimizer(network: Mask2Former, solver: Any) -> Any:
            left_out = {id(p) for name, p in network.named_parameters() if name.startswith(part)}
            made = real(network, solver)
            for group in made.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in left_out]
            return made

        return optimizer

    return make


def frozen(part: str) -> Callable:
    def make(real: Callable) -> Callable:
        def init(self: Mask2Former, *args: Any, **kwargs: Any) -> None:
            real(self, *args, **kwargs)
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(not name.startswith(part))

        return init

    return make


def unnormalised(real: Callable) -> Callable:
    def init(self: Mask2Former, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        self.pixel_mean.zero_()
        self.pixel_std.fill_(1.0)

    return init


def wrong_block(real: Any) -> Any:
    return real | {"res5": 13}


MATCHER = ("matcher_wrong",)
MOBILE = {"model.backbone": "mobilenetv3_large", "model.weights": None, "model.freeze_norm": False}
FAULTS = (
    Fault("training returns the losses as a list", number="F3", causes=("loss_not_scalar",),
          code=changed_losses(lambda found: list(found.values()))),
    Fault("a loss of one number a picture", number="F3", causes=("loss_not_scalar",), code=changed_losses(vector)),
    Fault("a loss is infinite", number="F3", causes=("loss_not_finite",), code=changed_losses(infinite)),
    Fault("a loss turns to NaN at step 30", causes=("loss_not_finite",), code=after_steps(30), since="training"),
    Fault("a gradient is NaN, the loss is not", causes=("gradient_not_finite",), code=changed_losses(nan_gradient)),
    Fault("pictures are not normalised", causes=("normalisation",),
          code=replaced(Mask2Former, "__init__", unnormalised)),
    Fault("a backbone's last level from the wrong block", number="F5", changes=MOBILE,
          says=r"wrong \(channels, stride\).*mobilenetv3_large|mobilenetv3_large.*wrong \(channels, stride\)",
          code=replaced_value(mobilenetv3_large, "ENDS", wrong_block)),
    Fault("the main head has no slot for no-object", number="F8", causes=("head_size",),
          code=replaced(QueryDecoder, "__init__", no_slot)),
    Fault("heads of N outputs, unmatched queries learn class N", number="F8", changes=APART, causes=("head_size",),
          code=replaced(QueryDecoder, "__init__", too_few_outputs)),
    Fault("a loss weight of 0 makes 0/0", number="F9", changes={f"tasks.{TASK}.loss_weight": 0.0},
          causes=("loss_not_finite",), code=label_losses(weight_divided)),
    Fault("the matcher ignores the further tasks", number="F10",
          causes=("task_untrained_in_matching", *MATCHER),
          code=replaced(matching, "matching_cost", main_task_alone)),
    Fault("the matcher takes the dearest pairs", causes=MATCHER, code=replaced(matching, SOLVE, dearest)),
    Fault("the matcher pairs in order, whatever the cost", causes=MATCHER, code=replaced(matching, SOLVE, first_come)),
    Fault("the matcher takes the cost transposed", causes=MATCHER, code=replaced(matching, SOLVE, transposed)),
    Fault("a task's loss is left out", causes=("loss_muted", "gradient_missing"),
          code=changed_losses(lambda found: {k: v for k, v in found.items() if f"loss_{TASK}" not in k})),
    Fault("a head's loss is detached", causes=("gradient_missing",),
          code=label_losses(detached)),
    Fault("no-object learnt in the first slot", causes=("no_object_slot",),
          code=label_losses(background_first)),
    Fault("no-object taken for a label", number="F8", changes=APART, causes=("no_object_slot",),
          code=replaced(Mask2Former, "detect", background_as_label)),
    Fault("a step ends in an exception", causes=("step_fails",),
          code=replaced(Mask2Former, "normaliser", raising)),
    Fault("labels in reverse order in one task's loss", causes=("loss_targets",),
          code=replaced(losses, "_matched", other_targets)),
    Fault("the heads are not in the optimiser", causes=("weights_frozen",),
          code=lambda: everywhere(optimiser.optimizer, not_in_optimiser("decoder.heads"))),
    Fault("the backbone is not in the optimiser", causes=("weights_frozen",),
          code=lambda: everywhere(optimiser.optimizer, not_in_optimiser("backbone"))),
    Fault("the pixel decoder is frozen", causes=("gradient_missing", "weights_frozen"),
          code=replaced(Mask2Former, "__init__", frozen("pixel_decoder"))),
)  # fmt: skip
