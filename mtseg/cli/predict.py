"""`mtseg predict`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtseg.core.errors import UserError
    from mtseg.inference.folder import Run
    from mtseg.inference.predictor import Predictor
    from mtseg.inference.result import Result
    from mtseg.inference.sources import File, Source

SECONDS = 10  # between lines of progress where there is no terminal
OVERLAP = 0.2
LARGE = 4  # times the network's input: from there on tiles are proposed
NEARLY = 0.95  # some videos state only about how many frames they have
SOME_SKIPPED, INTERRUPTED = 2, 130  # exit codes


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", show_default=False,
            help="Images, videos, folders (with their subfolders), or patterns in quotes such as 'shots/**/*.jpg'.",
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(metavar="FILE", show_default=False, help="The model: `.safetensors`, or `.onnx`."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the outputs: new, empty, or of the same run.")
    ] = Path("predictions"),
    format: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Any of coco, csv, cvat, jsonl, label-studio, labelme, parquet, yolo, with commas."
        ),
    ] = "coco,parquet",
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Draw the predictions over every image, into DIR/images.")
    ] = False,
    score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, show_default="as the model's filter has it",
            help="Smallest label probability x mask quality of the main task, in place of all thresholds of the "
            "filter: --score 0 shows all detections but duplicates.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=32, max=100_000, metavar="PIXELS", show_default="none",
            help="Cut larger images into tiles of this side, for objects that are small in them. Best where objects "
            "are as large, compared with a tile, as in the training images.",
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.9, show_default=str(OVERLAP), help="Share of a tile that the next one shows too, at least."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:1.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Images at a time.")] = 8,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile a `.safetensors` first, a minute or more; for thousands of images."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the outputs of another run in DIR, and start again.")
    ] = False,
) -> None:  # fmt: skip
    """Predict on images and videos, and write the predictions in the formats of other tools.

    Examples:

        mtseg predict shots/ --weights segmenter.safetensors

        mtseg predict 'shots/**/*.png' film.mp4 --weights segmenter.onnx --out found --format csv,labelme --save-images

        mtseg predict aerial.tif --weights segmenter.onnx --tile 512 --overlap 0.2

    The rules of the model's filter apply (see `mtseg info FILE`); how many detections each removed is printed at the
    end. --score replaces those on labels, min_score, min_logit and drop_background, and leaves those on masks:
    largest_component, min_area, nms and most.

    Images are rotated by their EXIF data. Where images of several sources have the same name, the names of all begin
    with the folders above. Images in DIR, and those that --save-images has drawn elsewhere, are left out.

    Ctrl-C stops after the current batch of images or tiles; the same command continues there, and its outputs are those
    of an unbroken run. A run that is finished is not repeated: with further --format only these are written.
    DIR/run.json records its settings.

    Images that cannot be read are reported, skipped, and listed in DIR/failed.csv.

    Exit codes: 0 all images are predicted; 1 an error, or no image could be read; 2 some images were skipped; 130
    interrupted.
    """
    from mtseg.core import metadata
    from mtseg.core.errors import UserError
    from mtseg.inference import export, folder, overlay_files
    from mtseg.inference.result import counted, filter_line

    formats = sorted({name.strip() for name in format.split(",")} - {""})
    if unknown := [name for name in formats if name not in export.FORMATS]:
        raise UserError(f"--format: there is no format '{unknown[0]}', valid: {', '.join(export.FORMATS)}")
    if not formats and not save_images:
        raise UserError(f"--format: name at least one of {', '.join(export.FORMATS)}")
    if overlap is not None and not tile:
        raise UserError("--overlap is that of tiles: add --tile PIXELS, or leave it out")
    overlap = OVERLAP if overlap is None else overlap
    known = metadata.read(weights)
    files = folder.gather(sources, out)
    for name in formats:
        export.check(name, [file.name for file in files], known.predicted_tasks())
    if save_images:
        overlay_files.check((file.name for file in files), out / folder.OVERLAYS)
    options = {"score": score, "batch": batch} | ({"tile": tile, "overlap": overlap} if tile else {})
    settings = {"version": known.version, "device": device, "save_images": save_images, "tile": None} | options
    settings |= {"compile": True} if compile else {}
    run = folder.Run(out, folder.settings(weights, files, **settings), overwrite=overwrite)
    if run.finished:
        lacking = run.lacking(formats)
        if lacking or run.parts.exists():  # which a run that was killed at its end has left
            with run.started():
                run.finish(lacking, known.predicted_tasks())
        run.tidy()
        done = f"only --format {','.join(lacking)} was written" if lacking else "nothing to do"
        print(f"{out} is finished already: {done}", file=sys.stderr)
    else:
        loading = {"device": device, "compile": compile}
        _predict(run, files, weights, formats, options, loading, save_images=save_images)
    if not run.images:
        raise UserError(f"none of {counted(len(run.failed), 'image')} could be read: see {out / folder.FAILED}")
    skipped = f", {len(run.failed)} skipped (see {folder.FAILED})" if run.failed else ""
    print(f"{counted(run.images, 'image')}, {counted(run.predictions, 'prediction')}{skipped}")
    print(filter_line(run.removed, run.empty, run.images))
    if run.empty and run.removed and score != 0:
        print("try --score 0, which shows what the filter's thresholds removed")
    shown = [name for name in run.outputs if name != folder.KEPT]
    print(f"{out}: {', '.join(shown + [folder.OVERLAYS] * save_images)}")
    if run.failed:
        raise typer.Exit(SOME_SKIPPED)


def _predict(
    run: Run, files: list[File], weights: Path, formats: list[str], options: dict[str, Any], loading: dict[str, Any], *,
    save_images: bool,
) -> None:  # fmt: skip
    """What is left of the run. options: of `Predictor.stream`. loading: of `mtseg.load`. Raises typer.Exit when it is
    interrupted."""
    import mtseg

    predictor = mtseg.load(weights, **loading)
    if run.damaged:
        fault = "damaged, or a part before it is missing"
        print(f"{run.damaged[0]} is {fault}: images from number {run.done + 1} on are predicted again", file=sys.stderr)
    with run.started():
        _predict_left(run, predictor, files, options, save_images=save_images)
        run.finish(formats, predictor.tasks)


def _predict_left(
    run: Run, predictor: Predictor, files: list[File], options: dict[str, Any], *, save_images: bool
) -> None:
    from mtseg.core.signals import interrupts_held
    from mtseg.inference import sources
    from mtseg.inference.result import counted

    failed = []  # of this batch alone: all of it is saved, or nothing
    with _Progress(sum(file.count() for file in files), run.done) as progress, interrupts_held() as interrupted:

        def skip(name: str, error: UserError) -> None:
            failed.append({"file_name": name, "error": " ".join(str(error).split())})
            progress.print(f"skipped: {failed[-1]['error']}")

        def on_tiles(done: int, count: int) -> None:
            progress.tiles(done, count)
            if interrupted():  # a large image takes minutes
                raise KeyboardInterrupt

        def propose_tiles(results: list[Result]) -> bool:
            for one in results:
                sides, size = (one.images.width[0], one.images.height[0]), predictor.metadata.input.size
                if max(sides) > LARGE * size:
                    progress.print(
                        f"note: {one.images.file_name[0]} has {sides[0]} x {sides[1]} pixels, and the network sees "
                        f"{size} x {size}: if objects are small in such images, try --tile"
                    )
                    return True
            return False

        def counting_frames() -> Iterator[Source]:
            for one in sources.find(files):
                frames[one.name.rpartition("#")[0]] += 1
                yield one

        proposed = tiled = "tile" in options
        frames: Counter[str] = Counter()  # by video
        try:
            left = islice(counting_frames(), run.done, None)
            for some in sources.batches(left, 1 if tiled else options["batch"]):
                calls = {"on_error": skip, "on_tiles": on_tiles}
                found = list(predictor.stream(some, **options, **calls, first=run.next_id))
                proposed = proposed or propose_tiles(found)
                run.add(found, failed, overlays=save_images)
                failed.clear()
                progress.advance(len(some))
                if interrupted():
                    break
        except KeyboardInterrupt:
            pass  # the batch that is not finished is predicted again
        finally:
            run.save()
        if interrupted():
            progress.print(f"interrupted after {counted(run.done, 'image')}: the same command continues there")
            raise typer.Exit(INTERRUPTED)
        for file in files:
            count, stated = frames[file.name], file.count()
            if 0 < count < NEARLY * stated:
                progress.print(f"note: {file.path} ends after {count} of its {stated} frames: is it cut off?")


class _Progress:
    """Progress on stderr: a bar in a terminal, lines elsewhere. total: of images. done: of an earlier run."""

    def __init__(self, total: int, done: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.total, self.before, self.done = total, done, done
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    def __enter__(self) -> _Progress:
        self.bar.start()
        self.task = self.bar.add_task("", total=self.total, completed=self.done)
        self.started = self.shown = time.monotonic()
        self._line(f"{self.done}/{self.total} images")
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        if self.done > self.before:
            self.print(f"{self.done}/{self.total} images, {self._rate()}")

    def advance(self, count: int) -> None:
        self.done += count
        self.bar.update(self.task, completed=self.done, description=self._rate())
        if time.monotonic() - self.shown >= SECONDS:
            self.shown = time.monotonic()
            self._line(f"{self.done}/{self.total} images, {self._rate()}")

    def tiles(self, done: int, total: int) -> None:
        """Of the image after those that are done."""
        text = f"tile {done} of {total}"
        self.bar.update(self.task, completed=self.done + done / total, description=text)
        if time.monotonic() - self.shown >= SECONDS:
            self.shown = time.monotonic()
            self._line(f"{self.done}/{self.total} images, {text} of the next")

    def print(self, text: str) -> None:
        from mtseg.core.errors import one_line

        self.console.print(one_line(text))

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.print(text)

    def _rate(self) -> str:
        return f"{(self.done - self.before) / max(time.monotonic() - self.started, 1e-9):.1f} images/s"
