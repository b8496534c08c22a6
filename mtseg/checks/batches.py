"""Pass synthetic images through the loader. Batches must contain exactly what the mapper returns for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mtseg.checks.findings import FAILURES, Finding, exception_text
from mtseg.checks.mapper import pattern
from mtseg.core.errors import out_of_memory
from mtseg.core.params import Input, Task
from mtseg.data import loader

SIDE = 128  # pixels, height of the images
IMAGES, BATCH, BATCHES = 8, 2, 8  # each image occurs twice, in different batches
CHANGE = "fix training_batches in mtseg/data/loader.py"


def check(tasks: Sequence[Task], *, input: Input) -> list[Finding]:
    """Errors if targets belong to other images. Augmentation is off, so that each image has exactly one example."""
    unaugmented = input.model_copy(update={"size": SIDE, "min_scale": 1.0, "max_scale": 1.0, "flip": 0.0, "workers": 0})
    with TemporaryDirectory() as folder:
        records = [pattern(Path(folder), tasks, side=SIDE, number=number) for number in range(IMAGES)]
        mapper = loader.Mapper(tasks, unaugmented, root=Path(folder), training=True)
        expected, again = ([mapper(record) for record in records] for _ in range(2))
        if any(not one["image"].equal(other["image"]) for one, other in zip(expected, again, strict=True)):
            return []  # an augmentation of the project's own
        try:
            batches = loader.training_batches(
                records, mapper, batch=BATCH, start=0, stop=BATCHES, seed=0, workers=0
            )  # fmt: skip
            return list(exchanged([example for batch in batches for example in batch], expected, tasks))
        except FAILURES as error:
            if out_of_memory(error):
                raise
            return [Finding("step_fails", "error", f"batches of synthetic images: {exception_text(error)}", CHANGE)]


def exchanged(
    examples: Sequence[loader.Example], expected: Sequence[loader.Example], tasks: Sequence[Task]
) -> Iterator[Finding]:
    """Compare with the expected examples. Images are identified by their pixels; instances may have any order."""
    pixels = np.stack([example["image"].numpy() for example in expected]).astype(int)
    masks, labels, drawn = 0, Counter(), Counter()
    for example in examples:
        row = int(np.abs(pixels - example["image"].numpy().astype(int)).mean((1, 2, 3)).argmin())
        drawn[row] += 1
        same = expected[row]
        actual, wanted = targets(example), targets(same)
        masks += actual.keys() != wanted.keys()
        for i, task in enumerate(tasks):
            labels[task.name] += any(actual[mask][i] != wanted[mask][i] for mask in actual.keys() & wanted.keys())
    if masks:
        evidence = f"{masks} of {len(examples)} synthetic images in batches have masks of other images or no masks"
        yield Finding("masks_of_other_image", "error", evidence, CHANGE)
        return
    if len({drawn[row] for row in range(len(expected))}) > 1:
        times = "/".join(str(drawn[row]) for row in range(len(expected)))
        evidence = f"in two epochs, {len(expected)} synthetic images are drawn {times} times, expected twice each"
        yield Finding("overtrained", "error", evidence, f"{CHANGE}: an epoch has each image once")
    for name in (name for name in labels if labels[name]):
        evidence = f"{labels[name]} of {len(examples)} synthetic images in batches have labels of other images"
        yield Finding("labels_of_other_image", "error", evidence, CHANGE, f"task '{name}'")


def targets(example: loader.Example) -> dict[bytes, list[int]]:
    """Labels [T] of each mask. The keys are the bytes of the masks."""
    instances = example["instances"]
    masks = [mask.tobytes() for mask in instances.gt_masks.tensor.numpy()]
    return dict(zip(masks, instances.gt_labels.tolist(), strict=True))
