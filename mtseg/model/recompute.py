"""Activation checkpointing (Chen et al., arXiv 1604.06174): a block stores only its inputs and computes the rest again
in the backward pass. Outputs, gradients and keys are bit-identical; a step takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module) -> None:
    """Checkpoint a block, whose forward pass must not change its state, as batch norm does in training."""
    # a method rather than a closure, so that a deep copy runs its own weights
    block.forward = MethodType(_forward, block)


def stages(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the stages of a network: its outermost `nn.Sequential` modules, or the elements of an outermost
    `nn.ModuleList` or of a `nn.Sequential` of `nn.Sequential` modules.

    Stages save more than single blocks: two thirds of what a residual block with frozen norms stores is its input.
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
