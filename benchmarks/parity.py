"""Parity with an independent implementation, `Mask2FormerForUniversalSegmentation` of Hugging Face transformers.

    python -m benchmarks.parity    # the published network, float32 at 512 x 384 and float64 at 128 x 96; 3 minutes

tests/model/test_parity.py compares tiny networks in the same way. Random weights are copied from the reference into
our network, and both get the same images and ground truth. Prints the largest absolute difference of every group of
tensors in ascending order, and exits with 1 if one exceeds TOLERANCE, as it does if the matching differs.

Some steps of the model are not continuous, so that rounding alone can change their result:
- Which of two equally uncertain points is sampled. The losses are compared at points that do not depend on the logits,
  and the choice of uncertain points is compared on equal logits.
- On which side of 0 a pixel of an attention mask lies. Our decoder gets the masks of the reference. The group
  "attention masks" is the largest distance from 0 of the logits where its own masks differ.
- On which side of its kink a ReLU or a bilinear sample lies, which can change a gradient by more than TOLERANCE.
  Gradients are held to TOLERANCE in float64 only, and shown in float32.
"""

from __future__ import annotations

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
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig
from transformers.models.mask2former import modeling_mask2former
from transformers.utils import logging

from mtseg.core.params import load
from mtseg.model.checkpoints import MAIN_HEAD, huggingface
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Target, match, matching_cost
from mtseg.model.points import uncertain_points

Groups = dict[str, dict[str, Tensor]]  # {group: {name: tensor}}

TOLERANCE = 1e-4  # absolute
PARAMS = load(Path(__file__).parents[1] / "params.yaml")
TASK = PARAMS.tasks[0].model_copy(
    update={"name": "main", "classes": tuple(f"class {i}" for i in range(80)), "match_weight": 1.0}
)


@dataclass(frozen=True)
class Setting:
    """The size of the images and of the network behind its backbone, which has its full size."""

    height: int
    width: int
    instances: tuple[int, ...]  # of each image
    hidden_dim: int
    num_heads: int
    encoder_layers: int
    encoder_feedforward_dim: int
    decoder_layers: int
    decoder_feedforward_dim: int
    num_queries: int
    num_points: int
    backbone: str = "resnet50"


LEVELS = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = {"resnet50": ResNetConfig(out_features=LEVELS), "swin_t": SwinConfig(out_features=LEVELS)}
# Not square, so that exchanging x and y is noticed; more decoder layers than levels, so that levels are used again.
TINY = Setting(
    64, 96, (3, 0, 2), hidden_dim=32, num_heads=4, encoder_layers=2, encoder_feedforward_dim=64,
    decoder_layers=4, decoder_feedforward_dim=96, num_queries=6, num_points=64,
)  # fmt: skip
TINY_SWIN = replace(TINY, backbone="swin_t")
PUBLISHED = Setting(
    512, 384, (12, 5), hidden_dim=256, num_heads=8, encoder_layers=6, encoder_feedforward_dim=1024,
    decoder_layers=9, decoder_feedforward_dim=2048, num_queries=100, num_points=12544,
)  # fmt: skip
SMALL_IMAGES = {"height": 128, "width": 96, "num_points": 1024}


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Create tensors with this dtype by default, and let `Tensor.float` convert to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with patch.object(Tensor, "float", lambda tensor: tensor.to(dtype)):
            yield
    finally:
        torch.set_default_dtype(before)


def configuration(setting: Setting, *, importance: float = 0.0) -> Mask2FormerConfig:
    """Of the reference. importance: share of the points of the losses chosen by uncertainty."""
    logging.set_verbosity_error()  # it warns about backbones other than Swin
    loss = PARAMS.loss
    return Mask2FormerConfig(
        backbone_config=BACKBONES.get(setting.backbone),
        feature_size=setting.hidden_dim, mask_feature_size=setting.hidden_dim, hidden_dim=setting.hidden_dim,
        encoder_layers=setting.encoder_layers, encoder_feedforward_dim=setting.encoder_feedforward_dim,
        decoder_layers=setting.decoder_layers + 1,  # the reference counts the learned queries as a layer
        dim_feedforward=setting.decoder_feedforward_dim, num_attention_heads=setting.num_heads,
        num_queries=setting.num_queries, num_labels=TASK.num_classes, dropout=0.0,
        # the reference uses the weights of the losses for the matching costs as well
        class_weight=TASK.loss_weight, mask_weight=loss.mask, dice_weight=loss.dice, no_object_weight=loss.no_object,
        train_num_points=setting.num_points, oversample_ratio=loss.oversample, importance_sample_ratio=importance,
    )  # fmt: skip


def reference(setting: Setting, seed: int = 0) -> Mask2FormerForUniversalSegmentation:
    """The reference in eval mode (its batch norm is frozen), with random weights other than 0, so that each has an
    effect."""
    network = Mask2FormerForUniversalSegmentation(configuration(setting)).eval()
    if setting.backbone == "swin_t":
        # used by the classifier only, not by the levels
        network.model.pixel_level_module.encoder.swin.layernorm = nn.Identity()
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and name != "criterion.empty_weight":
            tensor.copy_(random_weights(name, tensor.shape, draw))
    return network


