"""One batch's first steps: finite scalar losses, a gradient in every block, weights that move. The network is then put
back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from mtseg.checks.findings import Finding
from mtseg.core.params import Solver
from mtseg.data.loader import Example
from mtseg.model.decoder import QueryOutput
from mtseg.model.losses import losses as criterion
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Target
from mtseg.training.step import NotFinite, NotScalars, Stepper, checked

STEPS = 2  # weights that start at 0, as those of deformable attention do, let no gradient past in the first

EPSILON = 1e-8  # that AdamW adds to a gradient's size
ROUNDING = 1e-3  # of a loss, that computing it again may change
LR = 1e-4  # of these steps, whatever the training's: so that a float32 shows the move, and no weight leaps


def check(network: Mask2Former, batch: Sequence[Example], *, solver: Solver) -> list[Finding]:
    """Errors. The steps are taken in float32: float16's scaler leaves the first ones out."""
    before = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    training, watch = network.training, network.watch
    required = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    gradients: dict[str, float | None] = {}

    def note(*_: object) -> None:
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                gradients[name] = max(gradients.get(name) or 0.0, float(parameter.grad.abs().max()))
            else:
                gradients.setdefault(name, None)

    try:
        if found := list(altered(network, batch)):
            return found
        stepper = Stepper(network, solver.model_copy(update={"amp": False, "warmup": 0, "base_lr": LR}))
        stepper.optimizer.register_step_pre_hook(note)
        for step in range(STEPS):
            stepper([list(batch)], step)
            stepper.settle()
        rates = {
            id(parameter): group["lr"] for group in stepper.optimizer.param_groups for parameter in group["params"]
        }
        after = network.state_dict()
        moved = {name: not torch.equal(after[name].cpu(), before[name]) for name in gradients}
        if not any(rates.values()):
            evidence = f"the schedule sets the lr of every part to 0 where it should be {LR:g}"
            return [Finding("lr_too_low", "error", evidence, "mend the schedule in mtseg/optimiser.py")]
        found = list(unreached(network, batch, gradients))
        return found or list(unmoved(network, gradients, moved, rates, clip=solver.clip))
    except NotFinite as error:
        change = f"the step was taken at an lr of {LR:g}, whatever solver's: look at these pictures and at mtseg/model"
        return [replace(error.finding, change=change)]
    except NotScalars as error:
        change = "mend mtseg/model/mask2former.py: in training, forward returns a dict of named scalar losses"
        return [Finding("loss_not_scalar", "error", str(error).splitlines()[0], change)]
    except (IndexError, RuntimeError) as error:
        if "does not require grad" in str(error):
            change = "mend mtseg/model: no loss may be detached"
            return [Finding("gradient_missing", "error", "the losses are detached from the network", change)]
        if "out of bounds" not in str(error):
            raise
        change = "mend mtseg/model/losses.py: targets and heads come from the task"
        return [Finding("loss_targets", "error", str(error).splitlines()[0], change)]
    finally:
        network.load_state_dict(before)
        network.zero_grad(set_to_none=True)
        network.train(training)
        network.watch = watch
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(required[name])


@torch.no_grad()
def altered(network: Mask2Former, batch: Sequence[Example]) -> Iterator[Finding]:
    """In training the network returns what mtseg/model/losses.py makes of its output: each loss of each layer. It may
    return others beside them. What is not finite is left to the steps, which tell more of it."""
    outputs = []

    def note(module: torch.nn.Module, given: tuple, output: QueryOutput) -> None:
        outputs.append(output)
        torch.manual_seed(0)  # of the points that losses are taken at

    norm = network.normaliser(batch)
    network.train()
    handle = network.decoder.register_forward_hook(note)
    try:
        returned = checked(network(list(batch), norm))
        targets = [
            Target(one["instances"].gt_masks.tensor.to(network.device), one["instances"].gt_labels.to(network.device))
            for one in batch
        ]
        torch.manual_seed(0)
        wanted = checked(criterion(outputs[-1], targets, heads=network.heads, loss=network.loss, norm=norm))
    except FloatingPointError:
        return
    finally:
        handle.remove()
    layers = len(outputs[-1].mask_embed_LBQC)
    names = [
        f"loss_{name}_{i}" for name in ("mask", "dice", *(task.name for task in network.tasks)) for i in range(layers)
    ]
    if missing := [name for name in names if name not in returned]:
        evidence = f"{len(missing)} of {len(names)} losses are not trained: {', '.join(missing[:5])}"
        yield Finding("loss_muted", "error", evidence, "mend mtseg/model: in training, forward returns them all")
    wrong = [
        f"{name} {returned[name]:.4g}"
        for name in names
        if name in returned
        and (returned[name] < 0 or abs(returned[name] - wanted.get(name, 0.0)) > ROUNDING * (1 + abs(returned[name])))
    ]
    if wrong:
        evidence = f"{len(wrong)} losses are negative or not what mtseg/model/losses.py gives: {', '.join(wrong[:5])}"
        yield Finding(
            "loss_targets", "error", evidence, "mend mtseg/model: in training, forward returns them as they are"
        )


