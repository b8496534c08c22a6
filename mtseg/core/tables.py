"""The tables that stages exchange: images with ground truth, predictions, and their overlapping pairs.

A table is sliced as a whole, like detectron2's `Instances`. On disk it is a Parquet file; columns are read when they
are first used. Class indices are 0-based positions in a task's `classes`; in files, labels are class names.

I images, G instances (ground-truth objects), N predictions, E pairs, K outputs of a task's head.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import logit as log_odds

from mtseg.core.errors import UserError, is_pipe
from mtseg.core.files import replace_file
from mtseg.core.masks import Box, Segmentation, rle
from mtseg.core.params import Task

NESTED = "instances.list.element"  # path of the columns of `Instances` in the table of `Images`
UNLABELLED = -1  # class index of an instance without a label of a task
DECIMALS = 5  # of boxes, logits, scores and mask quality in predictions
DIGITS = 6  # significant digits of a conditional probability; decimals would make the products of small ones equal
CLIP = 1e-7  # log-odds are taken of probabilities at least this far from 0 and 1, so that they are finite

PART = 2**17  # rows of a large column that are in memory at once

Classes = Sequence[tuple[str, tuple[str, ...]]]  # (task, its classes), the main task first


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object. Crowds (COCO `iscrowd`) are not trained on and are ignored in evaluation.
    labels: class index of each task, None if unlabelled. id: the annotation's id, if it has one. rle: the counts of its
    compressed RLE, if they are known, to save time."""

    segmentation: Segmentation
    bbox: Box
    area: float
    labels: dict[str, int | None]
    crowd: bool = False
    id: int | None = None
    rle: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """One image and its instances. `file_name` is relative to the folder of raw data (`data.raw`).
    follow_links: whether it may be a link out of that folder."""

    id: int
    file_name: str
    height: int
    width: int
    instances: tuple[Instance, ...] = ()
    follow_links: bool = False


