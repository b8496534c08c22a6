"""Compare the stored predictions with the validation of the same weights during training: AP, and the predictions of
some images. Where they differ, code, weights, images or settings are not those of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mtseg.checks.findings import Finding
from mtseg.checks.strays import named
from mtseg.core.tables import Predictions
from mtseg.diagnosis.split import Split
from mtseg.evaluation.ap.summary import IMAGES, spread, summary
from mtseg.evaluation.bootstrap import proportion

LOSS_OF_AP = 0.1  # share of the joint AP in training that may be lost: small differences of logits change the ranking
SHARE, FEWEST = 0.05, 3  # of the images, and images: as many must have other predictions
DETECTIONS = 100  # of an image, which a validation keeps
FEWER, MORE = 0.8, 1.2  # predictions over those of the validation: some were left out, some added
# By which an image's `summary` may differ: number and sum of scores (of themselves), quality, side, x, y, and labels.
# With weights rounded to 8 bits, one image of the embedded data in 30 differs by more; another kind of processor
# changes far less.
ALLOWED = {"number": 0.2, "sum of scores": 0.1, "mask quality": 0.03, "side": 0.03, "x": 0.02, "y": 0.02}
ALLOWED_LABEL = 0.05
PLACE = {"side", "x", "y"}
SCORES = {"miscalibrated", "ranking"}
CHANGE = "prediction uses other weights, images, code or input.size than validation in training: run "
CHANGE += "`dvc repro predict`, check load_model, the Mapper and what Mask2Former.detect and predict do"
OF_A_PART = "in training the same weights had other predictions for them: check what prediction does with these images"


def lower(validated: pd.DataFrame, now: float, checkpoint: str, *, detections: int) -> list[Finding]:
    """An error if the predictions score less than the same weights did in training: then weights, images, annotations
    or their processing differ. now: joint AP by the product of probabilities and mask quality, percent."""
    if not len(validated) or "joint_AP" not in validated or detections < DETECTIONS:
        return []
    column = validated["joint_AP"]
    then = float(column.max() if checkpoint == "best" else column.iloc[-1])
    if then - now <= max(1.0, LOSS_OF_AP * then):
        return []
    evidence = f"joint AP on val was {then:.1f} in training and is {now:.1f} now"
    return [Finding("prediction_differs", "error", evidence, CHANGE)]


class Difference(NamedTuple):
    """finding: an error. share: of the images with other predictions than in the validation. number: of predictions,
    over that of the validation. place: whether only size and place of the masks differ. labels: whether labels differ
    most."""

    finding: Finding
    share: float
    number: float
    place: bool
    labels: bool

    def explains(self, finding: Finding) -> bool:
        """Whether what it reports may follow from that: a collapse to background, or to a class if labels do not
        differ most, and all warnings, except those of the scores and, if there are more predictions, of duplicates.
        Other errors say more."""
        says_more = finding.severity == "error" or finding.cause in SCORES
        says_more |= finding.cause == "duplicates" and self.number > MORE
        if finding.cause == "collapse_to_class":
            return not self.labels
        return finding.cause == "collapse_to_background" or not says_more


def difference(split: Split, then: Sequence[Sequence[float]], *, detections: int) -> Difference | None:
    """Whether the predictions of some images are not those of the validation. then: its `summary`, of as many images of
    the same split, or empty if it is not known."""
    images, names = spread(split.images, IMAGES), [*ALLOWED, *(f"label of '{task.name}'" for task in split.tasks)]
    before = np.array(then, dtype=float)
    if detections < DETECTIONS or before.shape != (len(images), len(names)):
        return None
    now = summary(images, _best(split.predictions[np.isin(split.predictions.image_id, images.id)]), split.tasks)
    allowed = np.array([*ALLOWED.values(), *[ALLOWED_LABEL] * len(split.tasks)])
    off = (now - before) / allowed
    off[:, :2] /= np.maximum(before[:, :2], 1)
    other = (np.abs(off) > 1).any(1)
    share = proportion(other)
    if other.sum() < FEWEST or share.low < SHARE:
        return None
    column = int(np.abs(off).mean(0).argmax())
    evidence = f"the predictions of {share.text(0, 100)} % of {len(images)} val images "
    files = images.file_name[np.flatnonzero(other)].tolist()
    evidence += f"({named(files)}) are not those of the validation in "
    evidence += f"training; most of all, the mean {names[column]} was {before[:, column].mean():.3g} and is "
    evidence += f"{now[:, column].mean():.3g}"
    number = float(now[:, 0].sum() / max(before[:, 0].sum(), 1))
    answers = [place for place, name in enumerate(names) if name not in PLACE]
    place = (np.abs(off[:, answers]) > 1).any(1).mean() < SHARE
    finding = Finding("prediction_differs", "error", evidence, CHANGE, files=files)
    return Difference(finding, share.value, number, bool(place), labels=column >= len(ALLOWED))


def _best(predictions: Predictions) -> Predictions:
    """The first `DETECTIONS` of each image, as a validation has them."""
    order = np.argsort(predictions.image_id, kind="stable")
    starts = np.unique(predictions.image_id[order], return_index=True, return_inverse=True)
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order)) - starts[1][starts[2]]
    return predictions[place < DETECTIONS]
