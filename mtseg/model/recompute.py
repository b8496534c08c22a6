"""Activation checkpointing (Chen et al., arXiv 1604.06174): a block keeps its inputs alone, and computes the rest
again in the backward pass. Outputs, gradients and keys stay the same to the bit; a step takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module) -> None:
    """Checkpoint a block. It must not change its state in the forward pass, as batch norm in training does."""
    block.forward = MethodType(_forward, block)  # a method, not a closure: a deep copy then calls its own block


def stages(network: nn.Module) -> Iterator[nn.Module]:
    """A network's outermost sequences of modules, or their elements where these are sequences or a list of stages.

    Stages rather than blocks: of what a residual block with frozen norms keeps, two thirds are its own input.
    """
    for child in network.children():
        sequence = isinstance(child, nn.Sequential)
        if isinstance(child, nn.ModuleList) or (sequence and all(isinstance(item, nn.Sequential) for item in child)):
            yield from child
        elif sequence:
            yield child
        else:
            yield from stages(child)


def _forward(self: nn.Module, *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(self).forward(self, *args)
    return checkpoint(type(self).forward, self, *args, use_reentrant=False)
