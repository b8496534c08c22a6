"""Round 10: nine in data, eight in prediction and evaluation, seven in training, by someone who knew the names of the
causes and of earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.faults.case import Fault, Patch, changed, everywhere
from benchmarks.faults.prediction import masks_by, predictions_by
from benchmarks.faults.reports.round_2 import VAL, Record, in_share, labels, outlines, pixels
from benchmarks.faults.reports.round_5 import loaded
from mtseg.core.params import Loss, Solver
from mtseg.core.tables import Predictions
from mtseg.evaluation.ap import average_precision
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import Candidates, Matches
from mtseg.model import losses, matching, points
from mtseg.model.decoder import QueryDecoder
from mtseg.model.layers import Attention
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser
from mtseg.training.step import Stepper


def tilted(image: np.ndarray) -> np.ndarray:
    """Turned by 15 degrees."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 15, 1)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def distorted(found: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Points as a lens shows them, nearer to the centre: by three tenths in the corners."""
    offset = found - size / 2
    radius = np.linalg.norm(offset, axis=1, keepdims=True) / np.linalg.norm(size / 2)
    return size / 2 + offset * (1 - 0.3 * radius**2)


def reflected(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """Image and outlines moved by a quarter to the right and down; the image is reflected into what becomes free."""
    height, width = image.shape[:2]
    step = np.array([width // 4, height // 4])
    move = np.float32([[1, 0, step[0]], [0, 1, step[1]]])
    moved = cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REFLECT)
    return moved, outlines(lambda found, size: found + step)(image, record, record)[1]


def anonymised(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """The box of each object is a grid of 5 x 5 mean colours."""
    hidden = image.copy()
    for one in record["shapes"]:
        (left, top), (right, bottom) = np.array(one["points"]).min(0).astype(int), np.array(one["points"]).max(0)
        box = image[top : int(bottom) + 1, left : int(right) + 1]
        grid = cv2.resize(box, (5, 5), interpolation=cv2.INTER_AREA)
        hidden[top : int(bottom) + 1, left : int(right) + 1] = cv2.resize(
            grid, box.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
    return hidden, record


def lettered(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """The first two letters of each object's main class stand on it."""
    marked = image.copy()
    for one in record["shapes"]:
        x, y = np.mean(one["points"], axis=0).round().astype(int).tolist()
        cv2.putText(marked, one["label"][:2], (x - 7, y + 3), cv2.FONT_HERSHEY_PLAIN, 0.7, (255, 0, 0))
    return marked, record


def synonym(found: list[list[str]]) -> list[list[str]]:
    return [["crimson" if name == "red" else name for name in parts] for parts in found]


def palette_indices(image: np.ndarray) -> np.ndarray:
    """The indices of the colours in a palette, as grey values."""
    indices = np.asarray(Image.fromarray(np.ascontiguousarray(image)).quantize(256))
    return np.repeat(indices[..., None], 3, axis=2)


def rim(found: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A rim along the outline, a quarter of the object's radius wide; the inside is a hole."""
    inner = found.mean(0) + (found - found.mean(0)) * 0.75
    return np.concatenate([found, found[:1], inner[:1], inner[:0:-1], inner[:1]])


def its_box(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask.any(1)[:, None] & mask.any(0)).astype(np.uint8)


def without_offset(mask: np.ndarray) -> np.ndarray:
    """Objects of the right half, which is a tile of its own, are pasted into the left."""
    half = mask.shape[1] // 2
    return np.roll(mask, -half, axis=1) if np.flatnonzero(mask.any(0)).mean() >= half else mask


def by_class(found: Predictions) -> Predictions:
    """Further labels are kept by main class: those of the best detection of a class replace the others."""
    main, *further = found.labels
    classes = found.labels[main].tolist()
    rows = np.array([classes.index(label) for label in classes], dtype=int)
    names = [name for name in found.names if name.partition(".")[2] in further]
    return found.replace(**{name: found.column(name)[rows] for name in names})


def first_twenty(found: Predictions) -> Predictions:
    """The limit is applied to detections in the order of queries, before they are sorted by score."""
    return found[np.sort(np.argsort(found.query, kind="stable")[:20])]


def one_head(network: Mask2Former) -> None:
    for module in network.modules():
        if isinstance(module, Attention):
            module.heads = 1


def with_memory(memory: dict[str, torch.Tensor]) -> Patch:
    """The features of an image are averaged with those of all images before, of which the nearest count most."""

    def features(real: Callable, self: Mask2Former, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for name, level in real(self, images).items():
            mixed = []
            for own in level.detach():
                before = memory.get(name)
                memory[name] = own if before is None or before.shape != own.shape else (own + before) / 2
                mixed.append(memory[name])
            found[name] = torch.stack(mixed)
        return found

    return changed(Mask2Former, "features", features)


def of_each_image(
    real: Callable, matches: Matches, candidates: Candidates, weights: np.ndarray | None = None
) -> np.ndarray:
    """AP is computed in each image, and averaged over the images."""
    if weights is not None:
        return real(matches, candidates, weights)
    count = max(candidates.image.max(initial=0), candidates.true_image.max(initial=0)) + 1
    scored = real(matches, candidates, np.eye(count, dtype=int))
    defined = ~np.isnan(scored)
    total, number = np.nansum(scored, axis=0), defined.sum(axis=0)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)[None]


def classes_of_image(
    real: Callable, self: Evaluation, true: np.ndarray, predicted: np.ndarray, *, categories: int, **options: Any
) -> Matches:
    """Predictions of a category that has no object in their image are left out."""
    present = np.zeros((len(self.images), categories + 1), dtype=bool)
    present[self.images.instances.image[true >= 0], true[true >= 0]] = True
    kept = present[self.image, np.minimum(predicted, categories)]
    options["kept"] = kept if options.get("kept") is None else kept & options["kept"]
    return real(self, true, predicted, categories=categories, **options)


def by_labels(real: Callable, *args: Any, loss: Loss, **kwargs: Any) -> torch.Tensor:
    """The matching cost is that of the labels."""
    return real(*args, loss=loss.model_copy(update={"mask": 0.0, "dice": 0.0}), **kwargs)


def never_zeroed(real: Callable, self: Stepper, *args: Any, **kwargs: Any) -> None:
    """The gradients of a step are added to those of all steps before."""
    real(self, *args, **kwargs)
    self.optimizer.zero_grad = lambda **options: None


def one_embedding(real: Callable, self: QueryDecoder, *args: Any, **kwargs: Any) -> None:
    """All queries share one row of the embeddings."""
    real(self, *args, **kwargs)
    for shared in (self.query_feature, self.query_position):
        with torch.no_grad():
            shared.copy_(shared[:1].expand_as(shared))
        shared.register_hook(lambda gradient: gradient.mean(0, keepdim=True).expand_as(gradient))


def large_epsilon(real: Callable, network: Mask2Former, solver: Solver) -> torch.optim.AdamW:
    made = real(network, solver)
    for group in made.param_groups:
        group["eps"] = 0.1
    return made


def initialised_again(real: Callable, self: Mask2Former, *args: Any, **kwargs: Any) -> None:
    """The convolutions of the backbone are initialised after its weights were loaded."""
    real(self, *args, **kwargs)
    for module in self.backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()


PREDICT: dict[str, Any] = {"since": "predict"}
EVALUATE: dict[str, Any] = {"since": "evaluate", "causes": ("evaluator_wrong",)}
FAULTS = (
    # ultralytics/ultralytics#7765
    Fault("15 % of val: turned by 15 degrees after the annotation", **VAL, causes=("images_turned", "masks_displaced"),
          raw=in_share("val", 0.15, pixels(tilted))),
    # chadagreene/CDT#2
    Fault("30 % of val: left and right half exchanged after the annotation", **VAL, causes=("masks_displaced",),
          raw=in_share("val", 0.3, pixels(lambda image: np.roll(image, image.shape[1] // 2, axis=1)))),
    # igor-morawski/RAW-NOD#6
    Fault("100 % of val: outlines drawn before the distortion of the lens was corrected", **VAL,
          causes=("masks_displaced", "masks_scaled"), raw=in_share("val", 1.0, outlines(distorted))),
    # albumentations-team/albumentations#1067
    Fault("30 % of val: moved, objects reflected at the border not annotated", **VAL, causes=("annotations_missing",),
          raw=in_share("val", 0.3, reflected)),
    # argoverse/argoverse-api#162
    Fault("30 % of val: objects made unrecognisable by 5 x 5 mean colours", **VAL, causes=("splits_differ",),
          raw=in_share("val", 0.3, anonymised)),
    # ome/bioformats#1887
    Fault("15 % of val: indices of a palette read as grey values", **VAL, causes=("splits_differ",),
          raw=in_share("val", 0.15, pixels(palette_indices))),
    # ieee8023/covid-chestxray-dataset#26
    Fault("100 % of train: the main class is written on each object", causes=("splits_differ", "overtrained"),
          raw=in_share("train", 1.0, lettered)),
    # JdeRobot/PerceptionMetrics#41
    Fault("30 % of train: a colour has a synonym", causes=("classes_alike", "label_noise", "class_mix_differs"),
          raw=in_share("train", 0.3, labels(synonym))),
    # MaybeShewill-CV/segment-anything-u-specify#13
    Fault("30 % of train: only the rim of each object is inside its outline",
          causes=("outlines_differ", "masks_scaled"), raw=in_share("train", 0.3, outlines(rim))),
    # ultralytics/ultralytics#5780
    Fault("predicted masks are their boxes", **PREDICT,
          causes=("postprocessing_wrong", "masks_scaled", "prediction_differs"), code=masks_by(its_box)),
    # talmolab/sleap-nn#637
    Fault("predicted masks of a right tile are pasted without its offset", **PREDICT,
          causes=("masks_displaced", "prediction_differs"), code=masks_by(without_offset)),
    # superannotateai/superannotate-python-sdk#13
    Fault("all detections of a main class in an image have the same further labels", **PREDICT,
          causes=("labels_of_other_query",), code=predictions_by(by_class)),
    # keras-team/keras-cv#328
    Fault("the first detections are kept before they are sorted by score", **PREDICT,
          causes=("detections_too_few", "prediction_differs"), code=predictions_by(first_twenty)),
    # MAZiqing/FEDformer#22
    Fault("attention with one head instead of eight at prediction", **PREDICT, causes=("prediction_differs",),
          code=loaded(one_head)),
    # LukasHedegaard/continual-inference#63
    Fault("features are averaged with those of the images before", **PREDICT,
          causes=("answer_depends_on_batch", "prediction_differs", "masks_of_other_image"), code=with_memory({})),
    # eriklindernoren/PyTorch-YOLOv3#20
    Fault("evaluator: AP is the mean of each image's own", **EVALUATE,
          code=everywhere(average_precision.average_precision, of_each_image)),
    # ZhangAoCanada/RADDet#7
    Fault("evaluator: classes without an object in an image cannot be false positives", **EVALUATE,
          code=changed(Evaluation, "match", classes_of_image)),
    # milesial/Pytorch-UNet#78
    Fault("the mask losses get masks of 0 and 255", causes=("loss_targets",),
          code=changed(losses, "_inside", lambda real, *args, **kwargs: 255 * real(*args, **kwargs))),
    # ispc-lab/LiDAR4D#2
    Fault("points from 0 to 1 are sampled as if from -1 to 1", causes=("loss_targets",),
          code=everywhere(points.sample, lambda real, maps, places: real(maps, (places + 1) / 2))),
    # OpenGVLab/VisionLLM#19
    Fault("the matcher ignores the masks", causes=("matcher_wrong",),
          code=changed(matching, "matching_cost", by_labels)),
    # yastrebksv/TennisCourtDetector#7
    Fault("gradients are never set to zero, nor clipped", causes=("lr_too_high", "lr_too_low"),
          changes={"solver.clip": 0.0}, code=changed(Stepper, "__init__", never_zeroed)),
    # facebookresearch/detr#375
    Fault("all queries share one embedding", causes=("duplicates", "queries_too_few"),
          code=changed(QueryDecoder, "__init__", one_embedding)),
    # mlpnlp/mlpnlp-nmt#4
    Fault("AdamW with an epsilon of 0.1", causes=("lr_too_low",), code=everywhere(optimiser.optimizer, large_epsilon)),
    # zshn25/DINOv2_mmseg#1
    Fault("the backbone is initialised again after its weights were loaded",
          causes=("weights_partly_loaded", "random_frozen_norm"),
          code=changed(Mask2Former, "__init__", initialised_again)),
)  # fmt: skip
