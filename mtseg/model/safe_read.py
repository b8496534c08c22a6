"""Read tensors from untrusted files without executing code in them.

.safetensors holds no code; .pth is read with `torch.load(weights_only=True)`. That cannot read the .pkl files of
detectron2 and FAIR, which are plain pickles of NumPy arrays or tensors: for these there is a restricted unpickler.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtseg.core.errors import UserError, as_user_error, first_line, is_pipe


def read(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth, .pt or .pkl file, on the CPU, at the top level or in the entry `model` or
    `state_dict`. Raises UserError if the file is missing, broken, or holds anything but tensors."""
    path = Path(path)
    if is_pipe(path):
        raise UserError(f"{path} is a pipe or a device, expected a weights file")
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
    except Exception as error:  # unpickling arbitrary bytes can raise anything
        if isinstance(error, OSError) and as_user_error(error):
            raise
        if called := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(f"{path} is refused: it wants to call {called[1]}; only tensors are ever read") from None
        raise UserError(f"{path} is refused: it is broken, or holds more than tensors") from None
    if state is None:
        raise UserError(f"{path}: expected a state dict (names and tensors), found something else")
    return state


def _tensors(state: Any) -> dict[str, Tensor] | None:
    """The state dict in an unpickled object; None if it is none. A hostile mapping may raise on any use."""
    for entry in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(entry), Mapping):
            state = state[entry]
    if not isinstance(state, Mapping):
        return None
    state = {key: value.tensor if isinstance(value, _Array) else value for key, value in dict(state).items()}
    valid = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
    return state if state and valid else None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header's metadata. Raises UserError if the file is missing or broken."""
    if is_pipe(path):
        raise UserError(f"{path} is a pipe or a device, not a file: copy it again, or make it again")
    try:
        path.open("rb").close()  # safetensors reports too many open files as a missing one
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such weights file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file: copy it again, or make it again") from None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        fault = first_line(error)[:160]
        raise UserError(
            f"{path} is broken, or no safetensors file ({fault}): copy it again, or make it again"
        ) from None


def _torch(file: BinaryIO) -> Any:
    if zipfile.is_zipfile(file):  # PyTorch does not compress: a file that inflates is made to fill the memory
        size = file.seek(0, io.SEEK_END)
        if sum(entry.file_size for entry in zipfile.ZipFile(file).infolist()) > 2 * size:
            raise pickle.UnpicklingError("its entries are compressed")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _storage(data: bytes) -> Any:
    """Replaces torch.storage._load_from_bytes, which unpickles without restrictions."""
    storage = _torch(io.BytesIO(data))
    # not a function of torch, for example, which BUILD would change
    if not isinstance(storage, torch.TypedStorage | torch.UntypedStorage):
        raise pickle.UnpicklingError("expected a storage")
    return storage


def _pickle(file: BinaryIO) -> Any:
    return _ArraysOnly(file, encoding="latin1").load()  # detectron2's oldest files are of Python 2


class _Kind:
    """Replaces numpy.dtype: numbers only."""

    def __init__(self, code: str, *_: Any):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"GLOBAL numpy.{self.dtype}")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces numpy.ndarray, whose __setstate__ trusts the file."""

    def __init__(self, *_: Any):
        self.tensor = torch.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.fill(data.encode("latin1") if isinstance(data, str) else data, kind, shape, "F" if fortran else "C")

    def fill(self, data: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
        array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
        self.tensor = torch.from_numpy(array.astype(kind.dtype.newbyteorder("="), order="C"))
        return self


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The object that a pickle gets for a name: harmless itself, or a harmless replacement. The functions are new
        objects at each call, since the opcode BUILD can set their attributes."""
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "numpy.ndarray": None,  # an argument of _reconstruct, never called
            "numpy.dtype": _Kind,
            "numpy.core.multiarray._reconstruct": _Array,
            "numpy.core.numeric._frombuffer": lambda *state: _Array().fill(*state),
            "torch._utils._rebuild_tensor_v2": lambda *state: torch._utils._rebuild_tensor_v2(*state),
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch.storage._load_from_bytes": lambda data: _storage(data),
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes that Python 3 wrote for Python 2
        }
        full = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"  # numpy 2 renamed it
        if full not in allowed:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return allowed[full]
