"""Predictions on images without ground truth, and their conversion to formats of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import PIL.Image

from mtseg.core.errors import UserError, packages_of
from mtseg.core.masks import mask
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions, Table
from mtseg.inference import overlay_files
from mtseg.inference.export import coco, csv
from mtseg.inference.sources import Source

if TYPE_CHECKING:
    import supervision


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def filter_line(removed: Mapping[str, int], empty: int, images: int) -> str:
    """What the filter did, as one line. removed: see `Result.removed`. empty: images without a prediction."""
    most_first = sorted(removed.items(), key=lambda one: (-one[1], one[0]))
    rules = ", ".join(f"filter.{key} {number}" for key, number in most_first)
    line = f"removed by the filter: {sum(removed.values())} ({rules})" if removed else "removed by the filter: none"
    return line + f"; {empty} of {counted(images, 'image')} without a prediction" * (empty > 0)


class Result(Predictions):
    """A table of predictions (see `Predictions`) with its images and tasks.

    images: `Images` without instances; `image_id` of a prediction is their number from 1. sources: of each image, where
    it is read from. tasks: the main one first; `labels.TASK` are indices into its `classes`. removed_of: of each image,
    see `removed`.
    """

    images: Images
    tasks: tuple[Task, ...]
    sources: tuple[Source, ...]
    removed_of: tuple[Mapping[str, int], ...]

    @classmethod
    def of_table(
        cls, table: Table, images: Images, tasks: Sequence[Task], sources: Sequence[Source],
        removed_of: Sequence[Mapping[str, int]],
    ) -> Result:  # fmt: skip
        result = cls(table.names, len(table), table.column)
        result.images, result.tasks, result.sources = images, tuple(tasks), tuple(sources)
        result.removed_of = tuple(removed_of)
        return result

    @classmethod
    def join(cls, results: Sequence[Result]) -> Result:
        """One table of several, at least one, of the same tasks; their images in this order."""
        images = Images.join([result.images for result in results])
        sources, removed = ([x for one in results for x in getattr(one, name)] for name in ("sources", "removed_of"))
        return cls.of_table(Predictions.concatenate(results), images, results[0].tasks, sources, removed)

    @property
    def removed(self) -> dict[str, int]:
        """{key of the model's filter: number of detections in these images that its rule removed}; of tiles, in all of
        them."""
        return dict(sum(map(Counter, self.removed_of), Counter()))

    def __repr__(self) -> str:
        tasks = ", ".join(task.name for task in self.tasks)
        count = len(self.images)
        groups = (name.partition(".") for name in self.names)
        columns = dict.fromkeys(f"{group}[TASK]" if task else group for group, _, task in groups)
        line = filter_line(self.removed, count - len(np.unique(self.image_id)), count)
        return (
            f"Result: {counted(len(self), 'prediction')} on {counted(count, 'image')}, with labels of {tasks}\n"
            f"{line}\n"
            f"columns: {', '.join(columns)}\n"
            "by_image() splits it; to_dataframe(), to_coco(), to_supervision(), plot() and save_plots() convert it"
        )

    def __getitem__(self, rows: Any) -> Result:
        """A mask [N], indices or a slice: the images stay. An index alone gives one row, and its image alone."""
        if isinstance(rows, str):
            raise UserError(f"result[{rows!r}]: a column is an attribute, result.score or result.labels['TASK']")
        chosen = np.arange(len(self))[rows]
        table = super().__getitem__(chosen.reshape(-1))
        images, sources, removed = self.images, self.sources, self.removed_of
        if chosen.ndim == 0:
            (at,) = images.rows(table.image_id)
            images, sources, removed = (of[at : at + 1] for of in (images, sources, removed))
        return self.of_table(table, images, self.tasks, sources, removed)

    def __reduce__(self) -> tuple:
        table = Predictions(self.names, len(self), self.column)
        return self.of_table, (table, self.images, self.tasks, self.sources, self.removed_of)

    def by_image(self) -> Iterator[Result]:
        """A result for each image, in order, also for images without predictions."""
        rows = self.images.rows(self.image_id)
        for i, given in enumerate(zip(self.sources, self.removed_of, strict=True)):
            own = Predictions(self.names, len(self), self.column)[rows == i]
            yield self.of_table(own, self.images[i : i + 1], self.tasks, *([x] for x in given))

    def names_of(self, task: str) -> np.ndarray:
        """Predicted class names of a task, str [N]. Raises UserError if there is no such task."""
        classes = {task.name: task.classes for task in self.tasks}
        if task not in classes:
            raise UserError(f"there is no task {task!r}, valid: {', '.join(classes)}")
        return np.array(classes[task], dtype=object)[self.labels[task]]

    def masks(self) -> np.ndarray:
        """bool [N, height, width], N may be 0. Raises UserError if the images of the predictions differ in size."""
        of = self if len(self) else self.images[:1]
        sizes = {*zip(of.height.tolist(), of.width.tolist(), strict=True)}
        if len(sizes) > 1:
            raise UserError("masks of images of different sizes do not fit in one array: use by_image()")
        height, width = sizes.pop()
        found = np.zeros((len(self), height, width), dtype=bool)
        for row, rle in enumerate(self.rles()):
            found[row] = mask(rle, height, width)
        return found

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each prediction: file_name, image_id, query, score, x, y, width, height, area, for each task TASK
        (class name) and TASK_probability, and rle (the mask as compressed COCO RLE)."""
        return csv.frame(self.images, self, self.tasks)

    def to_coco(self) -> dict[str, Any]:
        """A COCO data set: images, categories (classes of the main task, from 1), and annotations with the further keys
        of `mtseg.inference.export.coco`."""
        return coco.dataset(self.images, self, self.tasks)

    def plot(self) -> PIL.Image.Image:
        """One image with its predictions drawn over it, its longer side 640 to 2000 pixels. Reads the image again.
        Raises UserError when the result is of several images."""
        from mtseg.inference.overlays import overlay  # here: matplotlib is slow to import

        self._check_one_image()
        return overlay(self.sources[0].read(), self, self.tasks)

    def save_plots(self, folder: Path | str) -> None:
        """What `plot` gives for each image, as JPEG files in a folder, under the images' names. Raises UserError before
        anything is drawn, when two images would share a file, or a file there is no such plot."""
        names, folder = self.images.file_name.tolist(), Path(folder)
        overlay_files.check(names, folder)
        overlay_files.write(self, folder)

    def to_supervision(self) -> supervision.Detections:
        """Detections of one image for Roboflow's supervision: `xyxy`, `mask`, `confidence`, `class_id` of the main
        task, and in `data` `class_name` of the main task, and for each task TASK (class names) and TASK_probability.
        Raises UserError if the result is of several images, or the package is not installed."""
        with packages_of("to_supervision()", "supervision"):
            import supervision

        self._check_one_image()
        box = self.box.astype(np.float32).reshape(-1, 4)
        main, data = self.tasks[0].name, {}
        for task, (label, probability) in zip(self.tasks, csv.task_names(self.tasks, ["class_name"]), strict=True):
            data[label] = self.names_of(task.name).astype(str)
            data[probability] = self.probability[task.name]
        return supervision.Detections(
            xyxy=np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1),
            mask=self.masks(),
            confidence=self.score.astype(np.float32),
            class_id=self.labels[main],
            data=data | {"class_name": self.names_of(main).astype(str)},
        )

    def _check_one_image(self) -> None:
        if len(self.images) != 1:
            raise UserError(f"this result is of {len(self.images)} images, one is needed: use by_image()")
