"""What a training step takes at each input size, from the shapes of its tensors: nothing is computed.

docs/memory.md has the same beside measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from mtseg.checks.findings import FAILURES
from mtseg.model.mask2former import Mask2Former


@dataclass(frozen=True)
class Cost:
    """operations: floating-point operations of the products and convolutions of the forward pass. memory: bytes, in
    float32, of weights, AdamW's moments and what the backward pass needs. Both without the losses, which grow with the
    objects instead of the size, and without what is computed again (`model.recompute`)."""

    operations: float
    memory: float


def costs(network: Mask2Former, sizes: Iterable[int], *, images: int) -> dict[int, Cost]:
    """{input size: cost of a step with a batch of `images`}, which grows with the pixels. Empty for a network that does
    not run on shapes alone, such as one that reads values of its tensors."""
    sizes = sorted(sizes)
    first, last = sizes[0], sizes[-1]
    try:
        network = deepcopy(network).to("meta").train()
        # batch norm refuses a single pixel of a single image
        two, three, larger = (_step(network, *shape) for shape in ((2, first), (3, first), (2, last)))
    except FAILURES:  # of a user's own backbone
        return {}
    image, growth = three - two, (larger - two) / 2
    weights = sum(3 * x.numel() * x.element_size() for x in network.parameters())
    whole = np.array([0, weights]) + two - 2 * image  # what a step takes for any number of images
    pixels = {size: (size**2 - first**2) / max(last**2 - first**2, 1) for size in sizes}
    return {size: Cost(*(whole + images * (image + share * growth)).tolist()) for size, share in pixels.items()}


def _step(network: Mask2Former, images: int, size: int) -> np.ndarray:
    """The operations of a forward pass, and the bytes that it keeps for the backward pass beside the weights."""
    own = {StorageWeakRef(x.untyped_storage()) for x in (*network.parameters(), *network.buffers())}
    kept: dict[StorageWeakRef, int] = {}  # of storages, since many tensors can be views of one

    def keep(x: Tensor) -> Tensor:
        kept[StorageWeakRef(x.untyped_storage())] = x.untyped_storage().nbytes()
        return x

    batch = torch.zeros(images, 3, size, size, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda x: x):
        network.decoder(*network.pixel_decoder(network.features(batch)))
    return np.array([counter.get_total_flops(), sum(kept[x] for x in kept.keys() - own)], dtype=float)