class Table:
    """Columns of equal length, sliced together.

    `table.box` is the column `box`, an array [N, ...]; `table.labels` is {task: column} of the columns `labels.TASK`.
    `table[rows]` takes a mask [N], indices or a slice. Columns are read, and sliced, when they are first used, and
    kept. `once`, `parts` and `take` keep nothing, for columns of millions of rows that are used once.
    """

    def __init__(self, names: Sequence[str], length: int, load: Callable[[str], np.ndarray], file: _File | None = None):
        self.names, self._length, self._load, self._file = tuple(names), length, load, file
        self._columns: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> Table:
        """Make a table of columns in memory."""
        lengths = {name: len(column) for name, column in columns.items()}
        assert len(set(lengths.values())) == 1, lengths
        return cls(tuple(columns), len(next(iter(columns.values()))), columns.__getitem__)

    def __reduce__(self) -> tuple:  # processes that are spawned, as on macOS, get a copy
        return type(self).of, ({name: self.column(name) for name in self.names},)

    @classmethod
    def concatenate(cls, parts: Sequence[Table]) -> Table:
        """Join one or more tables of the same columns."""
        return cls.of({name: _concatenate([part.column(name) for part in parts]) for name in parts[0].names})

    def __len__(self) -> int:
        return self._length

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self.names:
            return self.column(name)
        if group := [own for own in self.names if own.startswith(f"{name}.")]:
            return {own.partition(".")[2]: self.column(own) for own in group}
        raise AttributeError(f"no column {name!r}, available: {', '.join(self.names)}")

    def column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            self._columns[name] = self._load(name)
        return self._columns[name]

    def once(self, name: str) -> np.ndarray:
        """A column, of which nothing is kept."""
        return self._columns[name] if name in self._columns else self._load(name)

    def parts(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A column in parts: the rows of each, and their values."""
        if self._file is None or name in self._columns or not len(self):
            column = self.once(name)
            yield from ((own := slice(low, low + PART), column[own]) for low in range(0, max(len(self), 1), PART))
        else:
            for group, (low, high) in enumerate(pairwise(self._file.ends)):
                yield slice(low, high), self._file.part(group, name)

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A column at some rows, int [n]."""
        if self._file is None or name in self._columns or len(self) <= PART:
            return self.column(name)[rows]
        order, found = np.argsort(rows, kind="stable"), []
        bounds = np.searchsorted(rows[order], self._file.ends)
        for group in np.flatnonzero(np.diff(bounds)).tolist():
            own = rows[order[bounds[group] : bounds[group + 1]]]
            found.append(self._file.part(group, name)[own - self._file.ends[group]])
        values = _concatenate(found) if found else self._file.part(0, name)[rows]
        return values[np.argsort(order, kind="stable")]

    def __getitem__(self, rows: Any) -> Table:
        rows = np.arange(len(self))[rows]
        return type(self)(self.names, len(rows), lambda name: self.take(name, rows))

    def replace(self, **columns: np.ndarray) -> Table:
        """A copy with some columns replaced or added."""
        assert {len(column) for column in columns.values()} <= {len(self)}
        names = tuple(dict.fromkeys([*self.names, *columns]))
        changed = type(self)(names, len(self), self.once, self._file)
        changed._columns |= columns
        return changed

    def patched(self, rows: np.ndarray, **values: np.ndarray) -> Table:
        """A copy with other values in some columns at some rows, int [n], ascending."""

        def patch(name: str, column: np.ndarray, first: int) -> np.ndarray:
            if name in values:
                low, high = np.searchsorted(rows, [first, first + len(column)])
                column = column.copy()
                column[rows[low:high] - first] = values[name][low:high]
            return column

        file, load = self._file, lambda name: patch(name, self.once(name), 0)
        if file:
            file = _File(file.ends, lambda group, name: patch(name, self._file.part(group, name), file.ends[group]))
        return type(self)(self.names, len(self), load, file)

    @classmethod
    def _in_file(cls, path: Path | str, made_by: str, file: pq.ParquetFile, classes: Classes) -> Table:
        def part(group: int, name: str) -> np.ndarray:
            with _reading(path, made_by):
                return _numpy(file.read_row_group(group, [name])[name], name, classes, narrow=True)

        def column(name: str) -> np.ndarray:  # one group at a time: half of the memory
            if len(sizes) < 2:
                with _reading(path, made_by):
                    return _numpy(file.read([name])[name], name, classes, narrow=True)
            found = None
            for group, (low, high) in enumerate(pairwise(rows.ends)):
                own = part(group, name)
                found = np.empty((rows.ends[-1], *own.shape[1:]), own.dtype) if found is None else found
                found[low:high] = own
            return found

        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        rows = _File(tuple(accumulate(sizes, initial=0)), part)
        if file.metadata.num_rows > PART:
            return_memory()
        return cls(file.schema_arrow.names, file.metadata.num_rows, column, rows)

    def rles(self) -> list[dict[str, Any]]:
        """The masks as compressed RLEs for pycocotools."""
        sizes = zip(self.height.tolist(), self.width.tolist(), self.rle, strict=True)
        return [{"size": [height, width], "counts": counts} for height, width, counts in sizes]


@dataclass(frozen=True)
class _File:
    """The file of a table. ends: where each of its row groups starts, and the number of rows. part: reads a column of
    one of the groups."""

    ends: tuple[int, ...]
    part: Callable[[int, str], np.ndarray]


class Polygons:
    """A column of lists of polygons [x0, y0, ...], or None. All numbers are in one array, which worker processes share;
    Python lists would be copied into each of them."""

    def __init__(self, values: Sequence[Sequence[Sequence[float]] | None] | pa.Array):
        self.values = pa.array(values, pa.list_(pa.list_(pa.float64())))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Any:
        """An integer gives the polygons of one row; a mask, indices or a slice give a column."""
        if isinstance(rows, int | np.integer):
            return self.values[int(rows)].as_py()
        if isinstance(rows, slice):
            return Polygons(self.values[rows])
        return Polygons(self.values.take(pa.array(np.arange(len(self))[rows])))

    def tolist(self) -> list[list[list[float]] | None]:
        return self.values.to_pylist()


class Instances(Table):
    """The objects of a split, image by image.

    image: int [G], row of the image in `Images`. id: int [G], annotation id, or the number in the split, from 1, if
    the annotation has none. box: [G, 4]. area: [G], square pixels, as annotated. crowd: bool [G]. rle: str [G], mask
    at the image's size (`height`, `width` [G]). polygons: `Polygons` [G], None if the annotation is an RLE.
    labels.TASK: int [G], class index or UNLABELLED.
    """


class Images(Table, Sequence):
    """The images of a split, sorted by id, with their ground truth. Iteration yields `Image` records.

    id, height, width: int [I]. file_name: str [I]. follow_links: bool [I], see `Image`. instances: `Instances`.
    classes: class names of every task.
    """

    instances: Instances
    classes: Classes

    @classmethod
    def from_records(cls, images: Sequence[Image], classes: Classes, first: int = 1) -> Images:
        """first: the number that is the first instance's id, if it has none."""
        images = sorted(images, key=lambda image: image.id)
        rows = [(row, image, instance) for row, image in enumerate(images) for instance in image.instances]
        labels = {
            f"labels.{task}": _ints(UNLABELLED if i.labels[task] is None else i.labels[task] for _, _, i in rows)
            for task, _ in classes
        }
        instances = {
            "image": _ints(row for row, _, _ in rows),
            "id": _ints(number if i.id is None else i.id for number, (_, _, i) in enumerate(rows, start=first)),
            "box": np.array([i.bbox for _, _, i in rows], dtype=np.float64).reshape(-1, 4),
            "area": np.array([i.area for _, _, i in rows], dtype=np.float64),
            "crowd": np.array([i.crowd for _, _, i in rows], dtype=bool),
            "rle": _texts(i.rle or rle(i.segmentation, image.height, image.width)["counts"] for _, image, i in rows),
            "height": _ints(image.height for _, image, _ in rows),
            "width": _ints(image.width for _, image, _ in rows),
            "polygons": Polygons([i.segmentation if isinstance(i.segmentation, list) else None for _, _, i in rows]),
        }
        columns = {name: _ints(getattr(image, name) for image in images) for name in ("id", "height", "width")}
        columns["file_name"] = _texts(image.file_name for image in images)
        columns["follow_links"] = np.array([image.follow_links for image in images], dtype=bool)
        return cls._with(columns, Instances.of(instances | labels), classes)

    @classmethod
    def join(cls, parts: Sequence[Images]) -> Images:
        """Images of one or more tables with the same classes, whose ids ascend from one to the next."""
        if len(parts) == 1:
            return parts[0]
        offsets = np.cumsum([0, *map(len, parts)])
        instances = [
            part.instances.replace(image=part.instances.image + offset)
            for part, offset in zip(parts, offsets, strict=False)
        ]
        columns = {name: _concatenate([part.column(name) for part in parts]) for name in parts[0].names}
        return cls._with(columns, Instances.concatenate(instances), parts[0].classes)

    def __reduce__(self) -> tuple:
        return self._with, ({name: self.column(name) for name in self.names}, self.instances, self.classes)

    @classmethod
    def _with(cls, columns: Mapping[str, np.ndarray], instances: Instances, classes: Classes) -> Images:
        images = cls.of(columns)
        images.instances, images.classes = instances, tuple((task, tuple(names)) for task, names in classes)
        images._starts = np.searchsorted(instances.image, np.arange(len(images) + 1))
        return images

    def __getitem__(self, rows: Any) -> Any:
        """An integer gives an `Image`; a mask, ascending indices or a slice give `Images`."""
        if isinstance(rows, int | np.integer):
            return self._record(range(len(self))[rows])
        kept = np.arange(len(self))[rows]
        assert (np.diff(kept) > 0).all(), "images are sorted by id"
        position = np.full(len(self), -1)
        position[kept] = np.arange(len(kept))
        own = position[self.instances.image]
        instances = self.instances[own >= 0].replace(image=own[own >= 0])
        return self._with({name: self.column(name)[kept] for name in self.names}, instances, self.classes)

    def __iter__(self) -> Iterator[Image]:
        return (self[row] for row in range(len(self)))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """int, the row of each image id; -1 if there is no such image."""
        place = np.searchsorted(self.id, ids)
        place[place == len(self)] = 0
        return np.where(self.id[place] == ids, place, -1) if len(self) else np.full(len(ids), -1)

    def _record(self, row: int) -> Image:
        own, height, width = self.instances, int(self.height[row]), int(self.width[row])
        start, end = self._starts[row : row + 2].tolist()
        names = ("box", "area", "crowd", "id", "polygons", *(f"labels.{task}" for task, _ in self.classes))
        columns, instances = [own.column(name)[start:end].tolist() for name in names], []
        for place, (box, area, crowd, key, polygons, *labels) in enumerate(zip(*columns, strict=True), start):
            instance = Instance(
                segmentation=polygons or {"size": [height, width], "counts": own.rle[place]},
                bbox=tuple(box),
                area=area,
                labels={t: None if i == UNLABELLED else i for (t, _), i in zip(self.classes, labels, strict=True)},
                crowd=crowd,
                id=key,
            )
            instances.append(instance)
        follow = "follow_links" in self.names and bool(self.follow_links[row])  # an older version has no such column
        return Image(int(self.id[row]), self.file_name[row], height, width, tuple(instances), follow)

    def write(self, path: Path | str) -> None:
        """Write one row per image, with its instances nested in it."""
        self.write_parts(path, [self])

    @staticmethod
    def write_parts(path: Path | str, parts: Iterable[Images]) -> None:
        """Write one or more tables with the same classes, whose ids ascend from one to the next, one at a time."""
        with replace_file(path) as temporary, ExitStack() as stack:
            file, writer = stack.enter_context(pa.OSFile(str(temporary), "wb")), None
            for part in parts:
                table = _table(part._nested(), part.classes)
                writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd"))
                writer.write_table(table)

    def _nested(self) -> dict[str, pa.Array]:
        own = self.instances
        fields = {name: _arrow(name, own.column(name), self.classes) for name in own.names if name != "image"}
        nested = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
        lists = pa.ListArray.from_arrays(pa.array(self._starts, pa.int32()), nested)
        return {name: _arrow(name, self.column(name), ()) for name in self.names} | {"instances": lists}

    @classmethod
    def read(cls, path: Path | str, made_by: str = "convert", *, outlines: bool = True) -> Images:
        """outlines: whether to read `rle` and `polygons` of the instances, most of the memory, now or when they are
        used. Raises UserError when the file is missing or was not written by `write`."""
        file, classes = _open(path, made_by, ("id", "height", "width", "file_name", "instances"))
        with _reading(path, made_by):
            columns = [*file.schema_arrow.names]
            if not outlines:
                fields = [own.name for own in file.schema_arrow.field("instances").type.value_type]
                columns.remove("instances")
                columns += [f"{NESTED}.{name}" for name in fields if name not in ("rle", "polygons")]
            count = file.num_row_groups
            parts = (file.read_row_group(n, columns) for n in range(count)) if count > 1 else [file.read(columns)]
            images = cls.join([cls._of(part, classes) for part in parts])
        if not outlines:
            known = images.instances

            def column(name: str) -> np.ndarray | Polygons:
                if name in known.names:
                    return known.column(name)
                with _reading(path, made_by):
                    lists = file.read([f"{NESTED}.{name}"])["instances"].combine_chunks()
                    return _numpy(lists.values.field(name), name, classes)

            images.instances = Instances((*known.names, "rle", "polygons"), len(known), column)
        return images

    @classmethod
    def _of(cls, table: pa.Table, classes: Classes) -> Images:
        lists = table["instances"].combine_chunks()
        nested, starts = lists.values, lists.offsets.to_numpy()
        instances = {name: _numpy(nested.field(name), name, classes) for name in nested.type.names}
        instances["image"] = np.repeat(np.arange(len(lists)), np.diff(starts))
        columns = {name: _numpy(table[name], name, classes) for name in table.column_names if name != "instances"}
        return cls._with(columns, Instances.of(instances), classes)


class Predictions(Table):
    """Predicted objects with the labels of all tasks; image by image, the best of an image first.

    image_id, query: int [N]; predictions of one query share its mask and differ in labels. score: [N], 0 to 1, by
    which the network ranks. box: [N, 4] and area: [N], of the mask, in pixels. rle: str [N], mask at the image's size
    (`height`, `width` [N]). mask_quality: [N], mean probability inside the mask.

    For each task: labels.TASK, int [N]. probability.TASK: [N], of that label; with a softmax over combinations it is
    conditional on the labels of the preceding tasks, so that the product over tasks is the probability of all labels.
    logit.TASK: [N], of that label; with a softmax over combinations, the log-odds of its probability.
    probabilities.TASK and logits.TASK: [N, K], all outputs, the no-object slot last if the task has one.
    """

    def write(self, path: Path | str, tasks: Sequence[Task]) -> None:
        classes = [(task.name, task.classes) for task in tasks]
        _write(path, {name: _arrow(name, self.column(name), classes) for name in self.names}, classes)

    @classmethod
    def read(cls, path: Path | str, tasks: Sequence[Task], made_by: str = "predict") -> Predictions:
        """Columns are read when they are used. Raises UserError when the file is missing, was not written by
        `write`, or has other tasks."""
        wanted = [*_PREDICTED, *(f"{kind}.{task.name}" for kind in _BY_TASK for task in tasks)]
        known = tuple((task.name, task.classes) for task in tasks)
        return cls._in_file(path, made_by, *_open(path, made_by, wanted, known))


class Pairs(Table):
    """Pairs of a prediction and an instance whose masks overlap. prediction, instance: int [E], row indices. iou: [E].
    intersection: [E], pixels. A file records which predictions and ground truth its rows refer to."""

    def write(self, path: Path | str, images: Images, predictions: Predictions) -> Pairs:
        """Write the pairs, and return those in the file, which are read when they are used."""
        columns = {name: _arrow(name, self.column(name), ()) for name in self.names}
        _write(path, columns, (), of=_digest(images, predictions))
        return self._in_file(path, "evaluate", *_open(path, "evaluate", self.names))

    @classmethod
    def read(cls, path: Path | str, images: Images, predictions: Predictions, made_by: str = "evaluate") -> Pairs:
        """Raises UserError when the file is missing, was not made by `write`, or is of other predictions or images."""
        file, classes = _open(path, made_by, ("prediction", "instance", "iou", "intersection"))
        with _reading(path, made_by):
            of = json.loads(file.schema_arrow.metadata[b"mtseg"]).get("of")
        if of != _digest(images, predictions):
            raise UserError(f"{path} was made from other predictions or annotations: run `dvc repro {made_by}` again")
        return cls._in_file(path, made_by, file, classes)


def _digest(images: Images, predictions: Predictions) -> str:
    """Hash of what the rows of pairs refer to: the predictions' images, queries and masks, and the instances' masks."""
    digest = hashlib.sha256()
    for name in ("image_id", "query"):
        for _, part in predictions.parts(name):
            digest.update(np.ascontiguousarray(part, dtype=np.int64))
    for table in (predictions, images.instances):
        for _, part in table.parts("rle"):
            digest.update("\n".join([*part, ""]).encode())
    return digest.hexdigest()


_PREDICTED = ("image_id", "query", "score", "box", "area", "rle", "height", "width", "mask_quality")
_BY_TASK = ("labels", "probability", "logit", "probabilities", "logits")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits [..., K], in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def task_columns(
    task: str, labels: np.ndarray, logits: np.ndarray, conditional: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Prediction columns of a task. labels: int [N]. logits: [N, K], whose softmax are the probabilities of all
    outputs. conditional: [N], probability of each label given those of the preceding tasks, if the head has it; by
    default a label's probability is that of the softmax, and its logit one of `logits`."""
    logits = np.round(np.asarray(logits, dtype=np.float64), DECIMALS)
    labels = np.asarray(labels, dtype=np.int64)
    probabilities, chosen = softmax(logits), labels[:, None]
    if conditional is None:
        probability = np.take_along_axis(probabilities, chosen, axis=1)[:, 0]
        logit = np.take_along_axis(logits, chosen, axis=1)[:, 0]
    else:
        probability = np.array([float(f"{p:.{DIGITS}g}") for p in conditional.tolist()], dtype=np.float64)
        logit = log_odds(probability.clip(CLIP, 1 - CLIP))
    return {
        f"labels.{task}": labels,
        f"probability.{task}": probability,
        f"logit.{task}": logit,
        f"probabilities.{task}": probabilities,
        f"logits.{task}": logits,
    }


def _concatenate(columns: Sequence[np.ndarray | Polygons]) -> np.ndarray | Polygons:
    if isinstance(columns[0], Polygons):
        return Polygons(pa.concat_arrays([column.values for column in columns]))
    return np.concatenate(columns)


def _ints(values: Any) -> np.ndarray:
    return np.fromiter(values, dtype=np.int64)


def _texts(values: Any) -> np.ndarray:
    return np.array(list(values), dtype=object)


def _arrow(name: str, column: np.ndarray | Polygons, classes: Classes) -> pa.Array:
    """Convert a column; labels become class names, or null if unlabelled."""
    kind, _, task = name.partition(".")
    if kind == "labels":
        codes = pa.array(column, pa.int32(), mask=column == UNLABELLED)
        return pa.DictionaryArray.from_arrays(codes, pa.array(list(dict(classes)[task]), pa.string()))
    if name == "polygons":
        return column.values
    if column.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
    return pa.array(column, pa.large_string() if column.dtype == object else None)


def _numpy(
    column: pa.Array | pa.ChunkedArray, name: str, classes: Classes, narrow: bool = False
) -> np.ndarray | Polygons:
    """Convert a column back. narrow: labels as the smallest integers that hold them, to save memory; else int32."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind, _, task = name.partition(".")
    if kind == "labels":
        index = {text: code for code, text in enumerate(dict(classes)[task])}
        codes = np.array([index[text] for text in column.dictionary.to_pylist()] + [UNLABELLED])
        codes = codes.astype(np.min_scalar_type(-len(index) - 1) if narrow else np.int32)
        return codes[column.indices.fill_null(-1).to_numpy()]
    if name == "polygons":
        return Polygons(column)
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _write(path: Path | str, columns: Mapping[str, pa.Array], classes: Classes, **facts: str) -> None:
    with replace_file(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
        pq.write_table(_table(columns, classes, **facts), file, compression="zstd", row_group_size=PART)


def _table(columns: Mapping[str, pa.Array], classes: Classes, **facts: str) -> pa.Table:
    tasks = [{"name": task, "classes": list(names)} for task, names in classes]
    metadata = {"mtseg": json.dumps({"tasks": tasks} | facts, ensure_ascii=False)}
    return pa.table(dict(columns)).replace_schema_metadata(metadata)


def _open(
    path: Path | str, made_by: str, wanted: Sequence[str], tasks: Classes | None = None
) -> tuple[pq.ParquetFile, Classes]:
    """Open a file. Checks that it has the columns `wanted` and, if given, the classes of `tasks`."""
    with _reading(path, made_by):
        file = pq.ParquetFile(pa.OSFile(str(path)))  # ParquetFile would take a path like `a:b` for a URI
        found = json.loads(file.schema_arrow.metadata[b"mtseg"])["tasks"]
        classes = tuple((task["name"], tuple(task["classes"])) for task in found)
    if tasks not in (None, classes):
        raise UserError(f"{path} was made for other tasks or classes: run `dvc repro {made_by}` again")
    with _reading(path, made_by):
        if missing := {*wanted} - {*file.schema_arrow.names}:
            raise ValueError(f"column {min(missing)} is missing")
    return file, classes


def return_memory() -> None:
    """Give memory that is free to the system, and that of large columns from now on as soon as it is: Arrow and glibc
    keep it for others."""
    pa.set_memory_pool(pa.system_memory_pool())
    if (libc := _glibc()) is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(trim_threshold, 2**23)  # less would be asked of the system again and again
        libc.mallopt(mmap_threshold, 2**22)
        libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if "glibc" in platform.libc_ver() else None


@contextmanager
def _reading(path: Path | str, made_by: str) -> Iterator[None]:
    """Raise UserError for a file that is missing or has another format."""
    if is_pipe(path):
        raise UserError(f"{path} is a pipe or a device, not a file: run `dvc repro {made_by}` again")
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro {made_by}` first") from None
    except MemoryError:  # of Arrow
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a table of this version ({error}): run `dvc repro {made_by}` again") from None
