"""Device, precision and memory settings."""

from __future__ import annotations

import ctypes
import platform

import torch

from mtseg.core.errors import UserError


def pick(name: str) -> torch.device:
    """`auto`: CUDA when there is one, else the CPU. Raises UserError when a CUDA device is named that is not there, and
    for an unknown name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: {name} is unknown: use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device: {name} is not available, PyTorch finds {count} CUDA devices: use auto or cpu")
    return device


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Data type of mixed precision on CUDA: bfloat16 where supported, else float16. None on a CPU, where mixed
    precision is slower."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


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
