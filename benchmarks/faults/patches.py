"""How a fault is put into code: in place of what is there, until the run is over."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

Patch = Callable[[], AbstractContextManager]


def changed(owner: Any, name: str, change: Callable) -> Patch:
    """A call of `owner.name(...)` becomes `change(real, ...)`, where `real` is what is there."""
    return lambda: patch.object(owner, name, _instead(getattr(owner, name), change))


def both(*patches: Patch) -> Patch:
    @contextmanager
    def fault() -> Iterator[None]:
        with ExitStack() as stack:
            for one in patches:
                stack.enter_context(one())
            yield

    return fault


def everywhere(real: Callable, change: Callable) -> Patch:
    """The same of a function under every name by which a module of ours has imported it."""

    @contextmanager
    def fault() -> Iterator[None]:
        import_module("mtseg.training.loop"), import_module("mtseg.checks.run")  # so that their names are there
        modules = [module for name, module in sys.modules.items() if name.startswith("mtseg")]
        places = [(module, name) for module in modules for name, value in vars(module).items() if value is real]
        with both(*(changed(module, name, change) for module, name in places))():
            yield

    return fault


def _instead(real: Callable, change: Callable) -> Callable:
    return lambda *args, **kwargs: change(real, *args, **kwargs)
