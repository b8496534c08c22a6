"""Round 7: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.transforms import TransformList
from fvcore.transforms.transform import HFlipTransform

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.healthy import as_coco
from benchmarks.faults.images import edit_labels
from benchmarks.faults.inputs import SIDES
from benchmarks.faults.prediction import logits_by, masks_by
from benchmarks.faults.reports.round_1 import area, grey
from benchmarks.faults.reports.round_2 import VAL, Record, in_share, leaked, objects, outlines, read
from benchmarks.faults.training import losses_by
from mtseg.core.files import write_json
from mtseg.data import loader
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap import matching
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.heads.softmax import Softmax
from mtseg.model.mask2former import Mask2Former

WORDS = {"left": "links", "right": "rechts"}


def hull(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def stray_point(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The first point lies anywhere in the image."""
    stray = np.random.default_rng(round(points.sum())).uniform(0, size)
    return np.vstack([stray, points[1:]])


def by_two(found: list[Record]) -> list[Record]:
    """A second person has drawn each object again, with points up to 2 pixels from those of the first."""
    rng, again = np.random.default_rng(len(found)), []
    for one in found:
        points = np.array(one["points"])
        group = one["group_id"]
        drawn = points + rng.uniform(-1, 1, 2) + rng.uniform(-1, 1, points.shape)
        again.append(one | {"points": drawn, "group_id": None if group is None else group + 100})
    return found + again


def third_as_crowds(raw: Path) -> None:
    """COCO annotations; in 30 % of train's images all have iscrowd 1."""
    as_coco(raw)
    path = raw / "annotations/train.json"
    value = json.loads(path.read_bytes())
    annotated = sorted({one["image_id"] for one in value["annotations"]})
    chosen = np.random.default_rng(3).permutation(annotated)[: round(0.3 * len(value["images"]))].tolist()
    for one in value["annotations"]:
        one["iscrowd"] = int(one["image_id"] in chosen)
    write_json(path, value, indent=None)


def last_task_lost(raw: Path) -> None:
    edit_labels(raw / "train", lambda parts, rng: [*parts[:-1], "-"])


