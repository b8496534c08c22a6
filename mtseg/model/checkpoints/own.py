"""This project's own checkpoints, as `mtseg.model.weights.write` writes them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def matches(state: Mapping[str, Tensor]) -> bool:
    return "decoder.query_feature" in state and "pixel_decoder.level_embed" in state


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)
