"""Round 11: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch

from benchmarks.faults.case import Fault, changed, everywhere, together
from benchmarks.faults.prediction import matched, predictions_by
from benchmarks.faults.reports.round_2 import VAL, Record, in_share, leaked, outlines, pixels, read
from benchmarks.faults.reports.round_5 import loaded
from mtseg.core.params import Loss, Solver
from mtseg.core.tables import Predictions
from mtseg.data import loader
from mtseg.data.loader import Mapper
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Matches
from mtseg.evaluation.ap.pairs import box_overlaps
from mtseg.inference import torch_network
from mtseg.model import matching
from mtseg.model.decoder import QueryDecoder, QueryOutput
from mtseg.model.heads import softmax
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser
from mtseg.training.checkpoint import Run
from mtseg.training.step import Stepper


def around_one(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """The box of one object, with a margin of 3 pixels."""
    if not record["shapes"]:
        return image, record
    points = np.array(record["shapes"][0]["points"])
    left, top = np.maximum(points.min(0) - 3, 0).astype(int)
    right, bottom = (points.max(0) + 3).astype(int)
    crop = image[top:bottom, left:right]
    return crop, outlines(lambda found, size: found - (left, top))(crop, record, record)[1]


def on_white(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    shown = np.zeros(image.shape[:2], np.uint8)
    for one in record["shapes"]:
        cv2.fillPoly(shown, [np.array(one["points"]).round().astype(np.int32)], 1)
    return np.where(shown[..., None] > 0, image, np.uint8(255)), record


def in_tiles(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """Each object is cut at the seams of four tiles; its pieces are objects."""
    half, pieces = np.array(image.shape[1::-1]) / 2, []
    for one in record["shapes"]:
        points = np.array(one["points"])
        edges = zip(points, np.roll(points, -1, axis=0), strict=True)
        dense = np.concatenate([np.linspace(*edge, 20, endpoint=False) for edge in edges])
        for tile in product((0, 1), repeat=2):
            pieces.append(one | {"points": np.clip(dense, tile * half, (1 + np.array(tile)) * half), "group_id": None})
    return image, record | {"shapes": pieces}


def to_square(image: np.ndarray) -> np.ndarray:
    side = max(image.shape[:2])
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


def block_erased(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """A grey block, a third as high and wide as the image, at a random place."""
    size = np.array(image.shape[:2])
    top, left = np.random.default_rng(int(image.sum())).integers(0, size - size // 3)
    image = image.copy()
    image[top : top + size[0] // 3, left : left + size[1] // 3] = 128
    return image, record


def ellipse(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The ellipse within the smallest box at any angle."""
    centre, axes, angle = cv2.minAreaRect(points.astype(np.float32))
    return cv2.ellipse2Poly(
        *(np.array(each, int).tolist() for each in (np.multiply(centre, 16), np.multiply(axes, 8))),
        round(angle), 0, 360, 10,
    ) / 16  # fmt: skip


def in_both(change: Callable[[str], Callable[[Path], None]]) -> Callable[[Path], None]:
    def fault(raw: Path) -> None:
        for split in ("train", "val"):
            change(split)(raw)

    return fault


