"""ResNets (He et al., arXiv 1512.03385) of detectron2, with the stride in the 3x3 convolution and RGB pixels as in
torchvision and in FAIR's Mask2Former. detectron2's R-50.pkl, MSRA's, is a different network: stride in the 1x1, BGR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from detectron2.modeling import Backbone, ResNet
from detectron2.modeling.backbone.resnet import BasicStem
from torch import Tensor

from mtseg.core.errors import UserError

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
MSRA = (
    "model.weights: {} belongs to MSRA's ResNet (stride in the 1x1 convolution, BGR pixels), a different network: "
    "use detectron2's torchvision/R-50.pkl, the initial weights of FAIR's Mask2Former"
)
CHANNELS = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}


def resnet(depth: int) -> Backbone:
    return ResNet(
        stem=BasicStem(in_channels=3, out_channels=64, norm="BN"),
        stages=ResNet.make_default_stages(depth=depth, stride_in_1x1=False, norm="BN"),
        out_features=list(STRIDES),
        freeze_at=0,
    )


def rename(key: str) -> str | None:
    """Convert a key of torchvision's or timm's classifier; None for its last layer. Raises UserError for a key of
    MSRA's ResNet, whose tensors have the same shapes."""
    if "_branch2" in key:
        raise UserError(MSRA.format(f"'{key}'"))
    if key.startswith(("fc.", "stem.fc.")):  # the latter in files of FAIR's conversion script
        return None
    key = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", key)
    key = re.sub(r"^layer([1-4])\.", lambda found: f"res{int(found[1]) + 1}.", key)
    key = re.sub(r"\.downsample\.0\.", ".shortcut.", key)
    key = re.sub(r"\.downsample\.1\.", ".shortcut.norm.", key)
    return re.sub(r"\.bn([1-3])\.", r".conv\1.norm.", key)


def check(state: Mapping[str, Tensor]) -> None:
    """Raises UserError for a detector trained from MSRA's weights: its frozen norms have scale and shift only, and
    statistics at their initial values."""
    means, variances = (
        [value.flatten() for key, value in state.items() if key.endswith(name)]
        for name in ("running_mean", "running_var")
    )
    if means and variances and not torch.cat(means).any() and torch.cat(variances).unique().numel() == 1:
        raise UserError(MSRA.format("a backbone whose norms have initial statistics"))
