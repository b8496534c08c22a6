"""Device, precision and memory settings."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence

import torch
from torch import Tensor

from mtseg.core.errors import UserError


def pick(name: str) -> torch.device:
    """`auto`: CUDA when there is one, else the CPU. Raises UserError when a CUDA device is named that is not there, and
    for an unknown name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
        raise UserError(f"device: {name or 'no name'} is unknown: use auto, cpu, cuda or cuda:1")
    count = torch.cuda.device_count()
    if device.type == "cuda" and ((device.index or 0) >= count or str(device) != name):  # PyTorch reads cuda:256 as 0
        raise UserError(f"device: {name} is not available, PyTorch finds {count} CUDA devices: use auto or cpu")
    return device


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Data type of mixed precision on CUDA: bfloat16 where supported, else float16. None on a CPU, where mixed
    precision is slower."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on the device, by one transfer that the host does not wait for. Unchanged if the device is the
    CPU."""
    if device.type == "cpu":
        return list(tensors)
    sizes = [x.numel() * x.element_size() for x in tensors]
    padded = [-(-size // 8) * 8 for size in sizes]  # a view as int64 must begin at a multiple of 8 bytes
    packed = torch.empty(sum(padded), dtype=torch.uint8, pin_memory=True)

    def parts(buffer: Tensor) -> list[Tensor]:
        each = zip(tensors, sizes, buffer.split(padded), strict=True)
        return [part[:size].view(x.dtype).view(x.shape) for x, size, part in each]

    for part, x in zip(parts(packed), tensors, strict=True):
        part.copy_(x)
    return parts(packed.to(device, non_blocking=True))


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the CPU, for which the host waits once. A step and a prediction read values only by this."""
    device = tensors[0].device
    if device.type == "cpu":
        return list(tensors)
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors]
    torch.cuda.current_stream(device).synchronize()
    return copies


def keep_memory() -> None:
    """Make glibc keep freed memory for later tensors instead of returning it to the system: page faults took half of
    the time of a training step on a CPU. Does nothing with other C libraries."""
    if "glibc" not in platform.libc_ver():
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 2**28)
