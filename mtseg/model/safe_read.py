"""Tensors from files of any origin. Nothing here runs a file's code: safetensors holds none, a .pth is read with
`weights_only`, and a .pkl by an unpickler that knows arrays, tensors and plain containers alone."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtseg.core.errors import UserError


def read(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth, .pt or .pkl file, on the CPU; one inside a `model` or `state_dict` entry
    is taken out of it. Raises UserError when the file is missing, broken, or holds anything but tensors."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    readers: dict[str, Callable[[BinaryIO], Any]] = {".pth": _torch, ".pt": _torch, ".pkl": _pickle}
    if path.suffix not in readers:
        raise UserError(f"model.weights: '{path}' is not imagenet, null, or a .safetensors, .pth, .pt or .pkl file")
    try:
        with path.open("rb") as file:
            state = _tensors(readers[path.suffix](file))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such weights file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected a weights file") from None
    except Exception as error:  # an unpickler meets arbitrary bytes, and raises almost anything on them
        if called := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(f"{path} is refused: it wants to call {called[1]}; only tensors are ever read") from None
        raise UserError(f"{path} is refused: it is broken, or holds more than tensors") from None
    if state is None:
        raise UserError(f"{path}: expected a state dict (names and tensors), found something else")
    return state


def _tensors(state: Any) -> dict[str, Tensor] | None:
    """The state dict in what a file held. Its mappings may be made to raise on any use."""
    for entry in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(entry), Mapping):
            state = state[entry]
    if not isinstance(state, Mapping):
        return None
    state = {key: value.tensor if isinstance(value, _Array) else value for key, value in dict(state).items()}
    fine = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
    return state if state and fine else None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header's metadata. Raises UserError."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such weights file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken, or no safetensors file ({_line(error)})") from None


def _torch(file: BinaryIO) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _storage(data: bytes) -> Any:
    """As torch.storage._load_from_bytes, which unpickles anything."""
    storage = _torch(io.BytesIO(data))
    if not isinstance(storage, torch.TypedStorage | torch.UntypedStorage):  # a function of torch, to be changed
        raise pickle.UnpicklingError("expected a storage")
    return storage


def _pickle(file: BinaryIO) -> Any:
    return _ArraysOnly(file, encoding="latin1").load()  # detectron2's oldest files were written by Python 2


class _Kind:
    """Stands in for numpy.dtype: numbers only."""

    def __init__(self, code: str, *_: Any):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"GLOBAL numpy.{self.dtype}")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray: its own way to take up a pickled state trusts the file."""

    def __init__(self, *_: Any):
        self.tensor = torch.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.fill(data.encode("latin1") if isinstance(data, str) else data, kind, shape, "F" if fortran else "C")

    def fill(self, data: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
        array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
        self.tensor = torch.from_numpy(array.astype(kind.dtype.newbyteorder("="), order="C"))
        return self


class _Function:
    """A function that a pickle may call but not change, as it could by setting attributes of what it gets by name."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]):
        self.call = call

    def __call__(self, *values: Any) -> Any:
        return self.call(*values)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function has no state")


class _ArraysOnly(pickle.Unpickler):
    """Each name that a pickle may ask for, with what it gets: harmless itself, or a harmless stand-in."""

    ALLOWED = {
        "collections.OrderedDict": OrderedDict,
        "numpy.ndarray": None,  # named as a kind of array, never called
        "numpy.dtype": _Kind,
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.core.numeric._frombuffer": _Function(lambda *state: _Array().fill(*state)),
        "torch._utils._rebuild_tensor_v2": _Function(torch._utils._rebuild_tensor_v2),
        "torch._utils._rebuild_parameter": _Function(lambda tensor, *_: tensor),
        "torch.storage._load_from_bytes": _Function(_storage),
        "_codecs.encode": _Function(lambda text, _: text.encode("latin1")),  # how Python 3 writes bytes for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"  # numpy 2 has the underscore
        if full not in self.ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return self.ALLOWED[full]


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
