"""Round 5: a third each in data, training and prediction, by someone who knew the names of the causes and the lists of
earlier faults, but neither the checks nor how causes are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.faults.case import Fault, changed, everywhere
from benchmarks.faults.healthy import some_unlabelled
from benchmarks.faults.inputs import masks_by as training_masks_by
from benchmarks.faults.prediction import masks_by, predictions_by
from benchmarks.faults.reports.round_2 import VAL, Record, in_share, labels, leaked, objects, outlines
from mtseg.core.tables import Predictions
from mtseg.data import loader
from mtseg.inference import torch_network
from mtseg.model import losses
from mtseg.model.mask2former import Mask2Former
from mtseg.training import optimizer as optimiser
from mtseg.training.checkpoint import Run


def by_x(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The points of an outline sorted by x instead of along the edge."""
    return points[np.argsort(points[:, 0], kind="stable")]


def next_frame(image: np.ndarray, record: Record) -> tuple[np.ndarray, Record]:
    """The scene 3 pixels further right and 2 further down, as in the next frame of a video."""
    height, width = image.shape[:2]
    move = np.float32([[1, 0, 3], [0, 1, 2]])
    moved = cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return moved, outlines(lambda points, size: points + (3, 2))(image, record, record)[1]


def with_insides(found: list[Record]) -> list[Record]:
    """Within each object a further one, of six tenths of its size, has its label."""
    insides = []
    for one in found:
        points = np.array(one["points"])
        insides.append(one | {"points": points.mean(0) + (points - points.mean(0)) * 0.6, "group_id": None})
    return found + insides


