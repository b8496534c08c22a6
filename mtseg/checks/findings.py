"""The result of a check: a named cause with its evidence and the suggested fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mtseg.core.errors import one_line

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the most severe first

# All causes. docs/diagnosis.md has a section for each.
CAUSES = {
    # the data
    "label_range": "a label is outside its task's classes",
    "labels_off_by_one": "class ids are shifted by a constant",
    "labels_permuted": "the order of the classes differs between training and use",
    "split_empty": "a split has no images",
    "split_small": "a split has too few images to score",
    "task_unlabelled": "no instance has a label of a task, or none the labels of all tasks",
    "class_too_rare": "a class has too few training examples",
    "annotated_twice": "objects are annotated more than once",
    "class_missing_in_train": "a class of val or test does not occur in train",
    "class_mix_differs": "classes are more or less frequent in val or test than in train",
    "combination_missing_in_train": "a combination of labels of val or test does not occur in train",
    "classes_alike": "two classes have nearly the same name",
    "jitter_changes_label": "the jitter of the scale contradicts labels that mean a size",
    "boxes_for_outlines": "outlines are boxes",
    "objects_merged": "several objects are annotated as one",
    "objects_split": "one object is annotated as several",
    "outlines_differ": "the outlines of a split are tighter or looser than those of train",
    "images_repeated": "most images of train are copies of others",
    "split_leak": "images of val or test are also in another split",
    "splits_differ": "the images of val or test look different from those of train",
    "masks_transposed": "rows and columns of masks are swapped",
    "masks_mirrored": "masks are mirrored relative to their images",
    "images_turned": "images are turned relative to their annotations",
    "masks_of_other_image": "masks belong to another image",
    "label_noise": "a share of the labels is wrong",
    "annotations_missing": "objects in the images are not annotated",
    "channels_swapped": "red and blue of the images are swapped",
    # the input of the model
    "flip_without_pairs": "flips exchange left and right in the image but not in the labels",
    "mapper_displaces": "the mapper transforms an image and its masks differently",
    "mapper_channels": "the mapper changes an image's colours",
    "mapper_labels": "the mapper changes the labels of instances",
    "normalisation": "the images are not normalised as the backbone expects",
    # params
    "lr_for_batch": "the learning rate does not fit the batch size",
    "queries_too_few": "images have more instances than there are queries",
    "detections_too_few": "fewer detections are kept than images have objects",
    "resolution_too_low": "masks at the network's resolution cannot be exact",
    "objects_too_small": "objects have few pixels in the network's input",
    "random_frozen_norm": "batch norm with random weights is frozen",
    "weights_partly_loaded": "a part of the backbone has random weights",
    "loss_muted": "a loss has weight 0",
    "no_object_weight": "the weight of no-object is outside the useful range",
    "class_weights": "the class weights are too unequal",
    "task_weight": "a task's weight outweighs the masks and the other tasks",
    "scale_mismatch": "the image scale in training does not include that of prediction",
    "warmup_too_long": "the warm-up takes most of the training",
    "weight_decay": "weight decay keeps the weights near 0",
    # the code of a step
    "head_size": "a head has the wrong number of outputs",
    "loss_targets": "a loss is computed from the wrong targets",
    "no_object_slot": "training and prediction use different slots for no-object",
    "prior_wrong": "the combinations of labels that count as seen differ from those of train",
    "loss_not_scalar": "training does not return named scalar losses",
    "step_fails": "a training step raises an exception",
    "loss_not_finite": "a loss is infinite or not a number",
    "gradient_not_finite": "a gradient is infinite or not a number",
    "gradient_missing": "the losses do not reach a part of the network",
    "weights_frozen": "a part of the network gets gradients but is not updated",
    "matcher_wrong": "the matching does not have the lowest cost",
    "postprocessing_wrong": "masks are not brought to the original size as they should be",
    "answer_depends_on_batch": "the output for an image depends on its batch",
    # the trained model
    "evaluator_wrong": "the evaluator gives the ground truth a wrong score",
    "weights_not_loaded": "the network was not loaded with the trained weights",
    "prediction_differs": "prediction gives other results than validation during training",
    "labels_ignore_image": "the labels do not depend on the image",
    "labels_of_other_query": "labels belong to other queries",
    "labels_of_other_image": "labels belong to another image",
    "labels_of_other_task": "labels belong to another task",
    "task_untrained_in_matching": "the matching ignores a task",
    "collapse_to_background": "a task predicts background for objects",
    "collapse_to_class": "a task predicts one class for all objects",
    "masks_displaced": "predicted masks are shifted",
    "masks_scaled": "predicted masks are too large or too small",
    "boxes_not_of_masks": "predicted boxes do not fit their masks",
    "duplicates": "objects are detected more than once",
    "queries_saturated": "crowded images need more queries than there are",
    "queries_empty": "most queries never detect an object",
    "filter_too_strict": "the filter removes correct predictions",
    "ranking": "detections are ranked by the wrong score",
    "miscalibrated": "probabilities do not match the share of correct labels",
    "lr_too_low": "the learning rate is too low: the loss falls slowly",
    "lr_too_high": "the learning rate is too high: the loss jumps or rises",
    "too_few_steps": "training is too short: the loss still falls",
    "limiting_factor": "no fault is found, and one kind of error costs much AP",
    "overtrained": "the model overfits: it gets worse on val",
}
# what wrong code of a network or a loader raises
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Finding:
    """cause: a key of CAUSES. evidence: one line with numbers. change: what to change, such as a key of params.yaml.
    where: the affected task, split, image or part of the network. files: all affected images of those looked at, of
    which the evidence names some."""

    cause: str
    severity: Severity
    evidence: str
    change: str
    where: str | None = None
    files: Sequence[str] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        assert self.cause in CAUSES, self.cause

    def line(self) -> str:
        """A line for the terminal, such as `warning: lr_for_batch: ...; set solver.base_lr: auto`."""
        return one_line(f"{self.severity}: {self.text()}")

    def text(self) -> str:
        """The same line without the severity."""
        where = f"{self.where}: " if self.where else ""
        return f"{self.cause}: {where}{self.evidence}; {self.change}"

    def as_record(self) -> dict[str, Any]:
        """For JSON. `title` is the cause as a sentence."""
        return asdict(self) | {"title": CAUSES[self.cause]}


def exception_text(error: Exception) -> str:
    """The type of an exception and the first line of its message, such as `KeyError: 'image'`."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def of_severity(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    return [finding for finding in findings if finding.severity == severity]