def unreached(
    network: Mask2Former, batch: Sequence[Example], gradients: dict[str, float | None]
) -> Iterator[Finding]:  # fmt: skip
    """Blocks that the losses do not reach; of a block's parameters some may have none (a bias of keys never has)."""
    labels = torch.cat([example["instances"].gt_labels for example in batch])
    if not (network.loss.mask or network.loss.dice) or not len(labels):  # then no mask is learnt, and it has been said
        return
    excused = {
        f"decoder.heads.head_{task.name}"
        for i, task in enumerate(network.tasks)
        if not task.loss_weight or not (task.background or (labels[:, i] >= 0).any()) or not any(task.weights)
        or task.num_outputs == 1
    }  # fmt: skip
    without = [
        name
        for name, values in blocks(gradients).items()
        if not any(values.values()) and name not in excused
        and not (network.num_queries == 1 and ".self_attention." in name)  # one query has nothing to choose from
    ]  # fmt: skip
    if without:
        locked = [name for name in without if not any(_requires(network, name))]
        why = " (they require none)" if len(locked) == len(without) else ""
        evidence = f"{len(without)} blocks get no gradient{why}: {', '.join(without[:5])}{' ...' * (len(without) > 5)}"
        yield Finding("gradient_missing", "error", evidence, "mend mtseg/model: is a part frozen, detached, or unused?")


def unmoved(
    network: Mask2Former, gradients: dict[str, float | None], moved: dict[str, bool], rates: dict[int, float], *,
    clip: float,
) -> Iterator[Finding]:  # fmt: skip
    """Blocks that have a gradient and stay as they were, though their lr is not 0."""
    parameters = dict(network.named_parameters())
    still = [
        name
        for name, values in blocks(gradients).items()
        if any(values.values())
        and not any(moved[one] for one in values)
        and any(rates.get(id(parameters[one]), 1.0) for one in values)
    ]
    if still and 0 < clip < EPSILON:
        evidence = (
            f"gradients clipped to a norm of {clip:g} are lost in AdamW's rounding: {len(still)} blocks do not move"
        )
        yield Finding("weights_frozen", "error", evidence, "set solver.clip to the 0.01 of the paper, or to 0 for none")
    elif still:
        inside = [name for name in still if any(id(parameters[one]) in rates for one in blocks(gradients)[name])]
        why = f"at an lr of {max(rates.values()):.3g}" if inside else "the optimiser does not have them"
        evidence = f"{len(still)} blocks get a gradient and do not move ({why}): {', '.join(still[:5])}"
        yield Finding("weights_frozen", "error", f"{evidence}{' ...' * (len(still) > 5)}", "mend mtseg/optimiser.py")


def blocks(gradients: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    """The parameters by layer, and in the backbone, some of whose layers may be unused, by stage."""
    found: dict[str, dict[str, float | None]] = {}
    for name, value in gradients.items():
        parts = name.split(".")
        depth = min(3, len(parts) - 1) if parts[0] == "backbone" else max(len(parts) - 1, 2)
        found.setdefault(".".join(parts[:depth]), {})[name] = value
    return found


def _requires(network: Mask2Former, block: str) -> list[bool]:
    return [
        parameter.requires_grad for name, parameter in network.named_parameters() if f"{name}.".startswith(f"{block}.")
    ]
