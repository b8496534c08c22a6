"""Weights on disk: what a backbone starts from, and this project's own checkpoints. Nothing here runs a file's code:
safetensors holds none, and a .pth is read with `weights_only`, which admits tensors and plain containers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from mtseg.errors import UserError
from mtseg.files import replace_file

METADATA = "mtseg"  # the one entry of a checkpoint's header: with two, their order would change from run to run


@dataclass(frozen=True)
class Transfer:
    """Which tensors went from a file into a network: keys of the network (loaded, new) and of the file (unused)."""

    source: Path
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        groups = (("loaded", self.loaded), ("new", self.new), ("unused", self.unused))
        lines = [f"  {name:<7}{len(keys):>5}  {'' if name == 'loaded' else _some(keys)}" for name, keys in groups]
        return "\n".join([f"weights of {self.source.name}", *map(str.rstrip, lines)])


def read(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth or .pt file, on the CPU; one inside a `model` or `state_dict` entry is
    taken out of it. Raises UserError when the file is missing, broken, or holds anything but tensors."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    if path.suffix not in (".pth", ".pt"):
        raise UserError(f"model.weights: '{path}' is not imagenet, null, or a .safetensors, .pth or .pt file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of weights") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected a file of weights") from None
    except Exception as error:  # the unpickler meets arbitrary bytes, and raises almost anything on them
        if called := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(f"{path} is refused: it wants to call {called[1]}; only tensors are ever read") from None
        raise UserError(f"{path} is refused: it is broken, or holds more than tensors") from None
    for entry in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(entry), Mapping):
            state = state[entry]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UserError(f"{path}: expected a state dict (names and tensors), found something else")
    return dict(state)


def initialise(
    network: nn.Module, state: Mapping[str, Tensor], *, rename: Callable[[str], str | None], source: Path, name: str
) -> Transfer:
    """Fill a backbone from a state dict: of the backbone alone, or of a detector that has it under `backbone.`.

    rename: from a foreign key to the network's, None for what is left out. Every other tensor of the file must have
    its place, and every tensor of the network (but counters) its value: a deeper or a different network's file would
    else be taken for the right one. Raises UserError with the counts.
    """
    unused = []
    for prefix in ("module.", "backbone."):
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inside:
            unused += [key for key in state if not key.startswith(prefix)]
            state = inside
    own = network.state_dict()
    placed, unknown, reshaped = {}, [], []
    for key, value in state.items():
        target = key if key in own else rename(key)
        if target is None:
            unused.append(key)
        elif target not in own:
            unknown.append(key)
        elif own[target].shape != value.shape:
            reshaped.append(f"{key} {list(value.shape)} for {list(own[target].shape)}")
        else:
            placed[target] = value
    new = [key for key in own if key not in placed]
    missing = [key for key in new if not key.endswith("num_batches_tracked")]
    if unknown or reshaped or missing:
        raise UserError(
            f"{source} does not hold the weights of '{name}': {len(placed)} of its {len(own)} tensors fit, "
            f"{len(missing)} find no value{_brackets(missing)}; of the file's, {len(reshaped)} have another shape"
            f"{_brackets(reshaped)}, {len(unknown)} have no place{_brackets(unknown)}"
        )
    network.load_state_dict(placed, strict=False)
    return Transfer(source, tuple(placed), tuple(new), tuple(unused))


def save(path: Path | str, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a model's state dict as safetensors with JSON-able `metadata` in the header; same input, same bytes."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    data = to_bytes(state, metadata={METADATA: json.dumps(metadata, sort_keys=True, allow_nan=False)})
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict (on the CPU) and metadata that `save` wrote; tuples have become lists. Raises UserError when the
    file is missing, broken, or not one of ours."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is missing: run `dvc repro train` first")
    state, header = _read_safetensors(path)
    if METADATA not in header:
        raise UserError(f"{path} is not a checkpoint of this project: its header has no entry '{METADATA}'")
    return state, json.loads(header[METADATA])


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of weights") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken, or no safetensors file ({_line(error)})") from None


def _some(keys: list[str] | tuple[str, ...], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (", ..." if len(keys) > shown else "")


def _brackets(keys: list[str]) -> str:
    return f" ({_some(keys, 2)})" if keys else ""


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
