"""ONNX files of a network that gives the same for every image, made by hand: no export, and no PyTorch to start."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtseg.core.metadata import Metadata

DETECTIONS, QUERIES, SIDE = 3, 2, 64


def outputs(known: Metadata) -> dict[str, np.ndarray]:
    """What the network gives for an image: two detections of one query and one of another."""
    tasks = known.predicted_tasks()
    masks = np.full((QUERIES, SIDE // 4, SIDE // 4), -9, np.float32)
    masks[0, 2:6, 2:6], masks[1, 8:12, 8:12] = 9, 9
    return {
        "query": np.array([0, 1, 0]),
        "labels": np.zeros((DETECTIONS, len(tasks)), np.int64),
        "probability": np.array([0.9, 0.8, 0.7], np.float32),
        "masks": masks,
    } | {f"logits.{task.name}": np.eye(DETECTIONS, task.num_outputs, dtype=np.float32) * 9 for task in tasks}


def write(path, known: Metadata, given: dict[str, np.ndarray], side: int = SIDE):
    """A network that gives the same for every image."""
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        *(helper.make_node("Concat", ["batch", f"{name}.size"], [f"{name}.shape"], axis=0) for name in given),
        *(helper.make_node("Expand", [f"{name}.value", f"{name}.shape"], [name]) for name in given),
    ]
    stored = [numpy_helper.from_array(x[None], f"{name}.value") for name, x in given.items()]
    stored += [numpy_helper.from_array(np.array(x.shape, np.int64), f"{name}.size") for name, x in given.items()]
    kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in given.items()}
    found = [helper.make_tensor_value_info(name, kinds[name], ["B", *x.shape]) for name, x in given.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", side, side, 3])
    graph = helper.make_graph(nodes, "graph", [image], found, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key="mtseg", value=known.text())
    onnx.save(model, path)
    return path
