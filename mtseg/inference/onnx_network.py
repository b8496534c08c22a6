"""An ONNX file -> detections, on ONNX Runtime and without PyTorch.

B images, S side of the square, Q queries, k detections, T tasks, K outputs of a task, H x W size of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from scipy.special import expit

from mtseg.core.errors import UserError, first_line
from mtseg.core.metadata import Metadata
from mtseg.inference.postprocess import Detections

LOGITS = "logits."  # prefix of the outputs that hold a task's logits
SLOW_ON_CPU = ["SkipLayerNormFusion"]  # what ONNX Runtime makes of a sum and its normalisation there: 4 % slower


class OnnxNetwork:
    """device: `auto` (CUDA if ONNX Runtime has it), `cpu`, `cuda` or `cuda:1`. threads: of one operator on a CPU; by
    default as many as there are cores. Raises UserError when the file is broken or the device is not there."""

    def __init__(self, path: Path | str, device: str = "auto", *, threads: int | None = None):
        self.path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: a warning of the optimiser is no concern of the user's
        if threads is not None:
            options.intra_op_num_threads = threads
        providers = _providers(device)
        slow = SLOW_ON_CPU if providers == ["CPUExecutionProvider"] else []
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=providers, disabled_optimizers=slow
            )
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise UserError(f"{path} is broken or not an ONNX file ({first_line(error)})") from None
        if device.startswith("cuda") and self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise UserError(f"device: {device} does not start (see ONNX Runtime's message above): use auto or cpu")
        self.classes: np.ndarray | None = None  # numbers of classes of the tasks, where they are known
        self.outputs = [output.name for output in self.session.get_outputs()]

    @classmethod
    def load(cls, path: Path | str, metadata: Metadata, *, device: str = "auto") -> OnnxNetwork:
        """The network of a complete model file. Raises UserError also if its inputs and outputs are not those that the
        metadata describe."""
        network, size, tasks = cls(path, device), metadata.input.size, metadata.predicted_tasks()
        nodes = [*network.session.get_inputs(), *network.session.get_outputs()]
        shapes = {node.name: node.shape[1:] for node in nodes}
        last = {"labels": len(tasks)} | {f"{LOGITS}{task.name}": task.num_outputs for task in tasks}
        wrong = [name for name in ("query", "probability", "masks") if name not in shapes]
        wrong += [name for name, length in last.items() if shapes.get(name, [None])[-1:] != [length]]
        wrong += ["image"] * (shapes.get("image") != [size, size, 3])
        if wrong:
            raise UserError(
                f"{path}: '{wrong[0]}' of its network is not as its metadata describe it: export it again from its "
                ".safetensors file"
            )
        network.classes = np.array([task.num_classes for task in tasks])
        return network

    def __repr__(self) -> str:
        return f"ONNX Runtime with {self.session.get_providers()[0]}"

    def detect(
        self, squares: np.ndarray, content: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]]
    ) -> Iterator[Detections]:
        """The detections of each image, best first; its masks are made when it is reached. squares: uint8 [B, S, S, 3],
        see `mtseg.data.images.square`. content: height and width of each image in its square. sizes: of the original
        images."""
        values = self.session.run(None, {"image": squares})
        found = dict(zip(self.outputs, values, strict=True))
        if not all(np.isfinite(found[name]).all() for name in ("probability", "masks")):
            raise UserError(
                f"{self.path} computes values that are not finite: it is damaged, or its weights are too large for "
                "float16: copy it again, or export it again, in float32"
            )
        limits = {"query": found["masks"].shape[1]} | ({} if self.classes is None else {"labels": self.classes})
        if wrong := [name for name, most in limits.items() if ((found[name] < 0) | (found[name] >= most)).any()]:
            raise UserError(
                f"{self.path} computes '{wrong[0]}' out of range: it is damaged: copy it again, or export it again"
            )
        for b, pair in enumerate(zip(content, sizes, strict=True)):
            yield _detections({name: x[b] for name, x in found.items()}, len(squares[b]), *pair)


def _providers(device: str) -> list:
    name, _, number = device.partition(":")
    if name not in ("auto", "cpu", "cuda") or number and not (name == "cuda" and number.isdigit()):
        raise UserError(f"device: {device} is unknown, allowed are auto, cpu, cuda and cuda:N")
    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if name == "cuda" and not there:
        raise UserError(f"device: {device} is not available in this onnxruntime: install onnxruntime-gpu, or use cpu")
    cuda = [("CUDAExecutionProvider", {"device_id": int(number or 0)})] if there and name != "cpu" else []
    return [*cuda, "CPUExecutionProvider"]


def _detections(
    found: Mapping[str, np.ndarray], side: int, content: tuple[int, int], size: tuple[int, int]
) -> Detections:
    """One image's outputs -> its detections."""
    kept, mask = np.unique(found["query"], return_inverse=True)  # each mask is brought to full size once
    masks_QWH, quality = _masks(found["masks"][kept], side, content, size)
    order = np.argsort(-found["probability"] * quality[mask], kind="stable")
    probabilities = found.get("probabilities")
    return Detections(
        query=found["query"][order],
        labels=found["labels"][order],
        logits={name.removeprefix(LOGITS): x[order] for name, x in found.items() if name.startswith(LOGITS)},
        probabilities=None if probabilities is None else probabilities[order],
        mask_quality=quality[mask][order],
        masks=masks_QWH.transpose(0, 2, 1),
        mask=mask[order],
    )


def _masks(
    logits_Qhw: np.ndarray, side: int, content: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mask logits at stride 4 -> masks [Q, W, H] at the original size, as the encoder of masks reads them, and the mean
    probability inside each. Enlarged to the square, the padding cut off, then resized, as the training saw them."""
    (height, width), (H, W) = content, size
    masks_QWH = np.empty((len(logits_Qhw), W, H), dtype=bool)
    quality = np.zeros(len(logits_Qhw), dtype=np.float32)
    for q, logits_hw in enumerate(logits_Qhw):
        plane_WH = cv2.resize(np.ascontiguousarray(logits_hw.T), (side, side), interpolation=cv2.INTER_LINEAR)
        plane_WH = plane_WH[:width, :height]
        if content != size:
            plane_WH = cv2.resize(plane_WH, (H, W), interpolation=cv2.INTER_LINEAR)
        inside = np.greater(plane_WH, 0, out=masks_QWH[q])
        if len(logits := plane_WH[inside]):
            quality[q] = expit(logits).mean()
    return masks_QWH, quality
