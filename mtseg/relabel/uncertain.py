"""New images -> those most worth annotating, because a model is least certain about what it predicts there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image

from mtseg.core.errors import UserError
from mtseg.core.params import Filter, Task
from mtseg.core.tables import Images, Predictions
from mtseg.data import duplicates
from mtseg.evaluation import filter
from mtseg.inference import sources
from mtseg.inference.predictor import Predictor, Report
from mtseg.inference.sources import Source
from mtseg.relabel import folder

ALIKE = 0.9  # correlation of thumbnails from which an image adds little to one that is listed
CLOSE = 0.5  # probability of a label less that of the next: below this it is marked
DECIMALS = 4
NOTE = "check {task}: {given} or {suggested}? ({probability:.2f})"
FAINT = 0.5  # share of the filter's min_score from which a prediction that is dropped still counts as doubtful


@dataclass(frozen=True)
class Candidate:
    """An image that was predicted on. doubt: corrections to expect, see `doubts`. thumbnail: see `duplicates`."""

    name: str
    doubt: float
    thumbnail: np.ndarray


def doubts(predictions: Predictions, tasks: Sequence[Task], settings: Filter) -> np.ndarray:
    """[N]: how probable it is that a prediction must be corrected, 0 to 1, as far as its scores tell.

    Of what the filter keeps: 1 - the product of the label probabilities and the mask quality. Of what its thresholds
    drop: main label probability x mask quality, for then an object is missed.
    """
    kept = filter.reaches(predictions, settings)
    main, *_ = filter.label_scores(predictions).values()
    certain = predictions.mask_quality * np.prod([predictions.probability[task.name] for task in tasks], axis=0)
    return np.where(kept, 1 - certain, main)


def candidates(predictor: Predictor, source: Any, *, batch: int, on_error: Report | None = None) -> Iterator[Candidate]:
    """Every image of a source (see `mtseg.inference.sources.find`), in order. Images that cannot be read are reported
    to `on_error` and left out. Raises UserError for two images of one name."""
    lenient, thumbnails = lower(predictor), {}

    def read(one: Source) -> np.ndarray:
        pixels = one.read()
        thumbnails[one.name] = duplicates.thumbnail(PIL.Image.fromarray(pixels))
        return pixels

    watched = (replace(one, read=partial(read, one)) for one in distinct(source))
    for result in lenient.stream(watched, batch=batch, on_error=on_error):
        name = result.sources[0].name
        doubt = float(doubts(result, predictor.tasks, predictor.metadata.filter).sum())
        yield Candidate(name, doubt, thumbnails.pop(name))


def distinct(source: Any) -> Iterator[Source]:
    """The images of a source. Raises UserError for two of one name."""
    names = set()
    for one in sources.find(source):
        if one.name in names:
            raise UserError(f"two images are named {one.name}: run once for each source, or for a folder of both")
        names.add(one.name)
        yield one


def lower(predictor: Predictor) -> Predictor:
    """The same with lower thresholds, so that what is barely dropped is seen too."""
    settings = predictor.metadata.filter
    least = settings.min_score
    least = {task: FAINT * value for task, value in least.items()} if isinstance(least, dict) else FAINT * least
    settings = settings.model_copy(update={"min_score": least, "min_logit": {}})
    return Predictor(predictor.network, predictor.metadata.model_copy(update={"filter": settings}))


def choose(found: Sequence[Candidate], most: int) -> dict[str, None]:
    """Names of at most `most`, the most doubtful first, without images that look like a more doubtful one."""
    if not found:
        return {}
    looks = duplicates.normalised(np.stack([one.thumbnail for one in found]))
    chosen: list[int] = []
    for i in sorted(range(len(found)), key=lambda i: (-found[i].doubt, found[i].name)):
        if len(chosen) == most:
            break
        if not chosen or (looks[chosen] @ looks[i]).max() < ALIKE:
            chosen.append(i)
    return {found[i].name: None for i in chosen}


def write(
    out: Path, predictor: Predictor, source: Any, chosen: Mapping[str, float | None], *, format: str, batch: int
) -> pd.DataFrame:
    """Write `out` for a person to correct: the chosen images, by their names and in their order, with the model's
    predictions, in which a note marks the labels that are doubtful. Returns the rows of suggestions.csv, in the columns
    of `suspects.find`: reason is `uncertain` for such a label, with the next likely one as `suggested`, `faint` for
    what may be an object but was left out by the filter's thresholds, and `different` for an image that `chosen` gives
    a distance from the training images, the score.

    The source is read a second time, so that no image is kept in memory. Raises UserError when `out` is not empty.
    """
    rank = {name: number for number, name in enumerate(chosen, start=1)}
    wanted = {one.name: one for one in sources.find(source) if one.name in rank}
    result = lower(predictor).predict([wanted[name] for name in rank], batch=batch)  # ids are the ranks
    files = np.array([name if wanted[name].path else f"{name}.png" for name in rank], dtype=object)
    kept = filter.reaches(result, predictor.metadata.filter)
    rows = [
        {"rank": rank[name], "image": file, "score": round(distance, DECIMALS), "reason": "different"}
        for (name, distance), file in zip(chosen.items(), files, strict=True)
        if distance is not None
    ]
    notes = [None] * len(result)
    objects = dict.fromkeys(rank.values(), 0)
    for i, image_id in enumerate(result.image_id.tolist()):
        objects[image_id] += bool(kept[i])
        shared = {"rank": image_id, "image": files[image_id - 1], "object": objects[image_id] if kept[i] else None}
        own = list(_doubtful(result, i, predictor.tasks) if kept[i] else _faint(result, i, predictor.tasks[0]))
        rows += [shared | row for row in own]
        notes[i] = "\n".join(NOTE.format(**row) for row in own) or None
    found = pd.DataFrame(rows, columns=folder.COLUMNS).astype({"object": "Int64"}).sort_values("rank", kind="stable")
    table = Predictions(result.names, len(result), result.column).replace(note=np.array(notes, dtype=object))[kept]
    images = Images.from_records(
        [replace(image, file_name=file) for image, file in zip(result.images, files, strict=True)],
        result.images.classes,
    )
    originals = dict(zip(files.tolist(), (wanted[name] for name in rank), strict=True))
    folder.write(out, format, images, table, predictor.tasks, found, partial(_save, originals))
    return found


def _doubtful(predictions: Predictions, row: int, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """The labels of a prediction whose next likely class is close."""
    for task in tasks:
        label = int(predictions.labels[task.name][row])
        own = predictions.probabilities[task.name][row, : task.num_classes].copy()
        first, own[label] = float(own[label]), -1
        if task.num_classes > 1 and first - own.max() < CLOSE:
            names = {"given": task.classes[label], "suggested": task.classes[int(own.argmax())]}
            second = round(float(own.max()), DECIMALS)
            doubt = round(1 - first + second, DECIMALS)
            yield {"task": task.name, **names, "probability": second, "score": doubt, "reason": "uncertain"}


def _faint(predictions: Predictions, row: int, task: Task) -> Iterator[dict[str, Any]]:
    name = task.classes[predictions.labels[task.name][row]]
    probability = float(predictions.probability[task.name][row])
    score = round(probability * float(predictions.mask_quality[row]), DECIMALS)
    row = {"task": task.name, "given": None, "suggested": name, "probability": round(probability, DECIMALS)}
    yield row | {"score": score, "reason": "faint"}


def _save(originals: Mapping[str, Source], name: str, target: Path) -> None:
    """A file as it is, a frame of a video as PNG."""
    one = originals[name]
    if one.path:
        shutil.copyfile(one.path, target)
    else:
        PIL.Image.fromarray(one.read()).save(target)