def whole_alone(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """Without the objects that the border of the image cuts."""
    inner = np.array(image.shape[1::-1]) - 1
    spans = [(one, np.array(one["points"])) for one in record["shapes"]]
    return image, record | {"shapes": [one for one, p in spans if p.min() >= 1 and (p <= inner).all()]}


def hidden_colours(image: np.ndarray, record: Record, other: Record) -> tuple[np.ndarray, Record]:
    """All but the objects has the colours that a lost alpha channel had hidden: blocks of random ones."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(int(image.sum()))
    blocks = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    whole = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    shown = np.zeros((height, width), np.uint8)
    for one in record["shapes"]:
        cv2.fillPoly(shown, [np.array(one["points"]).round().astype(np.int32)], 1)
    return np.where(shown[..., None] > 0, image, whole), record


def first_fill(found: list[list[str]]) -> list[list[str]]:
    return [[*parts[:-1], "dotted"] for parts in found]


def worst_kept(real: Callable, self: Run, scores: dict[str, float], summary: list[list[float]]) -> None:
    """The best validation is taken to be that of the lowest joint AP."""
    before = self.best, self.best_weights, self.summaries.get("best")
    self.best = None
    real(self, scores, summary)
    if before[0] and scores["joint_AP"] >= before[0]["joint_AP"]:
        self.best, self.best_weights, self.summaries["best"] = before


def mini_mask(mask: np.ndarray) -> np.ndarray:
    """Kept as a mask of 16 x 16 and enlarged from it."""
    small = cv2.resize(mask.astype(np.uint8), (16, 16), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def random_hue(real: Callable, self: loader.Mapper, image: Any, seed: int = 0) -> dict:
    """In training, all colours of an image turn by the same random hue."""
    example = real(self, image, seed)
    if self.training:
        hsv = cv2.cvtColor(np.ascontiguousarray(example["image"].permute(1, 2, 0).numpy()), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.default_rng(seed).integers(180)) % 180
        example["image"] = torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).permute(2, 0, 1).contiguous()
    return example


def by_own_mean(real: Callable, self: Mask2Former, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pixels are normalised by mean and deviation of the batch."""
    deviation, mean = torch.std_mean(images.float(), (0, 2, 3), keepdim=True)
    images = (images.float() - mean) / deviation.clamp(min=1) * self.pixel_std + self.pixel_mean
    return real(self, images)


def loaded(change: Callable[[Mask2Former], None]) -> Callable:
    """Change the trained network when it is loaded."""

    def load_model(real: Callable, *args: Any, **kwargs: Any) -> Mask2Former:
        network = real(*args, **kwargs)
        with torch.no_grad():
            change(network)
        return network

    return everywhere(torch_network.load_model, load_model)


def new_heads(network: Mask2Former) -> None:
    torch.manual_seed(0)
    for module in network.decoder.heads.modules():
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()


def in_four_bits(network: Mask2Former) -> None:
    """Each weight tensor has 15 values."""
    for tensor in network.parameters():
        if tensor.ndim > 1:
            step = tensor.abs().max().clamp(min=1e-12) / 7
            tensor.copy_((tensor / step).round() * step)


def pixels_of_next(real: Callable, *args: Any, **kwargs: Any) -> Iterator[list[dict]]:
    """Each image is predicted from the pixels of the next one of its batch."""
    for batch in real(*args, **kwargs):
        shown = [{name: example[name] for name in ("image", "image_size")} for example in batch]
        yield [example | other for example, other in zip(batch, shown[1:] + shown[:1], strict=True)]


def one_mask(found: Predictions) -> Predictions:
    """Every detection of an image has the mask of the first."""
    first = np.zeros(len(found), int)
    return found.replace(**{name: found.column(name)[first] for name in ("rle", "area", "box")})


def without_scores(found: Predictions) -> Predictions:
    names = [name for name in found.names if name.startswith("probability.")]
    return found.replace(**{name: np.ones(len(found)) for name in ("score", "mask_quality", *names)})


def inner_two_thirds(mask: np.ndarray) -> np.ndarray:
    """Cut off outside of a box two thirds as high and as wide as that of the mask."""
    out = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    place = tuple(slice(x[0] + len(x) // 6, x[-1] + 1 - len(x) // 6) for x in (rows, columns))
    out[place] = mask[place]
    return out


PREDICT = {"since": "predict"}
FAULTS = (
    # ultralytics/ultralytics#4786
    Fault("30 % of val: points of outlines sorted by x", **VAL, causes=("outlines_differ",),
          raw=in_share("val", 0.3, outlines(by_x))),
    # OCTRON-tracking/OCTRON-GUI#89
    Fault("15 % of val: frames next to those of train", **VAL, causes=("split_leak",), raw=leaked(0.15, next_frame)),
    # DigitalSlideArchive/HistomicsUI#41
    Fault("30 % of val: the inside of each object annotated as a further object", **VAL,
          causes=("annotated_twice", "objects_split"), raw=in_share("val", 0.3, objects(with_insides))),
    # ultralytics/yolov5#8173
    Fault("100 % of val: objects that the border cuts not annotated", **VAL, causes=("annotations_missing",),
          raw=in_share("val", 1.0, whole_alone)),
    # kohya-ss/sd-scripts#1269
    Fault("30 % of val: hidden colours around the objects, the alpha channel lost", **VAL, causes=("splits_differ",),
          raw=in_share("val", 0.3, hidden_colours)),
    # cvat-ai/cvat#11177
    Fault("30 % of train: the last task's label back at its default", causes=("label_noise",),
          raw=in_share("train", 0.3, labels(first_fill))),
    # v7labs/darwin-py#826
    Fault("15 % of val: outlines a quarter too far down, as of pixels that are not square", **VAL,
          causes=("masks_scaled", "masks_displaced"),
          raw=in_share("val", 0.15, outlines(lambda points, size: points * (1, 1.25)))),
    # ultralytics/ultralytics#25949
    Fault("100 % of val: coordinates of outlines cut to multiples of 4", **VAL,
          causes=("masks_displaced", "outlines_differ"),
          raw=in_share("val", 1.0, outlines(lambda points, size: points // 4 * 4))),
    # qhanghu/HSSN_pytorch#8
    Fault("unlabelled objects are trained as the first class", raw=some_unlabelled,
          causes=("mapper_labels", "loss_targets", "label_noise"),
          code=changed(loader.Mapper, "_label", lambda real, *args: max(real(*args), 0))),
    # facebookresearch/detectron2#1344
    Fault("the lr stays where the warm-up begins", causes=("lr_too_low", "warmup_too_long"),
          code=everywhere(optimiser.schedule, lambda real, solver: lambda done: real(solver)(done) / 20)),
    # mila-iqia/cookiecutter-pyml#119
    Fault("the checkpoint of the lowest AP is kept as the best", since="training",
          causes=("prediction_differs", "weights_not_loaded"), code=changed(Run, "validated", worst_kept)),
    # janelia-cellmap/dacapo#3
    Fault("one main class has 50 times the weight of the others", causes=("class_weights",),
          changes={"tasks.shape.class_weights": {"star": 50.0}}),
    # hustvl/SparseInst#50
    Fault("images are trained at a quarter to four tenths of their size", causes=("scale_mismatch",),
          changes={"input.min_scale": 0.25, "input.max_scale": 0.4}),
    # matterport/Mask_RCNN#80
    Fault("training masks enlarged from 16 x 16", causes=("mapper_displaces",), code=training_masks_by(mini_mask)),
    # AlexeyAB/darknet#2451
    Fault("a random hue in training, where colour is a task", causes=("jitter_changes_label", "mapper_channels"),
          code=changed(loader.Mapper, "__call__", random_hue)),
    # lucidrains/deformable-attention#6
    Fault("the mask loss samples the ground truth at (y, x)", causes=("loss_targets", "masks_transposed"),
          code=changed(losses, "_inside", lambda real, target, points, *args, **kwargs: real(
              target, points.flip(-1), *args, **kwargs))),
    # xuexingyu24/License_Plate_Detection_Pytorch#22
    Fault("pixels normalised by mean and deviation of the batch at prediction", **PREDICT,
          causes=("answer_depends_on_batch", "normalisation"), code=changed(Mask2Former, "features", by_own_mean)),
    # stefanopini/simple-HRNet#79
    Fault("the weights of the label heads are not loaded", **PREDICT,
          causes=("weights_not_loaded", "prediction_differs"), code=loaded(new_heads)),
    # keras-team/keras-cv#2095
    Fault("each image has the predictions of the next of its batch", **PREDICT, causes=("masks_of_other_image",),
          code=changed(torch_network, "prediction_batches", pixels_of_next)),
    # ultralytics/yolov5#10164
    Fault("weights rounded to 4 bits at prediction", **PREDICT, causes=("prediction_differs", "weights_not_loaded"),
          code=loaded(in_four_bits)),
    # eriklindernoren/PyTorch-YOLOv3#608
    Fault("predictions of scores below 0.5 are left out", **PREDICT,
          causes=("detections_too_few", "filter_too_strict", "prediction_differs"),
          code=predictions_by(lambda found: found[found.score >= 0.5])),
    # deepjavalibrary/djl#3774
    Fault("all detections of an image have the mask of its first", **PREDICT,
          causes=("duplicates", "labels_of_other_query"), code=predictions_by(one_mask)),
    # ultralytics/yolov5#9749
    Fault("predicted masks are cut to a box two thirds as large", **PREDICT, causes=("masks_scaled",),
          code=masks_by(inner_two_thirds)),
    # cocodataset/cocoapi#678
    Fault("all scores are 1", **PREDICT, causes=("ranking", "miscalibrated"), code=predictions_by(without_scores)),
)  # fmt: skip
