"""What a check found: a fault by the name of its cause, with figures and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

# Every cause that can be named. docs/diagnosis.md has a section for each.
CAUSES = {
    # the data
    "label_range": "a label is outside its task's classes",
    "labels_off_by_one": "class ids count from another number than they are read from",
    "labels_permuted": "classes are named in another order than they were learnt in",
    "split_empty": "a split has no images",
    "task_unlabelled": "a task has no labelled instance to train on",
    "class_too_rare": "a class has too few examples to be learnt",
    "annotated_twice": "objects are annotated more than once",
    "class_missing_in_train": "val has a class that train lacks",
    "split_leak": "images of val are in train too",
    "splits_differ": "the images of val are not like those of train",
    "masks_transposed": "rows and columns of masks are swapped",
    "masks_mirrored": "masks are mirrored against their images",
    "masks_of_other_image": "masks belong to another image",
    "label_noise": "a share of the labels is wrong",
    "annotations_missing": "objects in the images are not annotated",
    "channels_swapped": "red and blue of the images are swapped",
    # the input of the model
    "flip_without_pairs": "a flip turns left into right, the labels stay",
    "mapper_displaces": "the mapper moves an image and its masks apart",
    "mapper_channels": "the mapper changes an image's colours",
    "mapper_labels": "the mapper gives instances other labels",
    "normalisation": "the images are not normalised as the backbone expects",
    # params
    "lr_for_batch": "the lr is that of another batch size",
    "queries_too_few": "images have more instances than there are queries",
    "detections_too_few": "fewer detections are kept than an image has objects",
    "random_frozen_norm": "batch norm with random weights is frozen",
    "loss_muted": "a loss has weight 0",
    "no_object_weight": "the weight of no-object is out of its useful range",
    "class_weights": "class weights outweigh all other classes",
    "task_weight": "a task's weight outweighs the masks and the other tasks",
    "scale_mismatch": "training never shows objects at the size prediction does",
    "warmup_too_long": "the lr warms up for most of the training",
    "weight_decay": "weight decay keeps the weights near 0",
    # the code of a step
    "head_size": "a head's outputs are not its task's classes",
    "loss_targets": "a loss gets other targets than the labels",
    "no_object_slot": "no-object is learnt in another slot than it is read from",
    "prior_wrong": "the combinations of labels that count as seen are not those of train",
    "loss_not_scalar": "training does not return named scalar losses",
    "step_fails": "a step of training ends in an exception",
    "loss_not_finite": "a loss is infinite or not a number",
    "gradient_not_finite": "a gradient is infinite or not a number",
    "gradient_missing": "the losses do not reach a part of the network",
    "weights_frozen": "a part gets gradients and does not move",
    "matcher_wrong": "the matching is not the cheapest assignment",
    "answer_depends_on_batch": "the answer to an image depends on its batch",
    # the trained model
    "evaluator_wrong": "the evaluator does not give the ground truth its score",
    "weights_not_loaded": "the network in use does not have the trained weights",
    "prediction_differs": "prediction differs from validation during training",
    "labels_ignore_image": "a head's answer does not depend on the image",
    "labels_of_other_query": "labels are those of other queries",
    "labels_of_other_image": "labels are those of another image",
    "labels_of_other_task": "labels are those of another task",
    "task_untrained_in_matching": "a task predicts background because the matching ignores it",
    "collapse_to_background": "a task predicts background for objects",
    "collapse_to_class": "a task predicts one class for all",
    "masks_displaced": "predicted masks are shifted",
    "masks_scaled": "predicted masks are too large or too small",
    "boxes_not_of_masks": "predicted boxes are not those of their masks",
    "duplicates": "objects are found more than once",
    "queries_saturated": "crowded images use all queries and lose objects",
    "queries_empty": "most queries never find anything",
    "ranking": "detections are ranked by the wrong score",
    "miscalibrated": "scores are not the share of correct detections",
    "lr_too_low": "the loss still falls, and slowly: the lr is too low",
    "lr_too_high": "the loss jumps or rises: the lr is too high",
    "too_few_steps": "the loss still falls: training ended too early",
    "overtrained": "the model overfits train while val gets worse",
}


@dataclass(frozen=True)
class Finding:
    """cause: a key of CAUSES. evidence: one line with figures. change: the params key or data file to change, and how.
    where: the task, image or part of the network it is about."""

    cause: str
    severity: Severity
    evidence: str
    change: str
    where: str | None = None

    def __post_init__(self) -> None:
        assert self.cause in CAUSES, self.cause

    def line(self) -> str:
        """For the terminal: `warning: lr_for_batch: ...; set base_lr: auto`."""
        return f"{self.severity}: {self.text()}"

    def text(self) -> str:
        """The line without its severity."""
        where = f"{self.where}: " if self.where else ""
        return f"{self.cause}: {where}{self.evidence}; {self.change}"

    def as_record(self) -> dict[str, Any]:
        """For JSON. `title` is the cause as a sentence."""
        return asdict(self) | {"title": CAUSES[self.cause]}


def of_severity(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    return [finding for finding in findings if finding.severity == severity]
