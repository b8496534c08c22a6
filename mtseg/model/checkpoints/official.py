"""Checkpoints of FAIR's Mask2Former (facebookresearch/Mask2Former, MIT), any backbone, multi-scale deformable pixel
decoder: `MSDeformAttnPixelDecoder`, `MultiScaleMaskedTransformerDecoder`.

Differences from this project: attention has fused input projections; levels are numbered coarse to fine; there is a
list of all self-attention, cross-attention and feed-forward blocks each. Published files name queries `static_query`,
and in the oldest (version 1, see `MaskFormerHead._load_from_state_dict`) keys of the pixel decoder have no prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

LEVELS = ("res5", "res4", "res3")

NAMES = {
    r"(?!pixel_decoder\.|predictor\.)": "pixel_decoder.",
    r"pixel_decoder\.input_proj\.([012])\.": lambda found: f"pixel_decoder.project.{LEVELS[int(found[1])]}.",
    r"pixel_decoder\.transformer\.(encoder\.)?": "pixel_decoder.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.sampling_offsets\.": r"\1.attention.offset.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.attention_weights\.": r"\1.attention.weight.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.(value|output)_proj\.": r"\1.attention.\2.",
    r"(pixel_decoder\.layers\.\d+\.attention)\.output\.": r"\1.out.",
    r"(pixel_decoder\.layers\.\d+)\.norm1\.": r"\1.attention_norm.",
    r"(pixel_decoder\.layers\.\d+)\.norm2\.": r"\1.feedforward_norm.",
    r"pixel_decoder\.adapter_1\.(norm\.)?": lambda found: f"pixel_decoder.lateral.{1 if found[1] else 0}.",
    r"pixel_decoder\.layer_1\.(norm\.)?": lambda found: f"pixel_decoder.smooth.{1 if found[1] else 0}.",
    r"predictor\.": "decoder.",
    r"decoder\.transformer_(self|cross)_attention_layers\.(\d+)\.norm\.": r"decoder.layers.\2.\1_attention_norm.",
    r"decoder\.transformer_(self|cross)_attention_layers\.(\d+)\.(self|multihead)_attn\.":
        r"decoder.layers.\2.\1_attention.",
    r"(decoder\.layers\.\d+\.(self|cross)_attention)\.out_proj\.": r"\1.out.",
    r"decoder\.transformer_ffn_layers\.(\d+)\.norm\.": r"decoder.layers.\1.feedforward_norm.",
    r"decoder\.transformer_ffn_layers\.(\d+)\.linear": r"decoder.layers.\1.linear",
    r"((pixel_)?decoder\.layers\.\d+)\.linear1\.": r"\1.feedforward.inner.",
    r"((pixel_)?decoder\.layers\.\d+)\.linear2\.": r"\1.feedforward.outer.",
    r"decoder\.decoder_norm\.": "decoder.norm.",
    r"decoder\.(query_feat|static_query)\.weight$": "decoder.query_feature",
    r"decoder\.query_embed\.weight$": "decoder.query_position",
    r"decoder\.level_embed\.weight$": "decoder.level_embed",
    r"decoder\.class_embed\.": "decoder.heads.main.",
    r"decoder\.mask_embed\.layers\.([012])\.": lambda found: f"decoder.mask_embed.{2 * int(found[1])}.",
}  # fmt: skip


def matches(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("sem_seg_head.predictor.transformer_cross_attention_layers.") for key in state)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = {}
    for key, value in state.items():
        if not key.startswith("sem_seg_head."):
            converted[key] = value
        elif fused := re.fullmatch(r"(.*\.)in_proj_(weight|bias)", key):
            block = _rename(fused[1])
            for name, part in zip(("query", "key", "value"), torch.tensor_split(value, 3), strict=True):
                converted[f"{block}{name}.{fused[2]}"] = part
        else:
            converted[_rename(key)] = value
    return converted


def _rename(key: str) -> str:
    short = key.removeprefix("sem_seg_head.")
    for pattern, name in NAMES.items():
        short = re.sub(f"^{pattern}", name, short)
    return short