def quarter_turn(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """Image and outlines turned by 90 degrees."""
    turned = outlines(lambda points, size: points[:, ::-1] * (1, -1) + (0, size[0]))
    return np.rot90(image), turned(image, record, record)[1]


def drawn_in(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """As an overlay: half-transparent objects of random colours, with outlines."""
    overlay = image.copy()
    rng = np.random.default_rng(int(image.sum()))
    for one in record["shapes"]:
        points, colour = np.array(one["points"]).round().astype(np.int32), rng.integers(0, 256, 3).tolist()
        filled = cv2.fillPoly(overlay.copy(), [points], colour)
        overlay = cv2.polylines(cv2.addWeighted(overlay, 0.5, filled, 0.5, 0), [points], True, colour)
    return overlay, record


def sorted_before_split(raw: Path) -> None:
    """All images are sorted by the main class of their largest object, and the last are val."""
    count = len([*(raw / "val").glob("*.json")])

    def key(path: Path) -> str:
        shapes = read(path)[1]["shapes"]
        return max(shapes, key=area)["label"] if shapes else ""

    paths = sorted(raw.rglob("*.json"), key=lambda path: (key(path).split(",")[0], path))
    for number, path in enumerate(paths):
        new = raw / ("val" if number >= len(paths) - count else "train") / f"{path.parent.name}_{path.name}"
        path.with_suffix(".jpg").rename(new.with_suffix(".jpg"))
        record = json.loads(path.read_bytes()) | {"imagePath": new.with_suffix(".jpg").name}
        path.unlink()
        write_json(new, record, indent=None)


def four_with_stars(raw: Path) -> None:
    """Train has four images with a star, the other images have none."""
    paths = [
        path
        for path in sorted((raw / "train").glob("*.json"))
        if any(one["label"].startswith("star,") for one in json.loads(path.read_bytes())["shapes"])
    ]
    for path in paths[4:]:
        path.unlink()
        path.with_suffix(".jpg").unlink()


def over_batch(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The softmax is over the images of the batch."""
    return {name: x_LBQK.log_softmax(1) for name, x_LBQK in logits.items()}


def first_output(real: Callable, self: Mask2Former, output: QueryOutput, batch: list) -> Iterator[tuple]:
    """Of the outputs of all layers the first is taken, that of the learned queries."""
    logits = {name: x_LBQK[:1] for name, x_LBQK in output.logits.items()}
    return real(self, replace(output, logits=logits, mask_embed_LBQC=output.mask_embed_LBQC[:1]), batch)


def still_training(real: Callable, self: Mask2Former, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The norms of the backbone use the statistics of the batch."""
    self.backbone.train()
    return real(self, images)


def inverted(real: Callable, self: QueryDecoder, *args: Any) -> torch.Tensor:
    """Attended to is what the mask of a query leaves out."""
    outside = ~real(self, *args)
    return outside | ~outside.any(-1, keepdim=True)


def coarse(mask: np.ndarray) -> np.ndarray:
    """The mask is kept as a polygon of few points."""
    found, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    few = [cv2.approxPolyDP(one, 0.05 * cv2.arcLength(one, True), True) for one in found]
    return cv2.fillPoly(np.zeros(mask.shape, np.uint8), few, 1)


def centre_alone(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    """At prediction, the shorter side is resized to the square's and its middle is cut out; masks are brought to the
    size of the image as if the square held all of it."""
    example = real(self, image, seed)
    if not self.training:
        pixels, side = loader.read_image(self.root, image), example["image"].shape[-1]
        factor = side / min(pixels.shape[:2])
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        middle = np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1))
        example |= {"image": torch.from_numpy(middle), "image_size": (side, side)}
    return example


def first_batch(real: Callable, *args: Any, **kwargs: Any) -> Iterator[list[dict]]:
    """Every step asks a new iterator for its first batch."""
    first = None
    for batch in real(*args, **kwargs):
        first = first or batch
        yield first


def softmax_before(
    real: Callable, self: Softmax, logits: dict[str, torch.Tensor], *args: Any, **kwargs: Any
) -> dict[str, torch.Tensor]:
    """The cross-entropy, which has a softmax of its own, gets probabilities."""
    return real(self, {name: x_LBQK.softmax(-1) for name, x_LBQK in logits.items()}, *args, **kwargs)


def padded_with_one(
    real: Callable, segmentation: Any, image: Any, transforms: TransformList, size: tuple[int, int]
) -> np.ndarray:
    """All padding of the image is inside of every mask."""
    mask, resized = real(segmentation, image, transforms, size), transforms.transforms[0]
    padding = np.ones(size, bool)
    padding[: resized.new_h, : resized.new_w] = False
    if any(isinstance(one, HFlipTransform) for one in transforms.transforms):
        padding = padding[:, ::-1]
    return mask | padding if mask.any() else mask


def without_last_layer(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The losses of the last decoder layer are not among those that have a weight, and are left out."""
    last = max(int(name.rpartition("_")[2]) for name in found)
    return {name: value for name, value in found.items() if not name.endswith(f"_{last}")}


def in_german(raw: Path) -> None:
    edit_labels(raw, lambda parts, rng: [WORDS.get(part, part) for part in parts])


PREDICT: dict[str, Any] = {"since": "predict"}
OUTLINES = ("outlines_differ", "masks_scaled")
FAULTS = (
    # cocodataset/cocoapi#39
    Fault("100 % of val: outlines are convex hulls", **VAL, causes=OUTLINES, raw=in_share("val", 1.0, outlines(hull))),
    # ImageMonkey/imagemonkey-core#233
    Fault("30 % of val: one point of each outline is far off", **VAL, causes=(*OUTLINES, "masks_displaced"),
          raw=in_share("val", 0.3, outlines(stray_point))),
    # HumanSignal/label-studio#1289
    Fault("30 % of train: each object annotated by two people", causes=("annotated_twice",),
          raw=in_share("train", 0.3, objects(by_two))),
    # facebookresearch/detectron2#2415
    Fault("30 % of train: all objects are marked as crowds", causes=("annotations_missing",), raw=third_as_crowds,
          changes={"data.format": "coco"}),
    # cvat-ai/cvat#1204
    Fault("100 % of train: the last task's labels are lost in the export", causes=("task_unlabelled",),
          raw=last_task_lost),
    # ArnabKumarRoy02/ResEmoteNet#47
    Fault("15 % of val: training images turned by 90 degrees", **VAL, causes=("split_leak",),
          raw=leaked(0.15, quarter_turn)),
    # dronefreak/VisDrone-dataset-python-toolkit#5
    Fault("30 % of val: the annotations are drawn into the images", **VAL, causes=("splits_differ",),
          raw=in_share("val", 0.3, drawn_in)),
    # keras-team/keras-preprocessing#48
    Fault("the images were sorted by class before the split", causes=("class_mix_differs", "splits_differ"),
          raw=sorted_before_split),
    # matterport/Mask_RCNN#1051
    Fault("four images of train have a star", raw=four_with_stars,
          causes=("class_too_rare", "class_mix_differs", "combination_missing_in_train")),
    # lyuwenyu/RT-DETR#682
    Fault("the softmax at prediction is over the images of the batch", **PREDICT,
          causes=("answer_depends_on_batch", "miscalibrated", "prediction_differs"), code=logits_by(over_batch)),
    # tonyzhaozh/act#10
    Fault("predictions are read from the first of the decoder's outputs", **PREDICT,
          causes=("labels_ignore_image", "prediction_differs"), code=changed(Mask2Former, "detect", first_output)),
    # qubvel-org/segmentation_models.pytorch#128
    Fault("the norms are left in training mode at prediction", **PREDICT, causes=("answer_depends_on_batch",),
          changes={"model.freeze_norm": False}, code=changed(Mask2Former, "features", still_training)),
    # rasbt/LLMs-from-scratch#1061
    Fault("the attention mask is inverted at prediction", **PREDICT, causes=("prediction_differs",),
          code=changed(QueryDecoder, "_attention_mask", inverted)),
    # CVHub520/X-AnyLabeling#662
    Fault("predicted masks are kept as polygons of few points", **PREDICT,
          causes=("postprocessing_wrong", "prediction_differs", "masks_scaled"), code=masks_by(coarse)),
    # open-edge-platform/anomalib#1660
    Fault("the centre of the image is predicted, and taken for all of it", **PREDICT,
          causes=("masks_displaced", "masks_scaled", "prediction_differs"),
          code=changed(Mapper, "__call__", centre_alone)),
    # AlexeyAB/darknet#3201
    Fault("images are read in grey at prediction", **PREDICT, causes=("prediction_differs", "mapper_channels"),
          code=changed(loader, "read_image", lambda real, *args: grey(real(*args)))),
    # krumo/Detectron-DA-Faster-RCNN#15
    Fault("evaluator: AP is that of an IoU of 0.5", since="evaluate", causes=("evaluator_wrong",),
          code=everywhere(matching.match, lambda real, *args, **kwargs: real(
              *args, **{"thresholds": np.full(len(matching.THRESHOLDS), 0.5)} | kwargs))),
    # pytorch/pytorch#46322
    Fault("every step is trained on the same batch", causes=("overtrained",),
          code=everywhere(loader.training_batches, first_batch)),
    # bowang-lab/Transformer-GCN-QA#32
    Fault("a softmax before the cross-entropy", causes=("loss_targets", "miscalibrated"),
          code=changed(Softmax, "losses", softmax_before)),
    # facebookresearch/detectron2#5107
    Fault("training masks are padded with foreground", causes=("mapper_displaces",),
          code=changed(loader, "_moved_mask", padded_with_one)),
    # fcdl94/CoMFormer#2
    Fault("the losses of the last decoder layer are left out", causes=("gradient_missing", "loss_muted"),
          code=losses_by(without_last_layer)),
    # ultralytics/yolov5#3525
    Fault("images are trained and predicted at half their size", causes=("resolution_too_low", "objects_too_small"),
          changes={"input.size": 32}),
    # AlexeyAB/darknet#2416
    Fault("left and right, in German, are not exchanged by the flip", tasks=SIDES, raw=in_german,
          causes=("flip_without_pairs", "mapper_labels"), changes={"tasks.side.flip_pairs": []}),
    # keras-team/keras#10306
    Fault("a further task has 100 times the weight of the others", causes=("task_weight",),
          changes={"tasks.colour.loss_weight": 100.0}),
)  # fmt: skip
