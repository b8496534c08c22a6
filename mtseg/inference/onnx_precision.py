"""An ONNX file of `onnx_export` in float16, for GPUs, or int8, for CPUs. No PyTorch.

S side of the square.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, shape_inference
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from mtseg.core import metadata
from mtseg.core.files import replace_file
from mtseg.core.metadata import KEY, Metadata, sealed

CALIBRATION = 50  # images of which int8 learns the range of every activation
NOTES = ("doc_string", "metadata_props")


def calibration_rows(count: int) -> list[int]:
    """Which of so many images to calibrate on: at most CALIBRATION, evenly spread."""
    wanted = min(count, CALIBRATION)
    return [i * count // wanted for i in range(wanted)]


def write(model: ModelProto, path: Path, metadata: Metadata) -> None:
    """Write a model with `metadata` as its only entry, and without the notes of those who made it, which hold paths of
    their machine. Same model, same bytes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        for field in NOTES:
            part.ClearField(field)
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    entry = model.metadata_props.add(key=KEY)

    def make(text: str) -> bytes:
        entry.value = text
        return model.SerializeToString(deterministic=True)

    data = sealed(make, metadata.text())
    onnx.checker.check_model(model)
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def to_float16(source: Path, out: Path) -> None:
    """Write the model of `source`, half as large; inputs and outputs stay as they are. What a float16 is too coarse
    for stays in float32: positions that deformable attention reads, pixels, and what decides on detections."""
    known, model = metadata.read(source), onnx.load(source)
    small = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "GridSample"],
        node_block_list=[*_behind_the_image(model), *_before_sampling(model), *_detections(model)],
    )  # fmt: skip
    ONNXModel(small).topological_sort()  # the converter appends its casts
    write(small, out, known.model_copy(update={"precision": "float16"}))


def quantise(source: Path, out: Path, squares: np.ndarray) -> None:
    """Write the model of `source` with convolutions and linear layers in int8, a scale for each of their output
    channels. squares: uint8 [N, S, S, 3], some images as predictions have them (see CALIBRATION).

    Weights use 7 of the 8 bits: CPUs without VNNI add two products in 16 bits, which overflow with 8. In float32 stay
    the layers that read labels from the decoder's states, and all that is finer than stride 4: the first three
    convolutions of EfficientNet-Lite0 alone cost 2 of 71 joint AP.
    """
    known, model = metadata.read(source), shape_inference.infer_shapes(onnx.load(source), data_prop=True)
    kept = [*_fine(model, known.input.size // 4), *_products(model), *_detections(model)]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        onnx.save(model, plain)
        quantize_static(
            plain, small, _Squares(squares), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Clip", "Relu"], nodes_to_exclude=kept,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
        )  # fmt: skip
        write(onnx.load(small), out, known.model_copy(update={"precision": "int8"}))


class _Squares(CalibrationDataReader):
    def __init__(self, squares: np.ndarray):
        self.rest = iter(squares)

    def get_next(self) -> dict[str, np.ndarray] | None:
        square = next(self.rest, None)
        return None if square is None else {"image": square[None]}


def _fine(model: ModelProto, side: int) -> Iterator[str]:
    """Convolutions whose output is larger than `side`."""
    sizes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type == "Conv" and sizes[node.output[0]][-1].dim_value > side:
            yield node.name


def _products(model: ModelProto) -> Iterator[str]:
    """Products of two activations, as in attention."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and not weights & {*node.input}:
            yield node.name


def _detections(model: ModelProto) -> set[str]:
    """All that lies between the decoder's states, which are the last layer norm's, and the outputs except `masks`."""
    wanted = [output.name for output in model.graph.output if output.name != "masks"]
    return _upstream(model, wanted, until={"LayerNormalization"})


def _before_sampling(model: ModelProto) -> set[str]:
    """From the linear layers that give offsets to the positions that GridSample reads."""
    grids = [node.input[1] for node in model.graph.node if node.op_type == "GridSample"]
    return _upstream(model, grids, until={"MatMul"})


def _behind_the_image(model: ModelProto) -> list[str]:
    """Nodes before the first convolution or linear layer: pixels of 0 to 255, and their normalisation."""
    first = next(i for i, node in enumerate(model.graph.node) if node.op_type in ("Conv", "MatMul"))
    return [node.name for node in model.graph.node[:first]]


def _upstream(model: ModelProto, values: list[str], until: set[str]) -> set[str]:
    """Nodes on the way to some values, back to nodes of the types `until`, which are left out."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found, todo = set(), [makers[name] for name in values if name in makers]
    while todo:
        node = todo.pop()
        if node.op_type not in until and node.name not in found:
            found.add(node.name)
            todo += [makers[name] for name in node.input if name in makers]
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice on a step that changes nothing here."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
