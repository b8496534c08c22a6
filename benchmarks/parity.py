"""Parity with an independent implementation: Hugging Face transformers' `Mask2FormerForUniversalSegmentation`.

    python -m benchmarks.parity            # tiny networks (ResNet-50, Swin-T), the published one at 512 x 384: 3 min
    python -m benchmarks.parity --quick    # the same networks, the large one at 128 x 96: 20 to 40 s on two cores

Random weights are copied from the reference into ours; both see the same images and ground truth. Prints the
largest absolute difference of every group of tensors, the worst last; exits 1 when one is above TOLERANCE, and so is
a query matched to another instance.

Some of the model's steps are not continuous, and there rounding alone decides.
- Which of two equally uncertain points is sampled: the losses are compared at points that do not depend on the
  logits, and the choice of uncertain points apart, on equal logits.
- On which side of 0 a pixel of an attention mask lies: our decoder is given the reference's masks, and the row
  "attention masks" shows how far from 0 the logits lie in which its own masks differ.
- On which side of its kink a ReLU or a bilinear sample lies, which changes a gradient by more than TOLERANCE and
  nothing else: gradients are held to TOLERANCE in float64 alone, where none of some million units comes that close.
  Those in float32 are shown, as "seen".
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former import modeling_mask2former

from benchmarks.reference import (
    PARAMS,
    PUBLISHED,
    SMALL,
    TASK,
    TINY,
    TINY_SWIN,
    Setting,
    copy_of,
    images,
    precision,
    reference,
    renamed,
    same_points,
)  # fmt: skip
from mtseg.model.checkpoints import huggingface
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Target, match, matching_cost
from mtseg.model.points import uncertain_points

Groups = dict[str, dict[str, Tensor]]  # what is compared -> name -> tensor

TOLERANCE = 1e-4  # absolute


@dataclass(frozen=True)
class Difference:
    """The largest of a group, the tensor in which it is, and that tensor's largest magnitude."""

    setting: str
    dtype: torch.dtype
    what: str
    tensor: str
    absolute: float
    magnitude: float

    @property
    def held(self) -> bool:
        return self.what != "gradients" or self.dtype == torch.float64

    @property
    def passes(self) -> bool:
        return not self.held or self.absolute <= TOLERANCE


def compare(setting: Setting, dtype: torch.dtype) -> list[Difference]:
    """All that can be seen of both networks' forward and backward passes."""
    with precision(dtype):
        theirs = reference(setting)
        ours = copy_of(theirs, setting)
        batch = images(setting)
        expected, masks = run_theirs(theirs, batch, mean=ours.pixel_mean, std=ours.pixel_std)
        found = run_ours(ours, batch, masks)
    assert expected.keys() == found.keys()
    return [difference(setting.name, dtype, what, expected[what], found[what]) for what in expected]


