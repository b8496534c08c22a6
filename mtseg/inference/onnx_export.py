"""A network in PyTorch -> an ONNX file that `OnnxNetwork` runs.

B images (any number), S side of the square, Q queries, k detections, T tasks, K outputs of a task.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mtseg.core.metadata import Metadata
from mtseg.inference.onnx_precision import write
from mtseg.model.mask2former import Mask2Former

OPSET = 18  # the lowest with all operators that are used: bilinear GridSample 16, LayerNormalization 17, ReduceMax 18


def export(network: Mask2Former, path: Path, metadata: Metadata) -> None:
    """Write the network, with normalisation and choice of detections, in float32. The same network gives the same
    bytes. The network is left on the CPU in evaluation mode.

    Input: `image` uint8 [B, S, S, 3], RGB, see `mtseg.data.images.square`. Outputs, best probability first: `query`
    int64 [B, k]; `labels` int64 [B, k, T]; `probability` [B, k], by which the main head ranks; its `Candidates.fields`
    by their names; `logits.TASK` [B, k, K], see `Head.class_logits`; `masks` [B, Q, S/4, S/4], mask logits.
    """
    wrapped = _Network(network.cpu().eval())
    size = metadata.input.size
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # one would be taken for a constant
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            wrapped, (images,), dynamo=True, opset_version=OPSET, input_names=["image"],
            output_names=list(wrapped(images)), dynamic_shapes={"image": {0: torch.export.Dim("batch")}}, verbose=False,
        )  # fmt: skip
    write(program.model_proto, path, metadata)


class _Network(nn.Module):
    def __init__(self, network: Mask2Former):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        network = self.network
        output = network.outputs(image.permute(0, 3, 1, 2))
        last = output.last()
        found = network.heads.candidates(last, network.detections)
        query_BkK = found.query[..., None]
        logits = {
            f"logits.{name}": x_BQK.gather(1, query_BkK.expand(-1, -1, x_BQK.shape[-1]))
            for name, x_BQK in network.heads.class_logits(last).items()
        }
        first = {"query": found.query, "labels": found.labels, "probability": found.probability}
        return first | found.fields | logits | {"masks": output.masks()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own working."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
