"""Find a part of the objects, in any of the images, whose masks are turned, mirrored, scaled, shifted, or lack a part.

What `parts` undoes for whole images is undone for each object that fits no prediction, and each prediction that fits no
object; but not exchanges of images. An object counts for a change if such a prediction fits it after undoing the
change, in place and labels. How many images have one by chance is measured in two ways, of which the larger counts:
with the predictions of other images, and by the change that explains most of the others. The binomial distribution
gives the chance of as many images. What boxes do not show is tried on the masks (`simulated.of_objects`).

A predictions and B objects of an image, T tasks; boxes are (x, y, width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from mtseg.checks.findings import Finding
from mtseg.checks.strays import named
from mtseg.core.tables import UNLABELLED
from mtseg.diagnosis import parts, simulated
from mtseg.diagnosis.masks import centres
from mtseg.diagnosis.parts import ALIKE, BELONGS, CHANCE, DRAWS, GOOD, NEAR, TURNS, Change, Sample
from mtseg.diagnosis.split import Split
from mtseg.evaluation import bootstrap
from mtseg.evaluation.ap.pairs import box_overlaps

FEWEST, SHARE = 3, 0.05  # images with such objects; share of all objects, which the interval must reach
LEVEL = 0.001  # chance of a false alarm
WITHIN = 0.5  # share of them that are in another finding, at most
MOST = 2000  # images that are looked at, about
VECTORS = 2000  # offsets that are compared, at most
PIXELS = 2.0  # offsets closer than this are the same
CHANGE = (
    "compare the outlines of these objects with the images: who or what drew them, with which tool; if they are right, "
    "look for what moves or cuts these masks"
)
CLASS, RARE = 0.9, 0.5  # share of one class among the objects, from which it is named; among the others, at most


class Lost(NamedTuple):
    """Objects of an image that fit no prediction, and predictions that fit no object. rows: int [B], of the objects
    among all; boxes: [B, 4]; labels: [B, T]; predicted: [A, 4]; predicted_labels: [A, T]."""

    image: int
    rows: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    predicted_labels: np.ndarray


class Found(NamedTuple):
    """A fault of some objects. rows: of these among all objects; looked_at: of those that were tried."""

    cause: str
    text: str
    rows: np.ndarray
    looked_at: np.ndarray


def check(split: Split, name: str, *, least: float = 0.0) -> list[Finding]:
    """Warnings for what surely explains a part of the images, as of `parts.check`, and a part of the objects, if most
    of these are in other images. name: of the split. least: share of the images with objects that
    must have one."""
    sample, fits = Sample(split), simulated.fits(split)
    image = np.repeat(np.arange(len(sample.objects)), sample.counts)
    cut = simulated.of_objects(fits)
    known, findings = np.array([], dtype=int), parts.check(split, name, least=least)
    for found in (_moved(sample), cut and Found(*cut, fits.rows)):
        if found is None or _mostly(found.rows, known):
            continue
        known = np.union1d(known, found.rows)
        of_images = {
            finding: np.flatnonzero(np.isin(split.images.file_name[image], finding.files)) for finding in findings
        }
        count, images = len(found.looked_at), np.unique(image[found.rows])
        chosen = np.isin(found.looked_at, found.rows)
        share = bootstrap.mean(chosen, image[found.looked_at], len(sample.objects))
        few = len(images) < max(FEWEST, least * len(np.unique(image[found.looked_at])))
        if few or share.high < SHARE or any(_mostly(found.rows, rows) for rows in of_images.values()):
            continue
        files = split.images.file_name[images].tolist()
        evidence = f"{len(found.rows)} of {count} {name} objects{' looked at' * (count < len(image))} "
        evidence += f"({len(found.rows) / count:.0%}, {share.low:.0%} to {share.high:.0%}), in {len(images)} images"
        evidence += f"{_class(split, sample, found)}: {found.text}: {named(files)}"
        findings = [finding for finding, rows in of_images.items() if not _mostly(rows, found.rows)]
        findings.append(Finding(found.cause, "warning", evidence, CHANGE, name, files))
    return findings


def _mostly(rows: np.ndarray, others: np.ndarray) -> bool:
    return bool(np.isin(rows, others).mean() > WITHIN)


def _class(split: Split, sample: Sample, found: Found) -> str:
    """The class that nearly all of these objects have, if most others do not."""
    others = np.setdiff1d(found.looked_at, found.rows)
    for task, labels in zip(split.trained, np.concatenate(sample.labels).T, strict=True):
        own = labels[found.rows]
        own = own[own != UNLABELLED]
        label = int(np.bincount(own).argmax()) if len(own) else 0
        if len(own) and (own == label).mean() >= CLASS and (labels[others] == label).sum() < RARE * len(others):
            return f", {(own == label).mean():.0%} of them {task.name} {task.classes[label]}"
    return ""


def _moved(sample: Sample) -> Found | None:
    seen = np.flatnonzero(sample.counts)
    seen = seen[:: len(seen) // MOST + 1]
    first = np.cumsum(sample.counts) - sample.counts
    lost = [one for image in seen.tolist() if (one := _lost(sample, image, first[image]))]
    if len(lost) < FEWEST:
        return None
    looked_at = np.flatnonzero(np.repeat(np.isin(np.arange(len(first)), seen), sample.counts))
    changes = [change for change in parts.changes(sample.sizes) if change.steps == (0,)]
    changes += _shifts(lost)
    explained = [[_explained(one, one, change) for one in lost] for change in changes]
    images = np.array([[bool(own.any()) for own in row] for row in explained])  # [changes, images with lost objects]
    tested = [number for number, change in enumerate(changes) if change.cause]
    surely = []
    for number in tested:
        count, others = int(images[number].sum()), np.delete(images, number, axis=0).sum(1)
        if count >= FEWEST:
            by_chance = max(_by_chance(lost, changes[number]), (others.max() + 1) / (len(lost) + 2))
            chance = float(binom.sf(count - 1, len(lost), by_chance)) * len(tested)
            surely += [(chance, -count, number)] if chance < LEVEL else []
    if not surely:
        return None
    *_, number = min(surely)
    rows = np.concatenate([one.rows[fit] for one, fit in zip(lost, explained[number], strict=True)])
    return Found(changes[number].cause, changes[number].text, rows, looked_at)


def _lost(sample: Sample, image: int, first: int) -> Lost | None:
    """None if the image has no such objects, or no such predictions. first: row of its first object."""
    objects, predicted = sample.objects[image], sample.predicted[image]
    if not len(predicted):
        return None
    iou = box_overlaps(predicted, objects)[0]
    own, free = np.flatnonzero((iou.max(0) < GOOD) & (objects[:, 2:].min(1) > 0)), iou.max(1) < GOOD
    if not len(own) or not free.any():
        return None
    return Lost(
        image, first + own, objects[own], sample.labels[image][own],
        predicted[free], sample.predicted_labels[image][free],
    )  # fmt: skip


def _explained(one: Lost, other: Lost, change: Change) -> np.ndarray:
    """bool [B]: whether a prediction of `other` fits an object of `one` after undoing the change."""
    iou = box_overlaps(change.undo(other.predicted, one.image), one.boxes)[0]
    return ((iou >= BELONGS) & _agree(one, other)).any(0)


def _agree(one: Lost, other: Lost) -> np.ndarray:
    """bool [A, B]: whether at least half of the known labels are the same."""
    known = one.labels != UNLABELLED
    same = (other.predicted_labels[:, None] == one.labels) & known
    return 2 * same.sum(2) >= known.sum(1)


def _by_chance(lost: list[Lost], change: Change) -> float:
    """Share of the images of which an object fits a prediction of another image."""
    rng, fits, draws = np.random.default_rng(0), 0, min(DRAWS, max(CHANCE // len(lost), 1), len(lost) - 1)
    for number, one in enumerate(lost):
        others = rng.choice(len(lost) - 1, draws, replace=False)
        fits += sum(bool(_explained(one, lost[other + (other >= number)], change).any()) for other in others)
    return (fits + 1) / (len(lost) * draws + 1)


def _shifts(lost: list[Lost]) -> Iterator[Change]:
    """A shift by the most common offset of predictions of an object's size and labels; and as far in other directions,
    which are only compared and have no cause."""
    found = []
    for one in lost:
        ratio = np.maximum(one.predicted[:, None, 2:], 1) / one.boxes[:, 2:]
        alike = (np.maximum(ratio, 1 / ratio).max(2) < ALIKE) & _agree(one, one)
        predicted, own = np.nonzero(alike)
        found.append(centres(one.predicted)[predicted] - centres(one.boxes)[own])
    vectors = np.concatenate(found)
    vectors = vectors[:: len(vectors) // VECTORS + 1]
    if not len(vectors):
        return
    near = np.linalg.norm(vectors[:, None] - vectors, axis=2) < np.maximum(
        NEAR * np.linalg.norm(vectors, axis=1), PIXELS
    )
    centre = np.median(vectors[near[near.sum(1).argmax()]], axis=0)
    text = f"masks lie ({centre[0]:+.1f}, {centre[1]:+.1f}) px from their objects"
    for number, turn in enumerate(TURNS):
        shift = np.append(turn @ centre, [0, 0])
        yield Change("" if number else "masks_displaced", text, lambda boxes, image, shift=shift: boxes - shift)
