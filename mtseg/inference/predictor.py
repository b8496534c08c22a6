"""A trained model that predicts on any image. PyTorch is imported only for a file that needs it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.core import metadata
from mtseg.core.errors import UserError, packages_of
from mtseg.core.metadata import Metadata
from mtseg.core.tables import Image, Images, Pairs, Predictions
from mtseg.data.images import read_image, square
from mtseg.evaluation import filter
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.inference import sources, tiling
from mtseg.inference.postprocess import encode
from mtseg.inference.result import Result
from mtseg.inference.sources import Source
from mtseg.model.imports import without_compiler

Report = Callable[[str, UserError], None]


def load(path: Path | str, *, device: str = "auto", compile: bool = False) -> Predictor:
    """See `mtseg.load`."""
    if not isinstance(path, str | Path):
        raise UserError(f"a model is loaded from the path of its file, got {type(path).__name__}")
    if not isinstance(device, str):
        raise UserError(f"device: {device!r} is unknown: use auto, cpu, cuda or cuda:1")
    path = Path(path)
    known = metadata.read(path)
    if path.suffix == ".onnx":
        if compile:
            raise UserError(f"compile: {path} is ONNX, which ONNX Runtime optimises itself: load it without")
        from mtseg.inference.onnx_network import OnnxNetwork

        return Predictor(OnnxNetwork.load(path, known, device=device), known)
    with pytorch(f"{path}, unlike a model as ONNX,"):
        from mtseg.inference.torch_network import TorchNetwork
    return Predictor(TorchNetwork.load(path, known, device=device, compile=compile), known)


@contextmanager
def pytorch(what: str) -> Iterator[None]:
    """Around imports of PyTorch and what is built on it. Raises UserError when one of these packages is missing. what:
    needs them."""
    with packages_of(what, "torch"), warnings.catch_warnings(), without_compiler():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore, on import
        yield


class Predictor:
    """network: with `detect(squares, content, sizes)`, as `TorchNetwork` and `OnnxNetwork` have it. metadata: what the
    model's file says about itself; its filter decides which predictions are returned."""

    def __init__(self, network: Any, metadata: Metadata):
        self.network, self.metadata = network, metadata
        self.tasks = metadata.predicted_tasks()

    def __repr__(self) -> str:
        tasks = ", ".join(f"{task.name} ({', '.join(task.classes)})" for task in self.tasks)
        size = self.metadata.input.size
        return f"Predictor of {tasks}: {self.metadata.model.backbone}, {size} x {size} pixels, {self.network}"

    def predict(
        self,
        source: Any,
        *,
        score: float | None = None,
        batch: int = 8,
        tile: int | None = None,
        overlap: float = 0.2,
        on_error: Report | None = None,
    ) -> Result:
        """The predictions of every image of a source, in one table (see `Predictions`), image by image, the best first.

        source: a path of an image, folder or video, a pattern such as `shots/**/*.jpg`, a PIL image, a uint8 array
        [height, width, 3] in RGB (also RGBA, or [height, width] in grey), or a list of these. score: smallest label
        probability x mask quality of the main task, 0 to 1. It replaces all thresholds of the model's filter,
        `min_score`, `min_logit` and `drop_background`: with 0 all detections are returned but duplicates and what other
        rules on masks remove. batch: images at a time, or tiles. tile: cut larger images into tiles of so many pixels a
        side, 32 or more, for objects that are small in them; the best size shows objects about as large, compared with
        the tile, as they were in the training images. overlap: share of a tile, 0 to 0.9, that it has in common with
        the next at least; objects up to that size are seen whole. See `mtseg.inference.tiling`. on_error: called with
        the name of an image that cannot be read and the error, such as `print`; the image is then left out. By default
        the error is raised. Raises UserError also where no image is left, and on settings out of range.
        """
        results = list(self.stream(source, score=score, batch=batch, tile=tile, overlap=overlap, on_error=on_error))
        if not results:
            raise UserError("there is no image to predict on: the source is empty, or none could be read")
        return Result.join(results)

    __call__ = predict

    def stream(
        self, source: Any, *, score: float | None = None, batch: int = 8, tile: int | None = None, overlap: float = 0.2,
        on_error: Report | None = None, on_tiles: tiling.Progress | None = None, first: int = 1,
    ) -> Iterator[Result]:  # fmt: skip
        """The same, one image's result at a time, in bounded memory: no result holds the pixels of a file or a video.
        on_tiles: called with the numbers of tiles of an image that are done, and of all. first: id of the first
        image."""
        _check(score, batch)
        tiling.check(tile, overlap)
        number = first - 1  # of the last image
        for some in sources.batches(sources.find(source), 1 if tile else batch):
            read = list(self._read(some, on_error, Source.open if tile else self._prepared))
            first, number = number + 1, number + len(read)
            if read and tile:
                found = [self._tiled(*read.pop(), first, score, on_tiles, batch=batch, tile=tile, overlap=overlap)]
            else:
                found = self._results(read, first, score)
            for result in found:
                yield result
                result.sources[0].release()  # `plot` may have read a frame of a video; later it decodes it again

    def _read(
        self, some: Sequence[Source], on_error: Report | None, read: Callable[[Source], Any]
    ) -> Iterator[tuple[Source, Any]]:
        for one in some:
            name = one.name.encode(errors="backslashreplace").decode()
            try:
                if name != one.name:
                    raise UserError(f"{name}: the name of this file is not UTF-8: rename it")
                yield one, read(one)
            except UserError as error:
                if on_error is None:
                    raise
                on_error(name, error)
            except MemoryError:
                raise UserError(f"{name}: not enough memory for this image: make it smaller, or free some") from None

    def _prepared(self, source: Source) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """The network's input, height and width of the image in it, and those of the image itself."""
        pixels = source.read()
        return *square(pixels, self.metadata.input.size), pixels.shape[:2]

    def _results(self, read: Sequence[tuple[Source, Any]], first: int, score: float | None) -> Iterator[Result]:
        """read: with what `_prepared` returns. first: id of the first image."""
        if not read:
            return
        given, prepared = zip(*read, strict=True)
        squares, content, sizes = zip(*prepared, strict=True)
        # one after the other: the masks of a batch of large images would take much memory
        found = map(encode, self.network.detect(np.stack(squares), content, sizes), count(first), repeat(self.tasks))
        for number, (source, size, own) in enumerate(zip(given, sizes, found, strict=True), first):
            images = self._images(number, source, size)
            kept, removed = self._filtered(images, own, score)
            yield Result.of_table(kept, images, self.tasks, [source], [removed])

    def _tiled(
        self, source: Source, pixels: Any, number: int, score: float | None, on_tiles: tiling.Progress | None, *,
        batch: int, tile: int, overlap: float,
    ) -> Result:  # fmt: skip
        images, removed = self._images(number, source, pixels.shape[:2]), Counter()

        def select(found: Predictions, *, part: bool = True) -> Predictions:
            kept, own = self._filtered(images, found, score, part=part)
            removed.update(own)
            return kept

        found = tiling.predict(
            self.network, pixels, tasks=self.tasks, image_id=number, size=self.metadata.input.size, tile=tile,
            overlap=overlap, batch=batch, select=select, progress=on_tiles,
        )  # fmt: skip
        return Result.of_table(select(found, part=False), images, self.tasks, [source], [removed])

    def _images(self, number: int, source: Source, size: tuple[int, int]) -> Images:
        """The table of one image. size: height and width."""
        classes = [(task.name, task.classes) for task in self.tasks]
        return Images.from_records([Image(number, source.name, *size)], classes)

    def _filtered(
        self, images: Images, predictions: Predictions, score: float | None, *, part: bool = False
    ) -> tuple[Predictions, dict[str, int]]:
        """What the model's filter keeps, and how many its rules removed. part: of an image; only by the rules that hold
        there too. score: replaces all thresholds."""
        settings = self.metadata.filter
        if part:
            settings = settings.model_copy(update={"largest_component": False, "min_area": 0, "most": None})
        if score is not None:
            thresholds = {"min_score": score, "min_logit": {}, "drop_background": False}
            settings = settings.model_copy(update=thresholds)
        evaluation = Evaluation(
            images, predictions, Pairs.of(NO_PAIRS), tasks=self.tasks, ranking=self.metadata.ranking
        )
        done = filter.apply(evaluation, settings)
        kept, _ = done.predictions
        return kept, done.counts


def _check(score: float | None, batch: int) -> None:
    """Raises UserError for settings that are not allowed."""
    if score is not None and not (_is(score, float | int | np.floating | np.integer) and 0 <= score <= 1):
        raise UserError(f"score: {score!r} must be a number from 0 to 1")
    if not (_is(batch, int | np.integer) and batch >= 1):
        raise UserError(f"batch: {batch!r} must be a whole number, 1 or more")


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def predict_split(network: Any, images: Images, *, root: Path, metadata: Metadata) -> Predictions:
    """The predictions for the images of a data set, unfiltered, one image at a time. network: see `Predictor`. root:
    folder of the images."""
    found = []
    for image in images:
        pixels = read_image(root, image)
        padded, content = square(pixels, metadata.input.size)
        (detections,) = network.detect(padded[None], [content], [pixels.shape[:2]])
        found.append(encode(detections, image.id, metadata.predicted_tasks()))
    return Predictions.concatenate(found)


NO_PAIRS = {
    "prediction": np.zeros(0, int), "instance": np.zeros(0, int), "iou": np.zeros(0), "intersection": np.zeros(0)
}  # fmt: skip
