"""Networks in PyTorch: loaded from a checkpoint, detections of a batch, and predictions of a whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from mtseg.core.errors import UserError, first_line
from mtseg.core.metadata import Metadata, recorded, trained
from mtseg.core.params import Input, Model, Section, Task
from mtseg.core.tables import Image, Predictions
from mtseg.data.loader import Example, Mapper, prediction_batches
from mtseg.inference.postprocess import Detections, encode
from mtseg.model import weights
from mtseg.model.device import pick, to_device, to_host
from mtseg.model.mask2former import Detected, Mask2Former

READ_AT_ONCE = 2**27  # bytes of masks that the host waits for together


def load_model(path: Path, *, tasks: tuple[Task, ...], model: Model, detections: int) -> Mask2Former:
    """The trained model of a checkpoint. Raises UserError if it was trained for other tasks or with another `model`."""
    state, metadata = weights.load(path)
    given, expected = _keys(metadata), _keys(description(tasks, model))
    if other := sorted(key for key in expected if given.get(key) != expected[key]):
        difference = f"{other[0]} {given.get(other[0], 'unknown')}, params.yaml has {expected[other[0]]}"
        raise UserError(f"{path} was trained with {difference}: train again")
    if "seen" not in metadata and model.unseen_combinations < 1:
        raise UserError(f"{path} does not record which combinations of labels it was trained with: train again")
    seen = [tuple(labels) for labels in metadata.get("seen", ())]
    network = Mask2Former(tasks, trained(model), detections=detections, seen=seen)
    fill(network, state, path)
    return network


def fill(network: Mask2Former, state: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a file. Raises UserError if they are not exactly those of the network, in float where the
    network's are, or not finite."""
    own = network.state_dict()
    for keys, fault in ((own.keys() - state.keys(), "is missing"), (state.keys() - own.keys(), "is unknown")):
        if keys:
            raise _misfit(path, min(keys), fault)
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise _misfit(path, key, f"has the shape {list(value.shape)}, expected {list(own[key].shape)}")
        if value.is_floating_point() != own[key].is_floating_point():
            raise _misfit(path, key, f"is {value.dtype}, expected {own[key].dtype}")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{path} is damaged, its tensor {key} has values that are not finite: copy it again, or make it again"
            )
    network.load_state_dict(state)


def _misfit(path: Path, key: str, fault: str) -> UserError:
    return UserError(
        f"{path}: its tensors are not those of the network that it records ({key} {fault}): export it again from its "
        "checkpoint, or train again"
    )


def description(tasks: Sequence[Task], model: Model, **params: Any) -> dict[str, Any]:
    """The settings that a checkpoint records, as JSON values: tasks, network, and the `params` (sections or values) of
    its training."""
    heads = [{"name": task.name, "classes": list(task.classes), "background": task.background} for task in tasks]
    settings = {
        key: value.model_dump(mode="json", exclude={"workers"}) if isinstance(value, Section) else value
        for key, value in params.items()
    }
    settings["tasks"] = [task.model_dump(mode="json") for task in tasks]
    return {"tasks": heads, "model": recorded(model), "params": settings}


def _keys(description: Mapping[str, Any]) -> dict[str, Any]:
    return {"tasks": description.get("tasks")} | {f"model.{k}": v for k, v in description.get("model", {}).items()}


