"""Parity with an independent implementation: Hugging Face transformers' `Mask2FormerForUniversalSegmentation`.

    python -m benchmarks.parity            # a tiny network, and the published one at 512 x 384: 2 min on two busy cores
    python -m benchmarks.parity --quick    # the same networks, the large one at 128 x 96: 16 s

Random weights are copied from the reference into ours; both see the same pictures and ground truth. Prints the
largest absolute difference of every group of tensors, the worst last; exits 1 when one is above TOLERANCE, which a
query matched to another instance is, too.

Some of the model's steps are not continuous, and there rounding alone decides.
- Which of two equally uncertain points is sampled: the losses are compared at points that do not depend on the
  logits, and the choice of uncertain points apart, on equal logits.
- On which side of 0 a pixel of an attention mask lies: our decoder is given the reference's masks, and the row
  "attention masks" says how far from 0 the logits lie in which its own masks differ.
- On which side of its kink a ReLU or a bilinear sample lies, which changes a gradient by more than TOLERANCE and
  nothing else: gradients are compared in float64, where none of some million units comes that close.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig
from transformers.models.mask2former import modeling_mask2former
from transformers.utils import logging

from mtseg.model.checkpoints import MAIN_HEAD, huggingface
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Target, match, matching_cost
from mtseg.model.points import uncertain_points
from mtseg.params import load

Groups = dict[str, dict[str, Tensor]]  # what is compared -> name -> tensor

TOLERANCE = 1e-4  # absolute, float32
PARAMS = load(Path(__file__).parents[1] / "params.yaml")
TASK = PARAMS.tasks[0].model_copy(update={"name": "main", "classes": tuple(f"class {i}" for i in range(80))})


@dataclass(frozen=True)
class Setting:
    """Pictures and a network's size; the backbone is a whole ResNet-50 in each."""

    name: str
    height: int
    width: int
    instances: tuple[int, ...]  # of each picture
    hidden_dim: int
    num_heads: int
    encoder_layers: int
    encoder_feedforward_dim: int
    decoder_layers: int
    decoder_feedforward_dim: int
    num_queries: int
    num_points: int


# Not square, so that x and y cannot stand in for each other; more decoder layers than levels, so that these come round.
TINY = Setting(
    "tiny", 64, 96, (3, 0, 2), hidden_dim=32, num_heads=4, encoder_layers=2, encoder_feedforward_dim=64,
    decoder_layers=4, decoder_feedforward_dim=96, num_queries=6, num_points=64,
)  # fmt: skip
PUBLISHED = Setting(
    "published R50", 512, 384, (12, 5), hidden_dim=256, num_heads=8, encoder_layers=6, encoder_feedforward_dim=1024,
    decoder_layers=9, decoder_feedforward_dim=2048, num_queries=100, num_points=12544,
)  # fmt: skip

SMALL = replace(PUBLISHED, height=128, width=96, num_points=1024)  # the same network


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
    def passes(self) -> bool:
        return self.absolute <= TOLERANCE


def compare(setting: Setting, dtype: torch.dtype) -> list[Difference]:
    """All that can be seen of both networks' forward passes and, in float64, of the backward ones."""
    with precision(dtype):
        theirs = reference(setting)
        ours = copy_of(theirs, setting)
        batch = pictures(setting)
        expected, masks = run_theirs(theirs, batch, mean=ours.pixel_mean, std=ours.pixel_std)
        found = run_ours(ours, batch, masks)
    assert expected.keys() == found.keys()
    return [difference(setting.name, dtype, what, expected[what], found[what]) for what in expected]


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """What is made within is of `dtype`, and what is turned into a float there, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with patch.object(Tensor, "float", lambda tensor: tensor.to(dtype)):
            yield
    finally:
        torch.set_default_dtype(before)


def reference(setting: Setting, seed: int = 0) -> Mask2FormerForUniversalSegmentation:
    """The reference with random weights, none of them 0, so that each has a say. In eval mode: batch norm frozen."""
    logging.set_verbosity_error()  # it warns that it was published with Swin alone
    loss = PARAMS.loss
    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        feature_size=setting.hidden_dim, mask_feature_size=setting.hidden_dim, hidden_dim=setting.hidden_dim,
        encoder_layers=setting.encoder_layers, encoder_feedforward_dim=setting.encoder_feedforward_dim,
        decoder_layers=setting.decoder_layers + 1,  # it counts the learnt queries as a layer
        dim_feedforward=setting.decoder_feedforward_dim, num_attention_heads=setting.num_heads,
        num_queries=setting.num_queries, num_labels=TASK.num_classes, dropout=0.0,
        # its weights of the losses are those of the matching costs, too
        class_weight=TASK.loss_weight, mask_weight=loss.mask, dice_weight=loss.dice, no_object_weight=loss.no_object,
        train_num_points=setting.num_points, oversample_ratio=loss.oversample, importance_sample_ratio=0.0,
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(config).eval()
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and name != "criterion.empty_weight":
            tensor.copy_(_random(name, tensor.shape, draw))
    return network


def _random(name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=draw)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=draw)
    if "level_embed" in name or "queries_" in name:
        return noise
    if len(shape) > 1:
        return noise / shape[1:].numel() ** 0.5
    if name.endswith("weight"):  # of a norm; a ResNet block adds little, for the sum of all to stay small
        return (0.3 if ".layer.2." in name else 1) * (1 + 0.1 * noise)
    return 0.1 * noise


def copy_of(theirs: Mask2FormerForUniversalSegmentation, setting: Setting) -> Mask2Former:
    """Our network with the reference's weights, in training mode but for its backbone: batch norm is frozen, and its
    weights have gradients all the same."""
    size = {name: getattr(setting, name) for name in vars(setting) if name in type(PARAMS.model).model_fields}
    model = PARAMS.model.model_copy(
        update={**size, "backbone": "resnet50", "weights": None, "freeze_norm": False}
    )  # fmt: skip
    loss = PARAMS.loss.model_copy(update={"num_points": setting.num_points, "importance": 0.0})
    network = Mask2Former((TASK,), model, loss=loss, detections=10)
    state = renamed(theirs.state_dict())
    del state["criterion.empty_weight"]
    network.load_state_dict(state)  # strict: every key and shape
    network.train().backbone.eval()
    return network


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or gradients, of the reference under our names."""
    head = f"decoder.heads.head_{TASK.name}."
    return {key.replace(MAIN_HEAD, head): value for key, value in huggingface.convert(state).items()}


