"""Known images passed through the loader: a batch must hold what the mapper made of each image by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mtseg.checks.findings import Finding
from mtseg.checks.mapper import pattern
from mtseg.core.params import Input, Task
from mtseg.data import loader

SIDE = 128  # pixels of an image
IMAGES, BATCH, BATCHES = 8, 2, 8  # each image comes twice, beside others
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
CHANGE = "fix training_batches in mtseg/data/loader.py"


def check(tasks: Sequence[Task], *, input: Input) -> list[Finding]:
    """Errors: targets of other images. Scale, place and flip are fixed, so that an image has one example only."""
    still = input.model_copy(update={"size": SIDE, "min_scale": 1.0, "max_scale": 1.0, "flip": 0.0, "workers": 0})
    with TemporaryDirectory() as folder:
        records = [pattern(Path(folder), tasks, side=SIDE, number=number) for number in range(IMAGES)]
        mapper = loader.Mapper(tasks, still, root=Path(folder), training=True)
        wanted = [mapper(record) for record in records]
        try:
            batches = loader.training_batches(
                records, mapper, batch=BATCH, start=0, stop=BATCHES, seed=0, workers=0
            )  # fmt: skip
            return list(exchanged([example for batch in batches for example in batch], wanted, tasks))
        except FAILURES as error:
            evidence = f"batches of known images: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            return [Finding("step_fails", "error", evidence, CHANGE)]


def exchanged(
    found: Sequence[loader.Example], wanted: Sequence[loader.Example], tasks: Sequence[Task]
) -> Iterator[Finding]:
    """Which image it is, is read off the pixels. Instances may come in any order."""
    pixels = np.stack([example["image"].numpy() for example in wanted]).astype(int)
    masks, labels = 0, Counter()
    for example in found:
        own = wanted[int(np.abs(pixels - example["image"].numpy().astype(int)).mean((1, 2, 3)).argmin())]
        given, right = targets(example), targets(own)
        masks += given.keys() != right.keys()
        for i, task in enumerate(tasks):
            labels[task.name] += any(given[mask][i] != right[mask][i] for mask in given.keys() & right.keys())
    if masks:
        evidence = f"of {len(found)} known images in batches {masks} come with the masks of others, or with none"
        yield Finding("masks_of_other_image", "error", evidence, CHANGE)
        return
    for name in (name for name in labels if labels[name]):
        evidence = f"of {len(found)} known images in batches {labels[name]} come with other labels"
        yield Finding("labels_of_other_image", "error", evidence, CHANGE, f"task '{name}'")


def targets(example: loader.Example) -> dict[bytes, list[int]]:
    """The labels of each mask."""
    instances = example["instances"]
    masks = [mask.tobytes() for mask in instances.gt_masks.tensor.numpy()]
    return dict(zip(masks, instances.gt_labels.tolist(), strict=True))
