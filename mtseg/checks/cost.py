"""What a training step takes at each input size, from the shapes of its tensors: nothing is computed.

docs/memory.md has the same beside measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from mtseg.model.mask2former import Mask2Former


@dataclass(frozen=True)
class Cost:
    """operations: floating-point operations of the products and convolutions of the forward pass. memory: bytes, in
    float32, of weights, gradients or what they are computed from, and AdamW's moments. Both without the losses, which
    grow with the objects instead of the size."""

    operations: float
    memory: float


def costs(network: Mask2Former, sizes: Iterable[int], *, images: int) -> dict[int, Cost]:
    """{input size: cost of a step with a batch of `images`}. Empty for a network that reads values of its tensors."""
    network = deepcopy(network).to("meta").train()
    stays = sum(3 * x.numel() * x.element_size() for x in network.parameters())
    try:
        return {size: _cost(network, size, images=images, stays=stays) for size in sizes}
    except RuntimeError:  # some backbone of a user's
        return {}


def _cost(network: Mask2Former, size: int, *, images: int, stays: int) -> Cost:
    own = {StorageWeakRef(x.untyped_storage()) for x in (*network.parameters(), *network.buffers())}
    kept: dict[StorageWeakRef, int] = {}  # for the backward pass: storages, of which many tensors can be views

    def keep(x: Tensor) -> Tensor:
        kept[StorageWeakRef(x.untyped_storage())] = x.untyped_storage().nbytes()
        return x

    one = torch.zeros(1, 3, size, size, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda x: x):
        network.decoder(*network.pixel_decoder(network.features(one)))
    return Cost(images * counter.get_total_flops(), stays + images * sum(kept[x] for x in kept.keys() - own))
