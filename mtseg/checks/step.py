"""Run two training steps. The losses must be named finite scalars, every block must have a gradient, and weights must
change. The network is restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median

import torch

from mtseg.checks.findings import Finding
from mtseg.core.params import Solver
from mtseg.data.loader import Example
from mtseg.model.mask2former import Mask2Former
from mtseg.training.step import NotFinite, Stepper

STEPS = 2  # in the first, weights that are initialised to 0 (deformable attention) block gradients
EPSILON = 1e-8  # of AdamW
CLIP = 0.01  # of the paper
SLOW = 0.1  # change of a weight in a step, over the lr, below which the optimiser is not AdamW, where it is about 1
LR = 1e-4  # of these steps: large enough to change float32 weights, small enough to be stable


def check(network: Mask2Former, batch: Sequence[Example], *, solver: Solver) -> list[Finding]:
    """Errors. The steps run in float32, since the scaler of float16 skips the first ones."""
    before = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    training, watch = network.training, network.watch
    required = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    gradients, hooks, steps = dict.fromkeys(required, 0.0), [], 0

    def record(*_: object) -> None:
        nonlocal steps
        steps += 1
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                gradients[name] = max(gradients[name], float(parameter.grad.abs().max()))

    network.zero_grad(set_to_none=True)
    try:
        if findings := list(malformed_losses(network, batch)):
            return findings
        stepper = Stepper(network, solver.model_copy(update={"amp": False, "warmup": 0, "base_lr": LR}))
        stepper.optimizer.register_step_pre_hook(record)
        kept: set[str] = set()  # parameters with a gradient when that of the next step comes
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and name.startswith("decoder.heads."):
                hooks.append(parameter.register_hook(partial(_kept, name, parameter, kept)))
        for step in range(STEPS):
            stepper([list(batch)], step)
        after, groups = network.state_dict(), stepper.optimizer.param_groups
        moved = {name for name in required if not torch.equal(after[name].cpu(), before[name])}
        rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        if not steps:
            evidence, change = "the optimiser makes no step", "fix mtseg/training/step.py or optimizer.py"
            return [Finding("weights_frozen", "error", evidence, change)]
        if not any(rates.values()):
            evidence = f"the schedule sets the lr of all parts to 0, expected {LR:g}"
            return [Finding("lr_too_low", "error", evidence, "fix the schedule in mtseg/training/optimizer.py")]
        if kept := {name for name, parameter in network.named_parameters() if name in kept and id(parameter) in rates}:
            evidence = f"the gradients of a step are added to those of the step before: {', '.join(sorted(kept)[:5])}"
            return [Finding("lr_too_high", "error", evidence, "fix mtseg/training/step.py: set them to zero")]
        changes = {
            name: float((after[name].cpu() - before[name]).float().square().mean().sqrt()) / STEPS / rate
            for name, parameter in network.named_parameters()
            if name in moved and (rate := rates.get(id(parameter)))
        }
        findings = list(without_gradient(network, batch, gradients)) or list(slow(changes, clip=solver.clip))
        return findings or list(not_updated(network, gradients, moved, rates, clip=solver.clip))
    except NotFinite as error:
        change = f"the lr of this step was {LR:g}, not that of solver: check these images and mtseg/model"
        return [Finding(error.cause, "error", error.names, change, error.where)]
    finally:
        for hook in hooks:
            hook.remove()
        network.load_state_dict(before)
        network.zero_grad(set_to_none=True)
        network.train(training)
        network.watch = watch
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(required[name])


def _kept(name: str, parameter: torch.Tensor, kept: set[str], gradient: torch.Tensor) -> None:
    if parameter.grad is not None and parameter.grad.any():
        kept.add(name)


@torch.no_grad()
def malformed_losses(network: Mask2Former, batch: Sequence[Example]) -> Iterator[Finding]:
    """In training the network must return a dict of named scalar losses: of each kind and layer, none negative. Losses
    that are not finite are reported by the steps."""
    network.train()
    try:
        losses = network(list(batch))
    except FloatingPointError:
        return
    change = "fix mtseg/model/mask2former.py: in training, forward returns a dict of named scalar losses"
    if not isinstance(losses, dict) or not losses:
        evidence = f"in training the model returns {losses if losses == {} else type(losses).__name__}"
        yield Finding("loss_not_scalar", "error", evidence, change)
        return
    shapes = {name: tuple(x.shape) if torch.is_tensor(x) else type(x).__name__ for name, x in losses.items()}
    if others := {name: shape for name, shape in shapes.items() if shape != ()}:
        yield Finding("loss_not_scalar", "error", f"losses that are not scalar tensors: {others}", change)
        return
    kinds = ("mask", "dice", *(task.name for task in network.tasks))
    names = [f"loss_{kind}_{layer}" for kind in kinds for layer in range(len(network.decoder.layers) + 1)]
    if missing := [name for name in names if name not in losses]:
        evidence = f"{len(missing)} of {len(names)} losses are missing: {', '.join(missing[:5])}"
        yield Finding("loss_muted", "error", evidence, change)
    if negative := [name for name, value in losses.items() if value < 0]:
        yield Finding("loss_targets", "error", f"losses are negative: {', '.join(negative[:5])}", change)


def without_gradient(network: Mask2Former, batch: Sequence[Example], gradients: dict[str, float]) -> Iterator[Finding]:
    """Blocks without any gradient. A single parameter of a block may have none (the bias of attention keys never
    has)."""
    labels = torch.cat([example["instances"].gt_labels for example in batch])
    if not (network.loss.mask or network.loss.dice) or not len(labels):  # no mask is trained: settings.muted reports it
        return
    exempt = {
        f"decoder.heads.head_{task.name}"
        for i, task in enumerate(network.tasks)
        if not task.loss_weight or not (task.background or (labels[:, i] >= 0).any()) or not any(task.weights)
        or task.num_outputs == 1
    }  # fmt: skip
    without = [
        name
        for name, own in blocks(gradients).items()
        if not any(gradients[one] for one in own) and name not in exempt
        and not (network.num_queries == 1 and ".self_attention." in name)  # attention to a single query is constant
    ]  # fmt: skip
    if without:
        required = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        locked = all(required.isdisjoint(own) for name, own in blocks(gradients).items() if name in without)
        why = " (requires_grad is False)" if locked else ""
        evidence = f"{len(without)} blocks get no gradient{why}: {', '.join(without[:5])}{' ...' * (len(without) > 5)}"
        yield Finding("gradient_missing", "error", evidence, "fix mtseg/model: is a part frozen, detached, or unused?")


def slow(changes: dict[str, float], *, clip: float) -> Iterator[Finding]:
    """Weights that move by much less than AdamW moves them. changes: of each parameter, in a step, over its lr."""
    if changes and not 0 < clip < EPSILON and (change := median(changes.values())) < SLOW:
        evidence = f"a step changes the weights by {change:.2g} of the lr, AdamW by about all of it"
        fix = "use AdamW in mtseg/training/optimizer.py, or raise solver.base_lr, which is meant for it"
        if 0 < clip < CLIP:
            fix = f"set solver.clip ({clip:g}) to {CLIP:g} (paper): AdamW adds {EPSILON:g} to the size of each gradient"
        yield Finding("lr_too_low", "error", evidence, fix)


def not_updated(
    network: Mask2Former, gradients: dict[str, float], moved: set[str], rates: dict[int, float], *, clip: float
) -> Iterator[Finding]:
    """Blocks that have a gradient but do not change; the backbone may have lr 0 (solver.backbone_multiplier)."""
    parameters = dict(network.named_parameters())
    unchanged = {
        name: own
        for name, own in blocks(gradients).items()
        if any(gradients[one] for one in own) and moved.isdisjoint(own)
        and not (name.startswith("backbone.") and all(rates.get(id(parameters[one])) == 0 for one in own))
    }  # fmt: skip
    listed = f"{', '.join(list(unchanged)[:5])}{' ...' * (len(unchanged) > 5)}"
    if unchanged and 0 < clip < EPSILON:
        evidence = f"gradients clipped to a norm of {clip:g} are lost in AdamW's rounding: {listed} do not change"
        change = f"set solver.clip to {CLIP:g} (paper), or to 0 for no clipping"
        yield Finding("weights_frozen", "error", evidence, change)
    elif unchanged:
        ids = [id(parameters[one]) for own in unchanged.values() for one in own]
        own = [rates[one] for one in ids if one in rates]
        why = f"at an lr of {max(own):.3g}" if own else "the optimiser does not contain them"
        evidence = f"{len(unchanged)} blocks have a gradient but do not change ({why}): {listed}"
        yield Finding("weights_frozen", "error", evidence, "fix mtseg/training/optimizer.py")


def blocks(names: Sequence[str]) -> dict[str, list[str]]:
    """The parameters of each layer; in the backbone, of each stage, since single layers of it may be unused."""
    by_block: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        depth = min(3, len(parts) - 1) if parts[0] == "backbone" else max(len(parts) - 1, 2)
        by_block.setdefault(".".join(parts[:depth]), []).append(name)
    return by_block