class TorchNetwork:
    """A network in evaluation mode. compiled: by `torch.compile`, for one image at a time: each number of images would
    take a compilation of its own."""

    def __init__(self, network: Mask2Former, *, compiled: bool):
        self.network, self.compiled = network.eval(), compiled
        if compiled:
            network.outputs = torch.compile(network.outputs, dynamic=False)

    def __repr__(self) -> str:
        return f"PyTorch on {self.network.device}{', compiled' * self.compiled}"

    @classmethod
    def load(cls, path: Path, metadata: Metadata, *, device: str = "auto", compile: bool = False) -> TorchNetwork:
        """The network of a complete model file. compile: now, so that no prediction waits for it. Raises UserError if
        the device is not available, if the file's tensors are not those of the network, or if it does not compile."""
        where, tasks = pick(device), metadata.predicted_tasks()
        state, _ = weights.load(path)
        network = Mask2Former(tasks, metadata.model, detections=metadata.detections, seen=metadata.seen)
        fill(network, state, path)
        loaded = cls(network.to(where), compiled=compile)
        if compile:
            size = metadata.input.size
            try:
                next(loaded.detect(np.zeros((1, size, size, 3), np.uint8), [(size, size)], [(size, size)]))
            except Exception as error:  # the compiler's errors have no common base class
                cause = first_line(getattr(error, "inner_exception", error))
                raise UserError(
                    f"compile: PyTorch cannot compile this network here ({cause}): load it without, or use the model "
                    "as ONNX"
                ) from None
        return loaded

    def detect(
        self, squares: np.ndarray, content: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]]
    ) -> Iterator[Detections]:
        """The detections of each image, best first. squares: uint8 [B, S, S, 3], see `mtseg.data.images.square`.
        content: height and width of each image within its square. sizes: height and width of the original images."""
        batch = [
            {"image": x, "image_size": own, "height": height, "width": width}
            for x, own, (height, width) in zip(_planes(squares), content, sizes, strict=True)
        ]
        for part in [[one] for one in batch] if self.compiled else [batch]:
            yield from detect(self.network, part)

    @torch.no_grad()
    def features(self, squares: np.ndarray) -> np.ndarray:
        """What the backbone sees in each image: the means of its coarsest level, float32 [B, C]. squares: see
        `detect`."""
        levels = self.network.features(to_device([_planes(squares)], self.network.device)[0])
        return list(levels.values())[-1].mean(dim=(2, 3)).float().cpu().numpy()


def _planes(squares: np.ndarray) -> Tensor:
    """uint8 [B, 3, S, S]."""
    return torch.from_numpy(np.ascontiguousarray(squares.transpose(0, 3, 1, 2)))


@torch.no_grad()
def detect(network: Mask2Former, batch: list[Example]) -> Iterator[Detections]:
    """The detections of each example of the loader. The masks of large images are made one image at a time, and kept no
    longer than the caller keeps them."""
    yield from chain.from_iterable(iter(partial(_read, network(batch), network.tasks), []))


def _read(found: Iterator[Detected], tasks: Sequence[Task]) -> list[Detections]:
    """The next images, for which the host waits once: a whole batch, unless the masks are large."""
    some, size = [], 0
    while size < READ_AT_ONCE and (pair := next(found, None)):
        some.append(pair)
        size += pair[1].numel()
    tensors = [x for instances, masks in some for x in (*instances.get_fields().values(), masks.transpose(1, 2))]
    read = iter(to_host([x.contiguous() for x in tensors]) if some else [])
    results = []
    for instances, _ in some:
        fields = {name: next(read).numpy() for name in instances.get_fields()}
        results.append(as_detections(fields, next(read).numpy(), tasks))
    return results


def predict(
    model: Mask2Former, images: Sequence[Image], *, root: Path, input: Input, batch: int, progress: bool = True
) -> Predictions:
    """The predictions of all images, in the order of `images`, best first. root: folder of the images. batch: images
    per batch."""
    batches = predict_batches(model, images, root=root, input=input, batch=batch)
    return Predictions.concatenate(
        list(track(batches, "predict", total=-(-len(images) // batch), disable=not progress))
    )


@torch.no_grad()
def predict_batches(
    model: Mask2Former, images: Sequence[Image], *, root: Path, input: Input, batch: int
) -> Iterator[Predictions]:
    """The predictions of `predict`, batch by batch."""
    mapper = Mapper(model.tasks, input, root=root, training=False)
    training = model.training
    model.eval()
    try:
        for examples in prediction_batches(images, mapper, batch=batch, workers=input.workers):
            numbers = [example["image_id"] for example in examples]
            yield Predictions.concatenate(list(map(encode, detect(model, examples), numbers, repeat(model.tasks))))
    finally:
        model.train(training)


def as_detections(fields: Mapping[str, np.ndarray], masks_NWH: np.ndarray, tasks: Sequence[Task]) -> Detections:
    """The detections of an image, from what `Mask2Former.detect` returns for it, with transposed masks,
    the memory layout of `encode`."""
    used, mask = np.unique(fields["mask"], return_inverse=True)
    if len(used) < len(masks_NWH):
        masks_NWH = masks_NWH[used]
    return Detections(
        query=fields["query"],
        labels=fields["pred_labels"],
        logits={task.name: fields[f"logits_{task.name}"] for task in tasks},
        probabilities=fields.get("probabilities"),
        mask_quality=fields["mask_quality"],
        masks=masks_NWH.transpose(0, 2, 1),
        mask=mask,
    )
