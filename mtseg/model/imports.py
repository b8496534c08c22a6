"""Faster imports of PyTorch's libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Around imports of detectron2 and timm: they do not load PyTorch's compiler, which takes 2 s.

    torchvision and timm load it for two functions: `is_compile_supported`, and `disable`, which marks what is not to
    be compiled. Here they get functions that load it when they are called. Any other name of it loads it at once.
    """
    if COMPILER in sys.modules:
        yield
        return
    import torch

    def supported(device: Any) -> bool:
        _remove()
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(device)

    def disable(fn: Callable | None = None, recursive: bool = True, **_: Any) -> Callable:
        return torch._disable_dynamo(fn, recursive)  # PyTorch's own, which loads the compiler in the first call

    later = [_Later(UTILS, is_compile_supported=supported), _Later(COMPILER, disable=disable)]
    sys.modules |= {module.__name__: module for module in later}
    try:
        yield
    finally:
        _remove()


class _Later(ModuleType):
    """In place of a module while imports run."""

    def __init__(self, name: str, **functions: Callable):
        super().__init__(name)
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        if name == "__file__" or (name == "__path__" and self.__name__ != COMPILER):
            raise AttributeError(name)  # asked by `inspect` of every module, and by `from ... import`
        _remove()
        __import__(self.__name__)
        return getattr(sys.modules[self.__name__], name)


def _remove() -> None:
    for name in (COMPILER, UTILS):
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]
