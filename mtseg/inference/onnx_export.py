"""A network in PyTorch -> an ONNX file that `OnnxNetwork` runs.

B images (any number), S side of the square, Q queries, k detections, T tasks, K outputs of a task.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mtseg.core import metadata
from mtseg.core.errors import UserError, first_line
from mtseg.core.metadata import Metadata
from mtseg.core.tables import Images
from mtseg.data.images import read_image, square
from mtseg.evaluation.ap import scores
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference.onnx_network import OnnxNetwork
from mtseg.inference.onnx_precision import calibration_rows, quantise, to_float16, write
from mtseg.inference.predictor import predict_split
from mtseg.inference.torch_network import TorchNetwork
from mtseg.model.mask2former import Mask2Former

OPSET = 18  # the lowest with all operators that are used: bilinear GridSample 16, LayerNormalization 17, ReduceMax 18


def export(network: Mask2Former, path: Path, known: Metadata) -> None:
    """Write the network, with normalisation and choice of detections, in float32. The same network gives the same
    bytes. The network is left on the CPU in evaluation mode. Raises UserError for a backbone of timm that does not
    allow it.

    Input: `image` uint8 [B, S, S, 3], RGB, see `mtseg.data.images.square`. Outputs, best probability first: `query`
    int64 [B, k]; `labels` int64 [B, k, T]; `probability` [B, k], by which the main head ranks; its `Candidates.fields`
    by their names; `logits.TASK` [B, k, K], see `Head.class_logits`; `masks` [B, Q, S/4, S/4], mask logits.
    """
    wrapped = _Network(network.cpu().eval())
    size = known.input.size
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # one would be taken for a constant
    exporting = getattr(network.backbone, "exporting", contextlib.nullcontext)
    with torch.no_grad(), _quiet(), exporting(), _dynamic_batch(known.model.backbone):
        # a step of its own, which raises if the number of images becomes a constant: torch.onnx.export continues
        # with other strategies, and then the file is wrong for other numbers of images
        graph = torch.export.export(wrapped, (images,), dynamic_shapes={"image": {0: torch.export.Dim("batch")}})
        program = torch.onnx.export(
            graph, dynamo=True, opset_version=OPSET, input_names=["image"], output_names=list(wrapped(images)),
            verbose=False,
        )  # fmt: skip
    write(program.model_proto, path, known)


def convert(source: Path, out: Path, *, precision: str = "float32", squares: np.ndarray | None = None) -> None:
    """Write a complete `.safetensors` as ONNX. precision: float32, float16 (for GPUs) or int8 (for CPUs), which needs
    `squares`, see `quantise`. Raises UserError when `source` is no complete `.safetensors`."""
    known = metadata.read(source)
    if source.suffix != ".safetensors":
        raise UserError(f"{source}: an ONNX file is made from a .safetensors")
    with tempfile.TemporaryDirectory() as folder:
        plain = out if precision == "float32" else Path(folder) / "plain.onnx"
        export(TorchNetwork.load(source, known, device="cpu").network, plain, known)
        if precision == "float16":
            to_float16(plain, out)
        elif precision == "int8":
            quantise(plain, out, squares)


def convert_and_score(
    source: Path, out: Path, images: Images, *, root: Path, precision: str, max_dets: Sequence[int]
) -> dict[str, float]:
    """`convert`, with int8 calibrated on some of the images; AP and joint AP of the file on all of them, in percent.
    root: folder of the images."""
    known = metadata.read(source)
    some = images[calibration_rows(len(images))]
    squares = np.stack([square(read_image(root, image), known.input.size)[0] for image in some])
    convert(source, out, precision=precision, squares=squares)
    found = predict_split(OnnxNetwork(out, "cpu"), images, root=root, metadata=known)
    evaluation = Evaluation(images, found, tasks=known.predicted_tasks(), ranking=known.ranking, max_dets=max_dets)
    metrics = scores.metrics(evaluation)
    return {"segm_AP": metrics["segm"].get("AP"), "joint_AP": metrics["joint"].get("AP")}


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
def _dynamic_batch(backbone: str) -> Iterator[None]:
    """Raises UserError for a network of timm that cannot be exported; our own ones can."""
    try:
        yield
    except Exception as error:  # the exporter's errors have no common base class
        if not backbone.startswith("timm/"):
            raise
        raise UserError(
            f"model.backbone: {backbone} cannot be exported to ONNX for any number of images ({first_line(error)}): "
            "predict with the .safetensors, or train with another backbone"
        ) from None


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
