"""Annotated images -> those most worth correcting, because a model contradicts their annotations."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtseg.core.errors import UserError
from mtseg.core.files import read_json, write_json
from mtseg.core.masks import polygons
from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED, Image, Images, Predictions
from mtseg.data.convert import instance_of
from mtseg.data.formats import labelme
from mtseg.data.labels import NO_LABEL, Vocabulary
from mtseg.data.polygons import measure
from mtseg.data.raw import BadRecord, RawImage, RawObject
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.label_errors import label_errors
from mtseg.relabel import folder

FITS = 0.5  # a person looks at each: on the embedded data this found 24 of 25 wrong labels of val, 0.75 found 17
# Of scores, before they are added up: unsure suspicions are wrong more often. In train of the embedded data 1 and 4 put
# as many errors into the first 100 images (126, 125); of the first 100 suggestions 81 and 92 are right.
POWER = 4
NOTE = "mtseg: "  # opens each line that is added to a description


def find(evaluation: Evaluation, most: int) -> pd.DataFrame:
    """Suspected errors of the `most` images most worth correcting, a row each: `folder.COLUMNS` and prediction.

    rank: of the image, from 1; images are ordered by the sum of score ** POWER.
    object: its number in the image, from 1, or None where nothing is annotated. given, suggested: class names of the
    task, None where there is none. probability: of the suggested label. score: how sure the suspicion is, 0 to 1, see
    `mtseg.evaluation.label_errors`. reason: label, outline, missing or spurious. prediction: its row, or None.
    """
    found = label_errors(evaluation, most=None, fits=FITS)
    worth: dict[int, float] = {}
    for suspect in found:
        worth[suspect["image_id"]] = worth.get(suspect["image_id"], 0.0) + suspect["score"] ** POWER
    ranked = sorted(worth, key=lambda image_id: (-worth[image_id], image_id))[:most]
    rank = {image_id: number for number, image_id in enumerate(ranked, start=1)}
    kept = [suspect for suspect in found if suspect["image_id"] in rank]
    kept.sort(key=lambda suspect: rank[suspect["image_id"]])  # stable: within an image the surest first
    rows = [_row(suspect, rank[suspect["image_id"]], evaluation) for suspect in kept]
    return pd.DataFrame(rows, columns=[*folder.COLUMNS, "prediction"]).astype(
        {"object": "Int64", "prediction": "Int64"}
    )


def _row(suspect: dict[str, Any], rank: int, evaluation: Evaluation) -> dict[str, Any]:
    row, instance = suspect["prediction"], suspect["instance"]
    probability = None
    if row is not None:
        task = next(task for task in evaluation.tasks if task.name == suspect["task"])
        label = evaluation.predictions.labels[task.name][row]
        probability = round(float(evaluation.class_probabilities(task, [row])[0, label]), 4)
    images = evaluation.images
    return {
        "rank": rank,
        "image": images.file_name[images.rows(np.array([suspect["image_id"]]))[0]],
        "object": None if instance is None else instance + 1,
        "task": suspect["task"],
        "given": suspect["annotated"],
        "suggested": suspect["predicted"],
        "probability": probability,
        "score": suspect["score"],
        "reason": suspect["kind"],
        "prediction": row,
    }


def write(
    out: Path, evaluation: Evaluation, found: pd.DataFrame, *, format: str, raw: Path,
    vocabulary: Vocabulary | None = None,
) -> None:  # fmt: skip
    """Write `out` for a person to correct: the images of `found` with their annotations, in which a note marks each
    suspected object, and the model's polygons of the missing ones.

    raw: folder of the images. vocabulary: given if it holds LabelMe files: for LabelMe, `out` then has these files, at
    the same paths, with all that they hold. Raises UserError when `out` is not empty, or `raw` has changed since it was
    converted.
    """
    listed = found.drop(columns="prediction")
    if format != "labelme" or vocabulary is None:
        folder.write(out, format, *_as_predictions(evaluation, found), listed, partial(_copy, raw))
        return
    with folder.new_folder(out, listed) as temporary:
        read = {image.file_name: image for image in labelme.read(raw, vocabulary).images}
        ranked = list(dict.fromkeys(found["image"]))
        for name in ranked:
            if name not in read:
                raise UserError(f"{raw / name} has no annotation that can be read: run `dvc repro`")
            suspected = found[found["image"] == name]
            write_json(temporary / read[name].where, _marked(read[name], suspected, evaluation, raw, vocabulary))
        folder.save_images(temporary, ranked, partial(_copy, raw))


def _copy(raw: Path, name: str, target: Path) -> None:
    try:
        shutil.copyfile(raw / name, target)
    except FileNotFoundError:
        raise UserError(f"{raw / name}: no such image; is data.raw the folder that was converted?") from None


def _marked(
    image: RawImage, suspected: pd.DataFrame, evaluation: Evaluation, raw: Path, vocabulary: Vocabulary
) -> dict[str, Any]:
    """The LabelMe file of an image with notes in the `description` of the suspected shapes, and the missing objects."""
    value = read_json(raw / image.where)
    for shape in value["shapes"]:
        shape["description"] = _without_notes(shape.get("description"))
    record = evaluation.images[_row_of(evaluation.images, image.file_name)]
    valid = [item for item in image.objects if _is_valid(item, record)]
    if len(valid) != len(record.instances):
        raise UserError(
            f"{raw / image.where} has {len(valid)} objects, {len(record.instances)} were converted: run `dvc repro`"
        )
    for suspect in suspected.itertuples():
        if pd.isna(suspect.object):
            groups = [shape.get("group_id") for shape in value["shapes"]]
            free = 1 + max((group for group in groups if isinstance(group, int)), default=0)
            value["shapes"] += _shapes(suspect, evaluation, vocabulary, group=free)
        else:
            shape = value["shapes"][labelme.first_shape(valid[suspect.object - 1])]
            shape["description"] = "\n".join(filter(None, [shape["description"], NOTE + note(suspect)]))
    return value


def note(suspect: Any) -> str:
    """What a person should check, for a row of `find`."""
    if suspect.reason == "label":
        return f"check {suspect.task}: not {suspect.given} but {suspect.suggested}? ({suspect.probability:.2f})"
    if suspect.reason == "outline":
        return "check the outline: the model's differs"
    if suspect.reason == "spurious":
        return "check whether this is an object: the model finds none here"
    return f"not annotated, found by the model ({suspect.score:.2f}): correct it, or delete it if there is no object"


def _without_notes(description: str | None) -> str:
    """A description without the notes of an earlier run."""
    return "\n".join(line for line in (description or "").splitlines() if not line.startswith(NOTE))


def _row_of(images: Images, name: str) -> int:
    return int(np.flatnonzero(images.file_name == name)[0])


def _is_valid(item: RawObject, image: Image) -> bool:
    """Whether `convert` made an instance of an object."""
    try:
        instance_of(item, measure([item.segmentation])[0], image.height, image.width)
    except BadRecord:
        return False
    return True


def _shapes(suspect: Any, evaluation: Evaluation, vocabulary: Vocabulary, *, group: int) -> list[dict[str, Any]]:
    """LabelMe shapes of a predicted object. group: its `group_id` if it has several parts."""
    predicted = evaluation.predictions[[suspect.prediction]]
    labels = {task.name: task.classes[predicted.labels[task.name][0]] for task in evaluation.tasks}
    parts, (category, lost) = polygons(predicted.rles()[0]), _flat(labels, vocabulary)
    return [
        {
            "label": category,
            "points": np.reshape(part, (-1, 2)).tolist(),
            "group_id": group if len(parts) > 1 else None,
            "description": NOTE + note(suspect) + lost,
            "shape_type": "polygon",
            "flags": {},
        }
        for part in parts
    ]


def _flat(labels: Mapping[str, str], vocabulary: Vocabulary) -> tuple[str, str]:
    """Labels as one string that `convert` reads: `class,class,...`, or with a mapping its first category that means
    them, else the one that shares most of them, the main task's before others'. And what to add to the note then."""
    if vocabulary.categories is None:
        return ",".join(labels.values()), ""
    meanings = {category: meant for category, meant in vocabulary.categories.items() if meant}
    shared = {
        category: [meant.get(task) == label for task, label in labels.items()] for category, meant in meanings.items()
    }
    best = max(shared, key=lambda category: (shared[category][0], sum(shared[category])))
    lost = "" if all(shared[best]) else f"; the mapping has no category for {', '.join(labels.values())}"
    return best, lost


def _as_predictions(evaluation: Evaluation, found: pd.DataFrame) -> tuple[Images, Predictions, tuple[Task, ...]]:
    """The images of `found` by rank, which becomes their id; their annotations and the missing objects, with notes; and
    the tasks, with a further class for objects that lack a label."""
    every, instances, predictions = evaluation.images, evaluation.images.instances, evaluation.predictions
    ranked = list(dict.fromkeys(found["image"]))
    rows = [_row_of(every, name) for name in ranked]
    images = Images.from_records(
        [replace(every[row], id=rank, instances=()) for rank, row in enumerate(rows, start=1)], every.classes
    )
    rank = np.zeros(len(every), dtype=int)
    rank[rows] = np.arange(1, len(rows) + 1)
    annotated = np.flatnonzero(rank[instances.image])
    annotated = annotated[np.argsort(rank[instances.image[annotated]], kind="stable")]
    start = np.searchsorted(instances.image, np.arange(len(every)))
    notes, added = {int(row): "crowd" for row in annotated if instances.crowd[row]}, {}
    for suspect in found.itertuples():
        if pd.isna(suspect.object):
            added[suspect.prediction] = note(suspect)
        else:
            row = int(start[_row_of(every, suspect.image)]) + suspect.object - 1
            notes[row] = "\n".join(filter(None, [notes.get(row), note(suspect)]))
    known, missing = instances[annotated], predictions[np.array([*added], dtype=int)]
    ones, new = np.ones(len(annotated)), evaluation.image[np.array([*added], dtype=int)]
    columns = {
        "image_id": np.concatenate([rank[known.image], rank[new]]),
        "score": np.concatenate([ones, missing.score]),
        "note": np.array([*(notes.get(int(row)) for row in annotated), *added.values()], dtype=object),
    }
    for name in ("box", "rle", "height", "width"):
        columns[name] = np.concatenate([known.column(name), missing.column(name)])
    for task in evaluation.tasks:
        labels = known.labels[task.name]
        labels = np.where(labels == UNLABELLED, task.num_classes, labels)
        columns[f"labels.{task.name}"] = np.concatenate([labels, missing.labels[task.name]])
        columns[f"probability.{task.name}"] = np.concatenate([ones, missing.probability[task.name]])
    # `model_copy` checks nothing: no class of a task may be called so
    tasks = tuple(task.model_copy(update={"classes": (*task.classes, NO_LABEL)}) for task in evaluation.tasks)
    return images, Predictions.of(columns), tasks
