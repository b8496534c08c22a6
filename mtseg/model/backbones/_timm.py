"""Convolutional or window-attention networks of timm, by name: `model.backbone: timm/convnext_tiny`."""

from __future__ import annotations

import difflib
import re

import timm
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from mtseg.core.errors import UserError, first_line

LEVELS = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


class Features(Backbone):
    """indices: of the four levels among the outputs of `body`. Images are padded at the right and bottom to multiples
    of 32, which many networks require; outputs are cropped accordingly."""

    def __init__(self, body: nn.Module, *, indices: list[int], channels: dict[str, int], channels_last: bool):
        super().__init__()
        self.body, self.indices, self.channels, self.channels_last = body, indices, channels, channels_last

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[-2:]
        maps = self.body(F.pad(x, (0, -width % 32, 0, -height % 32)))
        outputs = {}
        for (stride, level), index in zip(LEVELS.items(), self.indices, strict=True):
            y = maps[index].permute(0, 3, 1, 2) if self.channels_last else maps[index]
            outputs[level] = y[..., : -(-height // stride), : -(-width // stride)].contiguous()
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {level: ShapeSpec(channels=self.channels[level], stride=stride) for stride, level in LEVELS.items()}


class Timm:
    """A network of timm with the attributes of a backbone's file. Raises UserError if timm has no such network, or if
    it has no levels of strides 4, 8, 16 and 32, or does not take images of any size."""

    STRIDES = {level: stride for stride, level in LEVELS.items()}

    def __init__(self, name: str):
        self.name, self.__file__ = name, f"timm/{name}"
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models())
            raise UserError(f"model.backbone: timm has no '{name}'" + (f"; it has {', '.join(close)}" if close else ""))
        self.body = self._create()
        self.keys = {f"body.{key}" for key in self.body.state_dict()}
        self.parts = {_part(key) for key in self.keys}
        info = self.body.feature_info
        strides = info.reduction()
        if not set(LEVELS) <= set(strides):
            raise UserError(
                f"model.backbone: timm/{name} has levels of stride {', '.join(map(str, strides))}; 4, 8, 16, 32 needed"
            )
        self.indices = [max(i for i, own in enumerate(strides) if own == stride) for stride in LEVELS]
        self.CHANNELS = dict(zip(self.STRIDES, (info.channels()[i] for i in self.indices), strict=True))
        given = self.body.default_cfg if hasattr(self.body, "default_cfg") else timm.get_pretrained_cfg(name).to_dict()
        self.PIXEL_MEAN, self.PIXEL_STD = (tuple(255 * value for value in given[key]) for key in ("mean", "std"))

    def _create(self) -> nn.Module:
        """The network, without checks of the image size where it has them, as Swin does."""
        for options in ({"strict_img_size": False}, {}):
            try:
                return timm.create_model(self.name, features_only=True, **options)
            except TypeError:  # a network without such an option
                continue
            except Exception as error:  # depends on the network
                raise UserError(f"model.backbone: timm/{self.name} gives no features: {first_line(error)}") from None
        raise UserError(f"model.backbone: timm/{self.name} gives no features")

    def build(self) -> Backbone:
        channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        network = Features(self.body, indices=self.indices, channels=self.CHANNELS, channels_last=channels_last)
        network.eval()
        try:
            with torch.no_grad():
                network(torch.zeros(1, 3, 96, 64))
        except (AssertionError, RuntimeError) as error:
            reason = first_line(error)
            raise UserError(f"model.backbone: timm/{self.name} does not take images of any size: {reason}") from None
        return network.train()

    def rename(self, key: str) -> str | None:
        """Convert a key of timm's classifier; None for parts that the backbone does not have, such as the head. A
        tensor that is missing in a part which the backbone has, as in a shallower network, keeps a key and is
        reported."""
        places = (f"body.{key}", "body." + re.sub(r"\.(\d+)\.", r"_\1.", key, count=1), f"body.model.{key}")
        own = [place for place in places if _part(place) in self.parts]
        return next((place for place in own if place in self.keys), own[0] if own else None)


def _part(place: str) -> str:
    """The outermost module, of a network of timm, that contains a tensor."""
    return re.match(r"body\.(model\.)?[^.]+", place)[0]