def run_theirs(
    network: Mask2FormerForUniversalSegmentation, batch: list[dict[str, Any]], *, mean: Tensor, std: Tensor
) -> tuple[Groups, list[tuple[Tensor, Tensor]]]:
    """All that is compared, and for each decoder layer its attention mask bool [B, Q, S] (True: look here) with the
    mask logits behind it."""
    masks = [image["instances"].gt_masks.tensor.float() for image in batch]
    labels = [image["instances"].gt_labels[:, 0] for image in batch]
    attention, costs = [], []

    def keep_mask(_: Any, arguments: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits = F.interpolate(output[0], size=arguments[2], mode="bilinear", align_corners=False).flatten(2)
        look = ~output[1].unflatten(0, (len(batch), -1))[:, 0]
        attention.append((look | ~look.any(-1, keepdim=True), logits))

    def keep_cost(cost: Tensor) -> Any:
        costs.append(cost)
        return assign(cost)

    hook = network.model.transformer_module.decoder.mask_predictor.register_forward_hook(keep_mask)
    pixels = (torch.stack([image["image"] for image in batch]).float() - mean) / std
    output = network(pixels, output_hidden_states=True, output_auxiliary_logits=True)
    hook.remove()
    layers = [(x["class_queries_logits"], x["masks_queries_logits"]) for x in output.auxiliary_logits]
    layers.append((output.class_queries_logits, output.masks_queries_logits))

    assign = modeling_mask2former.linear_sum_assignment
    with same_points(), patch.object(modeling_mask2former, "linear_sum_assignment", keep_cost):
        pairs = [network.criterion.matcher(logits, classes, masks, labels) for classes, logits in layers]
        losses = network.get_loss_dict(layers[-1][1], layers[-1][0], masks, labels, output.auxiliary_logits)
        criterion = network.criterion
        points = criterion.sample_points_using_uncertainty(
            _point_logits(), criterion.calculate_uncertainty, criterion.num_points, criterion.oversample_ratio,
            PARAMS.loss.importance,
        )  # fmt: skip

    pyramid = [output.pixel_decoder_last_hidden_state, *output.pixel_decoder_hidden_states]
    places = [f"layer {layer} image {image}" for layer in range(len(layers)) for image in range(len(batch))]
    return {
        "backbone": {f"res{i}": features for i, features in enumerate(output.encoder_hidden_states, 2)},
        "pixel decoder": dict(zip(("mask features", *huggingface.LEVELS), pyramid, strict=True)),
        "class logits": {f"layer {i}": classes for i, (classes, _) in enumerate(layers)},
        "mask logits": {f"layer {i}": logits for i, (_, logits) in enumerate(layers)},
        "attention masks": {f"layer {i}": torch.zeros(()) for i in range(len(layers) - 1)},
        "matching costs": dict(zip(places, costs, strict=False)),  # the losses match once more
        "matching": {place: torch.stack(pair) for place, pair in zip(places, sum(pairs, []), strict=True)},
        "uncertain points": {"points": points},
        "losses": {_loss_name(name, last=len(layers) - 1): value for name, value in losses.items()},
        "gradients": renamed(gradients(network, losses)),
    }, attention


def _loss_name(theirs: str, *, last: int) -> str:
    """Their last layer's losses have no number."""
    name = theirs.replace("cross_entropy", TASK.name)
    return name if name[-1].isdigit() else f"{name}_{last}"


def _point_logits() -> Tensor:
    return torch.randn(7, 1, 24, 16, generator=torch.Generator().manual_seed(0))


def run_ours(network: Mask2Former, batch: list[dict[str, Any]], attention: list[tuple[Tensor, Tensor]]) -> Groups:
    """The same groups and names as `run_theirs`, under the reference's attention masks. Of these: how far from 0 the
    logits lie of which the reference takes another sign."""
    seen: dict[str, Any] = {}
    off = {}
    own_mask = network.decoder._attention_mask

    def attention_mask(state: Tensor, features: Tensor) -> Tensor:
        mask, logits = attention[len(off)]
        off[f"layer {len(off)}"] = (logits.abs() * (own_mask(state, features) != mask)).max().detach()
        return mask

    with ExitStack() as stack:
        for part in ("backbone", "pixel_decoder", "decoder"):
            keep = network.get_submodule(part).register_forward_hook(
                lambda _, __, out, part=part: seen.update({part: out})
            )
            stack.callback(keep.remove)
        stack.enter_context(patch.object(network.decoder, "_attention_mask", attention_mask))
        stack.enter_context(same_points())
        losses = network(batch)
        targets = [Target(x["instances"].gt_masks.tensor, x["instances"].gt_labels) for x in batch]
        given = {"heads": network.heads, "loss": network.loss}
        matches = match(seen["decoder"], targets, **given)
        cost_LBQN = matching_cost(seen["decoder"], targets, **given)
        importance = network.loss.model_copy(update={"importance": PARAMS.loss.importance})
        points = uncertain_points(_point_logits()[:, 0], importance)

    output, (mask_features, levels) = seen["decoder"], seen["pixel_decoder"]
    layers = range(len(output.mask_embed_LBQC))
    costs, pairs = {}, {}
    for layer in layers:
        for image, target in enumerate(targets):
            place = f"layer {layer} image {image}"
            here = (matches.layer == layer) & (matches.image == image)
            costs[place] = cost_LBQN[layer, image, :, : len(target.labels)]
            pairs[place] = torch.stack((matches.query[here], matches.instance[here]))
    return {
        "backbone": dict(seen["backbone"]),
        "pixel decoder": dict(zip(("mask features", *huggingface.LEVELS), (mask_features, *levels), strict=True)),
        "class logits": {f"layer {i}": output.logits[TASK.name][i] for i in layers},
        "mask logits": {f"layer {i}": output.masks(i) for i in layers},
        "attention masks": off,
        "matching costs": costs,
        "matching": pairs,
        "uncertain points": {"points": points},
        "losses": losses,
        "gradients": gradients(network, losses),
    }


def gradients(network: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the sum of the losses, of every parameter."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(sum(losses.values()), parameters), strict=True))


def difference(
    setting: str, dtype: torch.dtype, what: str, theirs: dict[str, Tensor], ours: dict[str, Tensor]
) -> Difference:
    assert theirs.keys() == ours.keys(), theirs.keys() ^ ours.keys()
    worst = Difference(setting, dtype, what, "none", 0.0, 0.0)
    for name, expected in theirs.items():
        assert expected.shape == ours[name].shape, name
        if expected.numel():
            absolute = (expected - ours[name]).abs().nan_to_num(nan=torch.inf).max().item()
            if absolute > worst.absolute or worst.tensor == "none":
                worst = Difference(setting, dtype, what, name, absolute, expected.abs().max().item())
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the large network on small images")
    quick = parser.parse_args().quick
    started = time.perf_counter()
    large = SMALL if quick else PUBLISHED
    tiny = ((setting, dtype) for setting in (TINY, TINY_SWIN) for dtype in (torch.float32, torch.float64))
    runs = (*tiny, (large, torch.float32), (SMALL, torch.float64))
    rows = sorted((row for run in runs for row in compare(*run)), key=lambda row: row.absolute)
    print(f"{'network':<15}{'in':<9}{'compared':<18}{'difference':>11}{'of at most':>12}  at")
    for row in rows:
        dtype = str(row.dtype).removeprefix("torch.")
        print(
            f"{row.setting:<15}{dtype:<9}{row.what:<18}{row.absolute:>11.1e}{row.magnitude:>12.3g}"
            f"  {row.tensor}{'' if row.held else ' (seen)'}"
        )
    worst = max(row.absolute for row in rows if row.held)
    passed = all(row.passes for row in rows)
    print(
        f"{'parity' if passed else 'NO PARITY'}: largest absolute difference {worst:.1e}, "
        f"tolerance {TOLERANCE:.0e} ({time.perf_counter() - started:.0f} s)"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
