"""How a fault is put into code: for a while, in place of what is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

Patch = Callable[[], AbstractContextManager]


def replaced(owner: Any, name: str, make: Callable[[Callable], Callable]) -> Patch:
    """Put `make(the real one)` in the place of a function, as long as the patch lasts."""

    @contextmanager
    def fault() -> Iterator[None]:
        with patch.object(owner, name, make(getattr(owner, name))):
            yield

    return fault


def replaced_value(owner: Any, name: str, make: Callable[[Any], Any]) -> Patch:
    return lambda: patch.object(owner, name, make(getattr(owner, name)))


def both(*patches: Patch) -> Patch:
    """All of them, one of which counts: heads are apart or joined."""

    @contextmanager
    def fault() -> Iterator[None]:
        with ExitStack() as stack:
            for patch_one in patches:
                stack.enter_context(patch_one())
            yield

    return fault


@contextmanager
def everywhere(real: Callable, make: Callable[[Callable], Callable]) -> Iterator[None]:
    """Put `make(real)` in the place of a function under every name by which a module of ours took it in."""
    import_module("mtseg.training.loop"), import_module("mtseg.checks.run")  # so that their names are there
    modules = [module for name, module in sys.modules.items() if name.startswith("mtseg")]
    places = [(module, name) for module in modules for name, value in vars(module).items() if value is real]
    with ExitStack() as patches:
        for module, name in places:
            patches.enter_context(patch.object(module, name, make(real)))
        yield