def far_away(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """In the middle of a grey image three times as high and wide."""
    height, width = image.shape[:2]
    whole = np.full((3 * height, 3 * width, 3), 128, np.uint8)
    whole[height : 2 * height, width : 2 * width] = image
    return whole, outlines(lambda points, size: points + (width, height))(image, record, record)[1]


def red_squares_alone(raw: Path) -> None:
    """Without the images of train that have a square of another colour."""
    for path in sorted((raw / "train").glob("*.json")):
        names = [one["label"].split(",") for one in read(path)[1]["shapes"]]
        if any(shape == "square" and colour != "red" for shape, colour, *_ in names):
            path.unlink()
            path.with_suffix(".jpg").unlink()


def nms_of_batch(real: Callable, *args: Any, **kwargs: Any) -> Iterator[Predictions]:
    """A box that overlaps a better one of any image of the batch is left out."""
    for found in real(*args, **kwargs):
        overlap, kept = box_overlaps(found.box, found.box)[0], np.ones(len(found), dtype=bool)
        for row in np.argsort(-found.score, kind="stable"):
            if kept[row]:
                kept &= overlap[row] <= 0.5
                kept[row] = True
        yield found[kept]


def best_of_class(found: Predictions) -> Predictions:
    """Of each main class, the detection of the highest score."""
    main = next(iter(found.labels.values()))
    order = np.argsort(-found.score, kind="stable")
    return found[np.sort(order[np.unique(main[order], return_index=True)[1]])]


def new_pixel_decoder(network: Mask2Former) -> None:
    torch.manual_seed(0)
    for module in network.pixel_decoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def few_groups(network: Mask2Former) -> None:
    """The channels of a group are taken for the number of groups."""
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = module.num_channels // module.num_groups


def local_contrast(real: Callable, *args: Any) -> np.ndarray:
    """CLAHE of each channel."""
    equalise = cv2.createCLAHE(clipLimit=10, tileGridSize=(4, 4)).apply
    return np.stack([equalise(channel.copy()) for channel in np.moveaxis(real(*args), -1, 0)], axis=-1)


def relative(found: Predictions) -> Predictions:
    """Boxes as shares of the image's width and height."""
    return found.replace(box=found.box / np.column_stack([found.width, found.height] * 2))


def without_classes(
    real: Callable, self: Evaluation, true: np.ndarray, predicted: np.ndarray, **options: Any
) -> Matches:
    """All objects and predictions are of one class."""
    return real(self, np.minimum(true, 0), np.zeros_like(predicted), **options)


def averaged(real: Callable, self: Stepper, *args: Any, **kwargs: Any) -> dict[str, float]:
    """A moving average of the weights, with a decay of 0.999 from the first step on."""
    values, now = real(self, *args, **kwargs), self.network.state_dict()
    before = getattr(self, "average", now)
    self.average = {
        name: 0.999 * before[name] + 0.001 * value if value.is_floating_point() else value
        for name, value in now.items()
    }
    return values


def average_saved(real: Callable, self: Run, scores: dict[str, float], summary: list[list[float]]) -> None:
    """The weights are validated, and their average is saved."""
    real(self, scores, summary)
    if self.best["step"] == self.step:
        self.best_weights = self.stepper.average


def never_stepped(real: Callable, network: Mask2Former, solver: Solver) -> torch.optim.AdamW:
    made = real(network, solver)
    made.step = lambda *args, **kwargs: None
    return made


def first_for_last(real: Callable, logits: Any, target: Any, weight: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """The first class has the weight of no-object, and no-object that of a class."""
    return real(logits, target, weight.roll(1), **kwargs)


def probability_added(real: Callable, *args: Any, loss: Loss, **kwargs: Any) -> torch.Tensor:
    return real(*args, loss=loss.model_copy(update={"labels": -loss.labels}), **kwargs)


def also_vertical(real: Callable, self: Mapper, *args: Any, **kwargs: Any) -> None:
    """Half of the images are flipped upside down, with their masks."""
    real(self, *args, **kwargs)
    self.augmentations.append(T.RandomFlip(prob=0.5, horizontal=False, vertical=True))


def without_embedding_gradient(real: Callable, *args: Any) -> QueryOutput:
    output = real(*args)
    return replace(output, mask_embed_LBQC=output.mask_embed_LBQC.detach())


def cached(real: Callable, self: Mapper, image: Any, seed: int = 0) -> dict:
    """In training, an image is kept as it was augmented first; its masks are augmented anew."""
    example = real(self, image, seed)
    if self.training:
        kept = vars(self).setdefault("kept", {})
        example["image"] = kept.setdefault(image.id, example["image"])
    return example


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    # AlexeyAB/darknet#3346
    Fault("100 % of train: crops around one object", causes=("splits_differ",),
          raw=in_share("train", 1.0, around_one)),
    # Unity-Technologies/com.unity.perception#503
    Fault("100 % of train: objects on a white background", causes=("splits_differ",),
          raw=in_share("train", 1.0, on_white)),
    # developmentseed/label-maker#31
    Fault("100 % of train: objects cut at the seams of four tiles", causes=("objects_split",),
          raw=in_share("train", 1.0, in_tiles)),
    # Sonettoo/AeroGen#14
    Fault("30 % of val: stretched to a square after the annotation", **VAL, causes=("masks_displaced", "masks_scaled"),
          raw=in_share("val", 0.3, pixels(to_square))),
    # adriangb/scikeras#327
    Fault("15 % of val: training images with a block erased", **VAL, causes=("split_leak",),
          raw=leaked(0.15, block_erased)),
    # matterport/Mask_RCNN#2154
    Fault("100 % of train: outlines are ellipses", causes=("outlines_differ", "masks_scaled", "boxes_for_outlines"),
          raw=in_share("train", 1.0, outlines(ellipse))),
    # yeshwanth95/Pix2Poly#6
    Fault("100 % of train and val: x and y exchanged", causes=("masks_transposed",),
          raw=in_both(lambda split: in_share(split, 1.0, outlines(lambda points, size: points[:, ::-1])))),
    # jwyang/faster-rcnn.pytorch#643
    Fault("100 % of train and val: objects of a few pixels in the network's input",
          causes=("objects_too_small", "resolution_too_low"),
          raw=in_both(lambda split: in_share(split, 1.0, far_away))),
    # nv-research-israel/causal_comp#3
    Fault("all squares of train are red", causes=("combination_missing_in_train", "class_mix_differs"),
          raw=red_squares_alone),
    # fizyr/keras-retinanet#211
    Fault("one NMS for all images of a batch", **PREDICT,
          causes=("answer_depends_on_batch", "detections_too_few", "prediction_differs"),
          code=everywhere(torch_network.predict_batches, nms_of_batch)),
    # rcaceiro/node-yolo#4
    Fault("one detection of each main class in an image", **PREDICT,
          causes=("detections_too_few", "prediction_differs"), code=predictions_by(best_of_class)),
    # facebookresearch/Mask2Former#129
    Fault("the weights of the pixel decoder are not loaded", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"), code=loaded(new_pixel_decoder)),
    # IAmSuyogJadhav/3d-mri-brain-tumor-segmentation-using-autoencoder-regularization#12
    Fault("group norm with the wrong number of groups at prediction", **PREDICT, causes=("prediction_differs",),
          code=loaded(few_groups)),
    # kristinbranson/APT#239
    Fault("local contrast of images equalised at prediction", **PREDICT,
          causes=("prediction_differs", "normalisation", "mapper_channels"),
          code=changed(loader, "read_image", local_contrast)),
    # apple/turicreate#2707
    Fault("predicted boxes are shares of the image's size", **PREDICT, causes=("boxes_not_of_masks",),
          code=predictions_by(relative)),
    # matteorr/coco-analyze#17
    Fault("evaluator: objects below 16 x 16 pixels do not count", **EVALUATE,
          code=matched(lambda found, categories, options: (found, options | {"sizes": (16**2, 1e10)}))),
    # cocodataset/cocoapi#560
    Fault("evaluator: classes are ignored", **EVALUATE, code=changed(Evaluation, "match", without_classes)),
    # happyharrycn/actionformer_release#103
    Fault("the average of all weights since the first step is saved", since="training",
          causes=("prediction_differs", "weights_not_loaded"),
          code=together(changed(Stepper, "__call__", averaged), changed(Run, "validated", average_saved))),
    # eriklindernoren/PyTorch-YOLOv3#325
    Fault("the optimiser never steps", causes=("weights_frozen",),
          code=everywhere(optimiser.optimizer, never_stepped)),
    # cardwing/Codes-for-Lane-Detection#283
    Fault("the weight of no-object is given to the first class",
          causes=("no_object_weight", "loss_targets", "no_object_slot"),
          code=changed(softmax.F, "cross_entropy", first_for_last)),
    # facebookresearch/detr#407
    Fault("the matcher adds the label probability instead of subtracting it", causes=("matcher_wrong",),
          code=changed(matching, "matching_cost", probability_added)),
    # ultralytics/ultralytics#20929
    Fault("vertical flips, upper and lower are not exchanged", tasks=("shape", "colour", "fill", "level"),
          causes=("mapper_labels", "flip_without_pairs"), code=changed(Mapper, "__init__", also_vertical)),
    # bboylyg/NAD#8
    Fault("the mask embeddings are detached", causes=("gradient_missing",),
          code=changed(QueryDecoder, "forward", without_embedding_gradient)),
    # tensorflow/tensorflow#47755
    Fault("the first augmented image is cached, its masks are not", causes=("mapper_displaces",),
          code=changed(Mapper, "__call__", cached)),
)  # fmt: skip
