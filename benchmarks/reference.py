"""The two networks that parity compares, and what both are given: weights, images, ground truth, points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig
from transformers.utils import logging

from mtseg.core.params import load
from mtseg.model.checkpoints import MAIN_HEAD, huggingface
from mtseg.model.mask2former import Mask2Former

PARAMS = load(Path(__file__).parents[1] / "params.yaml")
TASK = PARAMS.tasks[0].model_copy(
    update={"name": "main", "classes": tuple(f"class {i}" for i in range(80)), "match_weight": 1.0}
)


@dataclass(frozen=True)
class Setting:
    """Images and a network's size; the backbone is a whole one in each."""

    name: str
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
# Not square, so that x and y cannot stand in for each other; more decoder layers than levels, so that these come round.
TINY = Setting(
    "tiny", 64, 96, (3, 0, 2), hidden_dim=32, num_heads=4, encoder_layers=2, encoder_feedforward_dim=64,
    decoder_layers=4, decoder_feedforward_dim=96, num_queries=6, num_points=64,
)  # fmt: skip
TINY_SWIN = replace(TINY, name="tiny, Swin-T", backbone="swin_t")
PUBLISHED = Setting(
    "published R50", 512, 384, (12, 5), hidden_dim=256, num_heads=8, encoder_layers=6, encoder_feedforward_dim=1024,
    decoder_layers=9, decoder_feedforward_dim=2048, num_queries=100, num_points=12544,
)  # fmt: skip

SMALL = replace(PUBLISHED, height=128, width=96, num_points=1024)  # the same network


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
    """The reference with random weights, none of them 0, so that each has an effect. In eval mode, as batch norm is
    frozen."""
    logging.set_verbosity_error()  # it warns that it was published with Swin alone
    loss = PARAMS.loss
    config = Mask2FormerConfig(
        backbone_config=BACKBONES[setting.backbone],
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
    if setting.backbone == "swin_t":
        network.model.pixel_level_module.encoder.swin.layernorm = nn.Identity()  # the classifier's: no level passes it
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
    model = PARAMS.model.model_copy(update={**size, "weights": None, "freeze_norm": False})
    same = {"labels": TASK.loss_weight}  # in the matching cost, as the reference has it
    loss = PARAMS.loss.model_copy(update={"num_points": setting.num_points, "importance": 0.0, **same})
    network = Mask2Former((TASK,), model, loss=loss, detections=10)
    state = renamed(theirs.state_dict())
    del state["criterion.empty_weight"]
    state |= {key: x for key, x in network.state_dict().items() if key.endswith("relative_position_index")}  # no weight
    network.load_state_dict(state)  # strict: every key and shape
    network.train().backbone.eval()
    return network


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or gradients, of the reference under our names."""
    head = f"decoder.heads.head_{TASK.name}."
    return {key.replace(MAIN_HEAD, head): value for key, value in huggingface.convert(state).items()}


def images(setting: Setting, seed: int = 0) -> list[dict[str, Any]]:
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
