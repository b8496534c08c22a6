"""Which device to compute on, and in which precision."""

from __future__ import annotations

import ctypes
import platform

import torch

from mtseg.core.errors import UserError


def pick(name: str) -> torch.device:
    """`auto`: CUDA when there is one, else the CPU. Raises UserError when a CUDA device is named that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device: {name} is not available, PyTorch finds {count} CUDA devices: use auto or cpu")
    return device


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Mixed precision on CUDA: bfloat16 where supported, else float16; None on a CPU, where it only slows."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing each tensor's pages back and faulting them in again: on a CPU
    half of a training step's time went there. Elsewhere than on glibc this does nothing."""
    if "glibc" not in platform.libc_ver():
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 2**28)