def random_weights(name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
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
    """Our network with the weights of the reference, in training mode. Its backbone is in eval mode, so batch norm uses
    its stored statistics while its weights have gradients."""
    size = {name: getattr(setting, name) for name in vars(setting) if name in type(PARAMS.model).model_fields}
    model = PARAMS.model.model_copy(update={**size, "weights": None, "freeze_norm": False})
    same = {"labels": TASK.loss_weight}  # the weight in the matching cost, as in the reference
    loss = PARAMS.loss.model_copy(update={"num_points": setting.num_points, "importance": 0.0, **same})
    network = Mask2Former((TASK,), model, loss=loss, detections=10)
    state = renamed(theirs.state_dict())
    del state["criterion.empty_weight"]
    state |= {
        key: x for key, x in network.state_dict().items() if key.endswith("relative_position_index")
    }  # a constant
    network.load_state_dict(state)  # strict: every key and shape
    network.train().backbone.eval()
    return network


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of the reference under our names."""
    head = f"decoder.heads.head_{TASK.name}."
    return {key.replace(MAIN_HEAD, head): value for key, value in huggingface.convert(state).items()}


def images(setting: Setting, seed: int = 0) -> list[dict[str, Any]]:
    """A batch as the loader returns it: noise, with ellipses of random classes as ground truth."""
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
    """Draw the same points for each mask, regardless of the number and order of masks."""

    def rand(first: int, *shape: int, device: torch.device | None = None) -> Tensor:
        return torch.empty(1, *shape).uniform_(generator=torch.Generator().manual_seed(seed)).repeat(first, 1, 1)

    with patch("torch.rand", rand):
        yield


@dataclass(frozen=True)
class Difference:
    """The largest difference in a group, the tensor that has it, and the largest magnitude in that tensor."""

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
    """The difference of each group of tensors in the forward and backward passes of both networks."""
    with precision(dtype):
        theirs = reference(setting)
        ours = copy_of(theirs, setting)
        batch = images(setting)
        expected, masks = run_theirs(theirs, batch, mean=ours.pixel_mean, std=ours.pixel_std)
        found = run_ours(ours, batch, masks)
    assert expected.keys() == found.keys()
    return [difference(dtype, what, expected[what], found[what]) for what in expected]


def run_theirs(
    network: Mask2FormerForUniversalSegmentation, batch: list[dict[str, Any]], *, mean: Tensor, std: Tensor
) -> tuple[Groups, list[tuple[Tensor, Tensor]]]:
    """The groups of the reference, and (attention mask, mask logits) of each decoder layer. The masks are bool
    [B, Q, S], True where a query attends."""
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
        "matching costs": dict(zip(places, costs, strict=False)),  # the matching runs again for the losses
        "matching": {place: torch.stack(pair) for place, pair in zip(places, sum(pairs, []), strict=True)},
        "uncertain points": {"points": _sorted(points)},
        "losses": {_loss_name(name, last=len(layers) - 1): value for name, value in losses.items()},
        "gradients": renamed(gradients(network, losses)),
    }, attention


def _loss_name(theirs: str, *, last: int) -> str:
    """Our name of a loss; in the reference the losses of the last layer have no number."""
    name = theirs.replace("cross_entropy", TASK.name)
    return name if name[-1].isdigit() else f"{name}_{last}"


def _sorted(points_NP2: Tensor) -> Tensor:
    """By x, then y: the order in which points are chosen is of no consequence."""
    for i in (1, 0):
        order = points_NP2[..., i : i + 1].argsort(dim=1, stable=True)
        points_NP2 = points_NP2.gather(1, order.expand(-1, -1, 2))
    return points_NP2


def _point_logits() -> Tensor:
    return torch.randn(7, 1, 24, 16, generator=torch.Generator().manual_seed(0))


def run_ours(network: Mask2Former, batch: list[dict[str, Any]], attention: list[tuple[Tensor, Tensor]]) -> Groups:
    """The same groups, computed with the attention masks of the reference. The group "attention masks" is the largest
    distance from 0 of the logits where our own mask differs."""
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
        "uncertain points": {"points": _sorted(points)},
        "losses": losses,
        "gradients": gradients(network, losses),
    }


def gradients(network: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """{parameter: gradient of the sum of the losses}."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(sum(losses.values()), parameters), strict=True))


def difference(dtype: torch.dtype, what: str, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> Difference:
    assert theirs.keys() == ours.keys(), theirs.keys() ^ ours.keys()
    worst = Difference(dtype, what, "none", 0.0, 0.0)
    for name, expected in theirs.items():
        assert expected.shape == ours[name].shape, name
        if expected.numel():
            absolute = (expected - ours[name]).abs().nan_to_num(nan=torch.inf).max().item()
            if absolute > worst.absolute or worst.tensor == "none":
                worst = Difference(dtype, what, name, absolute, expected.abs().max().item())
    return worst


def main() -> int:
    started = time.perf_counter()
    compared = [compare(PUBLISHED, torch.float32), compare(replace(PUBLISHED, **SMALL_IMAGES), torch.float64)]
    rows = sorted((row for rows in compared for row in rows), key=lambda row: row.absolute)
    print(f"{'in':<9}{'compared':<18}{'difference':>11}{'of at most':>12}  at")
    for row in rows:
        name, note = str(row.dtype).removeprefix("torch."), "" if row.held else " (shown only)"
        print(f"{name:<9}{row.what:<18}{row.absolute:>11.1e}{row.magnitude:>12.3g}  {row.tensor}{note}")
    passed = all(row.passes for row in rows)
    verdict = "parity" if passed else "NO PARITY"
    print(f"{verdict}: tolerance {TOLERANCE:.0e} ({time.perf_counter() - started:.0f} s)")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
