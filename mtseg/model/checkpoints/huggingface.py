"""Checkpoints of Hugging Face transformers' `Mask2FormerForUniversalSegmentation` with a Swin or ResNet backbone, with
the keys of its files (`facebook/mask2former-swin-*`) or those of release 5 in memory, which differ for Swin.

Differences from this project: cross-attention has fused input projections, Swin's attention separate ones. The last
norm of Swin's classifier and the class weights of the loss keep their keys, and so are unused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mtseg.model.checkpoints import MAIN_HEAD

LEVELS = ("res5", "res4", "res3")
BACKBONE = "model.pixel_level_module.encoder."

NAMES = {
    r"class_predictor\.": MAIN_HEAD,
    r"model\.pixel_level_module\.decoder\.": "pixel_decoder.",
    r"pixel_decoder\.input_projections\.([012])\.": lambda found: f"pixel_decoder.project.{LEVELS[int(found[1])]}.",
    r"pixel_decoder\.encoder\.": "pixel_decoder.",
    r"pixel_decoder\.mask_projection\.": "pixel_decoder.mask_features.",
    r"pixel_decoder\.adapter_1\.": "pixel_decoder.lateral.",
    r"pixel_decoder\.layer_1\.": "pixel_decoder.smooth.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.sampling_offsets\.": r"\1.attention.offset.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.attention_weights\.": r"\1.attention.weight.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.value_proj\.": r"\1.attention.value.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn\.output_proj\.": r"\1.attention.out.",
    r"(pixel_decoder\.layers\.\d+)\.self_attn_layer_norm\.": r"\1.attention_norm.",
    r"model\.transformer_module\.(decoder\.)?": "decoder.",
    r"decoder\.queries_features\.weight$": "decoder.query_feature",
    r"decoder\.queries_embedder\.weight$": "decoder.query_position",
    r"decoder\.level_embed\.weight$": "decoder.level_embed",
    r"decoder\.layernorm\.": "decoder.norm.",
    r"decoder\.mask_predictor\.mask_embedder\.([012])\.0\.": lambda found: f"decoder.mask_embed.{2 * int(found[1])}.",
    r"(decoder\.layers\.\d+\.(self|cross))_attn": r"\1_attention",
    r"(decoder\.layers\.\d+\.self_attention)\.q_proj\.": r"\1.query.",
    r"(decoder\.layers\.\d+\.self_attention)\.k_proj\.": r"\1.key.",
    r"(decoder\.layers\.\d+\.self_attention)\.v_proj\.": r"\1.value.",
    r"(decoder\.layers\.\d+\.(self|cross)_attention)\.out_proj\.": r"\1.out.",
    r"(decoder\.layers\.\d+\.(self|cross)_attention)_layer_norm\.": r"\1_norm.",
    r"((pixel_)?decoder\.layers\.\d+)\.fc1\.": r"\1.feedforward.inner.",
    r"((pixel_)?decoder\.layers\.\d+)\.fc2\.": r"\1.feedforward.outer.",
    r"((pixel_)?decoder\.layers\.\d+)\.final_layer_norm\.": r"\1.feedforward_norm.",
}
RESNET = {  # to detectron2's names, as those of Swin
    r"embedder\.embedder\.": "stem.conv1.",
    r"encoder\.stages\.([0-3])\.layers\.": lambda found: f"res{int(found[1]) + 2}.",
    r"(res\d\.\d+)\.layer\.([012])\.": lambda found: f"{found[1]}.conv{int(found[2]) + 1}.",
    r"(.+)\.convolution\.": r"\1.",
    r"(.+)\.normalization\.": r"\1.norm.",
}
SWIN = {
    r"swin\.": "",
    r"hidden_states_norms\.stage([1-4])\.": lambda found: f"norm{int(found[1]) - 1}.",
    r"embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"embeddings\.norm\.": "patch_embed.norm.",
    r"encoder\.layers\.": "layers.",
    r"(layers\.\d\.blocks\.\d+)\.layernorm_before\.": r"\1.norm1.",
    r"(layers\.\d\.blocks\.\d+)\.layernorm_after\.": r"\1.norm2.",
    r"(layers\.\d\.blocks\.\d+)\.attention\.(self|relative_position_bias)\.relative": r"\1.attn.relative",
    r"(layers\.\d\.blocks\.\d+)\.attention\.(o_proj|output\.dense)\.": r"\1.attn.proj.",
    r"(layers\.\d\.blocks\.\d+)\.attention\.(q_proj|self\.query)\.": r"\1.attn.query.",
    r"(layers\.\d\.blocks\.\d+)\.attention\.(k_proj|self\.key)\.": r"\1.attn.key.",
    r"(layers\.\d\.blocks\.\d+)\.attention\.(v_proj|self\.value)\.": r"\1.attn.value.",
    r"(layers\.\d\.blocks\.\d+)\.intermediate\.dense\.": r"\1.mlp.fc1.",
    r"(layers\.\d\.blocks\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
}


def matches(state: Mapping[str, Tensor]) -> bool:
    return "model.transformer_module.queries_features.weight" in state


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {_rename(key): value for key, value in state.items()}
    converted = {}
    for key, value in renamed.items():
        if fused := re.fullmatch(r"(.*\.)in_proj_(weight|bias)", key):
            for name, part in zip(("query", "key", "value"), torch.tensor_split(value, 3), strict=True):
                converted[f"{fused[1]}{name}.{fused[2]}"] = part
        elif swin := re.fullmatch(r"(backbone\..*\.attn\.)(query|key|value)\.(weight|bias)", key):
            parts = [renamed[f"{swin[1]}{name}.{swin[3]}"] for name in ("query", "key", "value")]
            converted[f"{swin[1]}qkv.{swin[3]}"] = torch.cat(parts)
        else:
            converted[key] = value
    return converted


def _rename(key: str) -> str:
    if not key.startswith(BACKBONE):
        return _apply(NAMES, key)
    inner = key.removeprefix(BACKBONE)
    if re.match(r"(swin\.)?layernorm\.", inner):
        return key
    return "backbone." + _apply(RESNET if re.match(r"embedder\.|encoder\.stages\.", inner) else SWIN, inner)


def _apply(names: dict, key: str) -> str:
    for pattern, name in names.items():
        key = re.sub(f"^{pattern}", name, key)
    return key