def pictures(setting: Setting, seed: int = 0) -> list[dict[str, Any]]:
    """Noise, with ellipses of random classes for ground truth, as the loader hands them over."""
    draw = torch.Generator().manual_seed(seed)
    size = setting.height, setting.width
    y, x = (torch.linspace(0, 1, length) for length in size)
    batch = []
    for count in setting.instances:
        centre_y, centre_x, height, width = torch.rand(4, count, 1, 1, generator=draw)
        inside = ((y[:, None] - centre_y) / (0.1 + 0.3 * height)) ** 2 + ((x - centre_x) / (0.1 + 0.3 * width)) ** 2 < 1
        labels = torch.randint(0, TASK.num_classes, (count, 1), generator=draw)
        image = torch.randint(0, 256, (3, *size), generator=draw).to(torch.uint8)
        batch.append({"image": image, "instances": Instances(size, gt_masks=BitMasks(inside), gt_labels=labels)})
    return batch


@contextmanager
def same_points(seed: int = 0) -> Iterator[None]:
    """Every draw of points is the same for each mask, however many masks there are and in whatever order."""

    def rand(first: int, *shape: int, device: torch.device | None = None) -> Tensor:
        return torch.empty(1, *shape).uniform_(generator=torch.Generator().manual_seed(seed)).repeat(first, 1, 1)

    with patch("torch.rand", rand):
        yield


def run_theirs(
    network: Mask2FormerForUniversalSegmentation, batch: list[dict[str, Any]], *, mean: Tensor, std: Tensor
) -> tuple[Groups, list[tuple[Tensor, Tensor]]]:
    """All that is compared, and for each decoder layer its attention mask bool [B, Q, S] (True: look here) with the
    mask logits behind it."""
    masks = [picture["instances"].gt_masks.tensor.float() for picture in batch]
    labels = [picture["instances"].gt_labels[:, 0] for picture in batch]
    attention, costs = [], []

    def keep_mask(_: Any, arguments: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits = F.interpolate(output[0], size=arguments[2], mode="bilinear", align_corners=False).flatten(2)
        look = ~output[1].unflatten(0, (len(batch), -1))[:, 0]
        attention.append((look | ~look.any(-1, keepdim=True), logits))

    def keep_cost(cost: Tensor) -> Any:
        costs.append(cost)
        return assign(cost)

    hook = network.model.transformer_module.decoder.mask_predictor.register_forward_hook(keep_mask)
    pixels = (torch.stack([picture["image"] for picture in batch]).float() - mean) / std
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
    places = [f"layer {layer} picture {picture}" for layer in range(len(layers)) for picture in range(len(batch))]
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
        **({"gradients": renamed(gradients(network, losses))} if is_double() else {}),
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
        given = {"tasks": network.tasks, "loss": network.loss}
        matches = match(seen["decoder"], targets, **given)
        cost_LBQN = matching_cost(seen["decoder"], targets, **given)
        importance = network.loss.model_copy(update={"importance": PARAMS.loss.importance})
        points = uncertain_points(_point_logits()[:, 0], importance)

    output, (mask_features, levels) = seen["decoder"], seen["pixel_decoder"]
    layers = range(len(output.mask_embed_LBQC))
    costs, pairs = {}, {}
    for layer in layers:
        for picture, target in enumerate(targets):
            place = f"layer {layer} picture {picture}"
            here = (matches.layer == layer) & (matches.picture == picture)
            costs[place] = cost_LBQN[layer, picture, :, : len(target.labels)]
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
        **({"gradients": gradients(network, losses)} if is_double() else {}),
    }


def is_double() -> bool:
    return torch.get_default_dtype() == torch.float64


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
    parser.add_argument("--quick", action="store_true", help="the large network on small pictures")
    quick = parser.parse_args().quick
    started = time.perf_counter()
    large = SMALL if quick else PUBLISHED
    runs = ((TINY, torch.float32), (TINY, torch.float64), (large, torch.float32), (SMALL, torch.float64))
    rows = sorted((row for run in runs for row in compare(*run)), key=lambda row: row.absolute)
    print(f"{'network':<15}{'in':<9}{'compared':<18}{'difference':>11}{'of at most':>12}  at")
    for row in rows:
        dtype = str(row.dtype).removeprefix("torch.")
        print(f"{row.setting:<15}{dtype:<9}{row.what:<18}{row.absolute:>11.1e}{row.magnitude:>12.3g}  {row.tensor}")
    passed = all(row.passes for row in rows)
    print(
        f"{'parity' if passed else 'NO PARITY'}: largest absolute difference {rows[-1].absolute:.1e}, "
        f"tolerance {TOLERANCE:.0e} ({time.perf_counter() - started:.0f} s)"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
