"""Known pictures sent through the loader: what a batch holds must be what the mapper made of its own picture (F12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from mtseg.checks.findings import Finding
from mtseg.core.params import Input, Task
from mtseg.core.tables import Image, Instance
from mtseg.data import loader

SIDE = 64  # pixels of a picture
PICTURES, BATCH, BATCHES = 8, 2, 8  # each picture comes twice, beside others
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
CHANGE = "mend what makes batches: training_batches in mtseg/data/loader.py"


def check(tasks: Sequence[Task], *, input: Input) -> list[Finding]:
    """Errors: targets of other pictures. Nothing is drawn here, so that a picture has one example alone."""
    still = input.model_copy(update={"size": SIDE, "min_scale": 1.0, "max_scale": 1.0, "flip": 0.0, "workers": 0})
    with TemporaryDirectory() as folder:
        records = pattern(Path(folder), tasks)
        mapper = loader.Mapper(tasks, still, root=Path(folder), training=True)
        wanted = [mapper(record) for record in records]
        options = {"batch": BATCH, "start": 0, "stop": BATCHES, "seed": 0, "workers": 0}
        try:
            found = [one for batch in loader.training_batches(records, mapper, **options) for one in batch]
            return list(exchanged(found, wanted, tasks))
        except FAILURES as error:
            evidence = f"batches of known pictures: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            return [Finding("step_fails", "error", evidence, CHANGE)]


def pattern(folder: Path, tasks: Sequence[Task]) -> list[Image]:
    """Pictures written into the folder, and their records: two patches that lie elsewhere in each, of labels that
    follow each other from patch to patch and from picture to picture."""
    records = []
    for number in range(PICTURES):
        pixels, instances = np.full((SIDE, SIDE, 3), 90, np.uint8), []
        for i, top in enumerate((6, 36)):
            left = 4 + 4 * number
            pixels[top : top + 20, left : left + 24] = (230, 40, 60) if i else (30, 200, 50)
            mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
            mask[top : top + 20, left : left + 24] = 1
            packed = {"size": [SIDE, SIDE], "counts": coco_mask.encode(mask)["counts"].decode()}
            labels = {task.name: (number + i) % len(task.classes) for task in tasks}
            instances.append(Instance(packed, (float(left), float(top), 24.0, 20.0), 480.0, labels, id=i))
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        records.append(Image(number, f"{number}.png", SIDE, SIDE, tuple(instances)))
    return records


def exchanged(
    found: Sequence[loader.Example], wanted: Sequence[loader.Example], tasks: Sequence[Task]
) -> Iterator[Finding]:
    """Which picture it is, is read off the pixels. Instances may come in any order."""
    pixels = np.stack([one["image"].numpy() for one in wanted]).astype(int)
    masks, labels = 0, Counter()
    for example in found:
        own = wanted[int(np.abs(pixels - example["image"].numpy().astype(int)).mean((1, 2, 3)).argmin())]
        given, right = (targets(one) for one in (example, own))
        masks += given.keys() != right.keys()
        for i, task in enumerate(tasks):
            labels[task.name] += any(given[mask][i] != right[mask][i] for mask in given.keys() & right.keys())
    if masks:
        evidence = f"of {len(found)} known pictures that come in batches {masks} come with the masks of others, or none"
        yield Finding("masks_of_other_image", "error", evidence, CHANGE)
        return
    for task in tasks:
        if count := labels[task.name]:
            evidence = f"of {len(found)} known pictures that come in batches {count} come with other labels"
            yield Finding("labels_of_other_image", "error", evidence, CHANGE, f"task '{task.name}'")


def targets(example: loader.Example) -> dict[bytes, list[int]]:
    """The labels of each mask."""
    instances = example["instances"]
    masks = [mask.tobytes() for mask in instances.gt_masks.tensor.numpy()]
    return dict(zip(masks, instances.gt_labels.tolist(), strict=True))
