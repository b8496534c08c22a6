"""Predictions of any number of images into a folder, in parts, so that an interrupted run continues where it stopped.

In the folder are `run.json`, by which it is known again, and while a run is unfinished `.parts/`, with a folder of
tables for each span of images. At the end all formats are written from the parts: it makes no difference to them how
often a run was interrupted. `.tables/` keeps what they say, for further formats. Parts that are damaged, as a power
failure leaves them, or missing are predicted again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from mtseg.core.errors import UserError
from mtseg.core.files import read_json, replace_folder, sync, write_json, write_table
from mtseg.core.params import Task
from mtseg.core.tables import Images, Predictions
from mtseg.core.work import locked
from mtseg.inference import export, overlay_files
from mtseg.inference.result import Result
from mtseg.inference.sources import File, files

PART, SECONDS = 256, 20  # a part is saved after so many images or so much time
RUN, PARTS, OLD, KEPT = "run.json", ".parts", ".old-parts", ".tables"
FAILED, OVERLAYS = "failed.csv", "images"
SPAN = ("images", "empty", "removed", "failed")  # in span.json, with the hashes of the part's tables
RECORDED = (*SPAN, "settings", "outputs", "predictions", "formats")  # in run.json, of a finished run
HASHES = ("weights", "images")  # of the settings


def gather(sources: Sequence[str], out: Path) -> list[File]:
    """The files of all sources, in their order, without those in `out` and without repetition of a file.

    Where two have the same name, the names of all are preceded by as many of the folders above as distinguish them.
    Raises UserError for a source without an image.
    """
    found: dict[Path, File] = {}
    outputs = Path(os.path.realpath(out))  # unlike Path.resolve, also of a link that leads back to itself
    for file in chain.from_iterable(map(files, sources)):
        # Folders are resolved, since `..` may follow a link. The file is not: two links to one file are two images.
        whole = file.path.parent.resolve() / file.path.name
        if not whole.is_relative_to(outputs):
            found.setdefault(whole, file)
    if not found:
        raise UserError(f"{', '.join(sources)}: all images are in {out}, the folder of outputs: choose another --out")
    named = list(found.values())
    depth = 0
    while len({file.name for file in named}) < len(named):
        depth += 1
        folders = {whole: depth + file.name.count("/") + 1 for whole, file in found.items()}
        named = [File(file.path, "/".join(whole.parts[1:][-folders[whole] :])) for whole, file in found.items()]
    return named


def settings(weights: Path, files: Iterable[File], **others: Any) -> dict[str, Any]:
    """What the predictions depend on, as JSON values: hashes of the model and of the images' list, with their sizes and
    times of change, and `others`."""
    listing = hashlib.sha256()
    for one in files:
        try:
            facts = one.path.stat()
            state = f"{facts.st_size}\t{facts.st_mtime_ns}"
        except OSError:  # a link to nowhere, or gone since the folder was listed: it will be skipped
            state = "gone"
        listing.update(f"{os.path.realpath(one.path)}\t{one.name}\t{state}\n".encode(errors="surrogateescape"))
    return {"weights": _sha256(weights), "images": listing.hexdigest()} | others


class Run:
    """A run in its folder. done: number of images that are finished, the unreadable ones included. images: number of
    those that were read, empty: of those without a prediction. removed: see `Result`. failed: name and error of the
    images that were not read. finished: whether all images are predicted, and formats written. damaged: the parts that
    are predicted again."""

    def __init__(self, out: Path, settings: Mapping[str, Any], *, overwrite: bool = False):
        """Find out how far the run is; nothing is changed before `start`. overwrite: then delete the outputs of another
        run. Raises UserError when the folder holds a run with other settings, unless `overwrite`, or anything but a
        run."""
        self.out, self.settings, self.parts = out, dict(settings), out / PARTS
        self._results: list[Result] = []
        self._saved = time.monotonic()
        self._failed: list[dict[str, str]] = []
        record = self._record(overwrite)
        begun = record and record["settings"] == self.settings and record["outputs"] is None
        overwrite = overwrite and not begun  # of an interrupted run with --overwrite, the same command continues it
        self._old = record if overwrite else None
        if record and not overwrite and (other := list(_differences(record["settings"], self.settings))):
            raise UserError(
                f"{out} holds a run with {'; '.join(other)}: choose another folder, or start again with --overwrite"
            )
        if record and not overwrite and record["outputs"] is not None and not {*RECORDED} <= {*record}:
            raise UserError(f"{out} holds a run of an older mtseg: choose another folder, or add --overwrite")
        if overwrite or not record:
            record = {"outputs": None}
        self.outputs = record["outputs"]
        self.finished = self.outputs is not None and ((out / KEPT).exists() or not self.parts.exists())
        self.formats = record["formats"] if self.finished else []
        self._found, self.damaged = self._spans(), []
        if self.finished:
            self.predictions, spans = record["predictions"], [record]
        elif overwrite:
            spans = []
        else:
            spans = list(_unbroken(self._found))
            self.damaged = self._found[len(spans) :]  # the later ones too: ids of images ascend from part to part
        self.images, self.empty = (sum(span[key] for span in spans) for key in ("images", "empty"))
        self.failed = [one for span in spans for one in span["failed"]]
        self.removed = sum((Counter(span["removed"]) for span in spans), Counter())
        self.done = self.images + len(self.failed)

    def _record(self, overwrite: bool) -> dict[str, Any] | None:
        """The content of run.json; None when the folder is empty or does not exist. overwrite: of a damaged one what is
        to be deleted."""
        if str(self.out) != str(self.out).encode(errors="ignore").decode():
            raise UserError(f"{self.out}: the name of this folder is not UTF-8: choose another")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out} is a file, expected a folder")
        begun = f".tmp-{RUN}"  # of a run that was killed while it wrote its first file
        if not self.out.is_dir() or {path.name for path in self.out.iterdir()} <= {begun}:
            return None
        with suppress(UserError):
            record = read_json(self.out / RUN, keys=("settings", "outputs"))
            if isinstance(record["settings"], dict):
                return record
        if not (self.out / RUN).is_file() or not (self.parts.exists() or (self.out / KEPT).exists()):
            raise UserError(f"{self.out} is not empty and holds no run of `mtseg predict`: choose another folder")
        if not overwrite:
            raise UserError(f"{self.out / RUN} is damaged: choose another folder, or start again with --overwrite")
        written = [export.path(name, self.out).name for name in export.FORMATS]
        return {"settings": {}, "outputs": [KEPT, FAILED, *written]}

    @contextmanager
    def started(self) -> Iterator[None]:
        """Around all that is written to the folder. Raises UserError when another process writes there, or has done so
        since this object was made."""
        begun = {"settings": self.settings, "outputs": None}
        if not (self.out / RUN).exists():
            self._write(begun)
        with locked(self.parts, self._refuse):
            if self._old:
                for path in [*self._spans(), *(self.out / name for name in self._old["outputs"] or ())]:
                    _remove(path)
                overlay_files.remove(self.out / OVERLAYS)
                self._write(begun)
            elif self._spans() != self._found or read_json(self.out / RUN)["outputs"] != self.outputs:
                raise UserError(f"{self.out}: another process has continued this run: give the command again")
            for path in self.damaged:
                _remove(path)
            self.tidy()
            yield

    def _refuse(self, other: str) -> None:
        raise UserError(f"{self.out}: {other} writes there: wait until it ends, or choose another folder")

    def _write(self, record: Mapping[str, Any]) -> None:
        """Without it no part can be used: it is on the disk before they are."""
        write_json(self.out / RUN, record)
        sync(self.out / RUN)

    def _spans(self) -> list[Path]:
        return sorted(self.parts.glob("[0-9]*"))

    def lacking(self, formats: Sequence[str]) -> list[str]:
        """Those of the formats that a finished run has not written, or whose files are gone. Raises UserError where
        nothing is kept from which they could be."""
        found = [name for name in formats if name not in self.formats or not export.path(name, self.out).exists()]
        if found and not (self.out / KEPT).exists():
            raise UserError(
                f"{self.out} holds a finished run without --format {','.join(found)}, and no {KEPT} to write it from, "
                "as an older mtseg wrote it or it was removed: choose another folder, or start again with --overwrite"
            )
        return found

    def add(self, results: Sequence[Result], failed: Sequence[dict[str, str]] = (), *, overlays: bool = False) -> None:
        """Take the next images' results, and name and error of those that were not read; on disk when a part is full,
        or by `save`. overlays: also draw them."""
        for result in results if overlays else ():
            overlay_files.write(result, self.out / OVERLAYS)
        self._results, self._failed = [*self._results, *results], [*self._failed, *failed]
        if len(self._results) + len(self._failed) >= PART or time.monotonic() - self._saved > SECONDS:
            self.save()

    @property
    def next_id(self) -> int:
        """Of the next image."""
        return self.images + len(self._results) + 1

    def save(self) -> None:
        """Write what `add` took."""
        count = len(self._results) + len(self._failed)
        if not count:
            return
        with replace_folder(self.parts / f"{self.done:012}") as folder:
            if self._results:
                joined = Result.join(self._results)
                joined.write(folder / "predictions.parquet", joined.tasks)
                joined.images.write(folder / "images.parquet")
            span = {
                "images": len(self._results),
                "empty": sum(not len(result) for result in self._results),
                "removed": sum((Counter(result.removed) for result in self._results), Counter()),
                "failed": self._failed,
            }
            hashes = {path.name: _sha256(path) for path in folder.iterdir()}
            write_json(folder / "span.json", span | {"sha256": hashes})
        self._results, self._failed, self._saved = [], [], time.monotonic()  # first: a signal could be between
        self.images += span["images"]
        self.empty += span["empty"]
        self.removed += span["removed"]
        self.failed += span["failed"]
        self.done += count

    def finish(self, formats: Sequence[str], tasks: Sequence[Task]) -> None:
        """Write these formats, also of a finished run, then remove the parts. Raises UserError when a format cannot
        carry a name; the parts stay, and the run can be finished with other formats."""
        self.save()
        places = [self.out / KEPT] if self.finished else self._spans()
        spans = [part for part in places if (part / "images.parquet").exists()]
        self.predictions = 0
        with replace_folder(self.parts / "outputs") as folder:
            if not self.finished:
                (folder / KEPT).mkdir()
            if spans:
                try:
                    images = Images.join([Images.read(part / "images.parquet") for part in spans])
                    found = Predictions.concatenate(
                        [Predictions.read(part / "predictions.parquet", tasks) for part in spans]
                    )
                except UserError as error:  # it names a stage, which would not help
                    what = str(error).partition(": ")[0]
                    raise UserError(f"{what}: choose another folder, or start again with --overwrite") from None
                self.predictions = len(found)
                for format in formats:
                    export.write(format, folder, images, found, tasks)
                if not self.finished:
                    images.write(folder / KEPT / "images.parquet")
                    found.write(folder / KEPT / "predictions.parquet", tasks)
            if self.failed:
                write_table(folder / FAILED, self.failed, ("file_name", "error"))
        written = sorted((self.parts / "outputs").iterdir())  # KEPT first: whatever is killed then can be written again
        self.outputs = sorted({*(self.outputs or ()), *(path.name for path in written)})
        self.formats = sorted({*self.formats, *formats})
        sync(self.parts / "outputs")
        self._write({name: getattr(self, name) for name in RECORDED})
        for path in written:
            _remove(self.out / path.name)
            path.rename(self.out / path.name)
        self.parts.rename(self.out / OLD)  # at once: half of the parts would be taken for an earlier state
        self.tidy()
        self.finished = True

    def tidy(self) -> None:
        """Remove the parts of a finished run, which one that was killed then may have left."""
        _remove(self.out / OLD)


def _unbroken(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What the parts say, up to the first that is damaged or not named by the images before it: one is missing."""
    done = 0
    for part in parts:
        if part.name != f"{done:012}" or not (span := _span(part)):
            return
        yield span
        done += span["images"] + len(span["failed"])


def _span(part: Path) -> dict[str, Any] | None:
    """What a part's span.json says; None if the part is damaged."""
    try:
        span = read_json(part / "span.json", keys=(*SPAN, "sha256"))
        return span if all(_sha256(part / name) == known for name, known in span["sha256"].items()) else None
    except (UserError, OSError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in new:
        if old.get(key) != new[key]:
            option = key if key == "version" else f"--{key.replace('_', '-')}"
            yield f"other {key}" if key in HASHES else f"{option} {_stated(old.get(key))}, not {_stated(new[key])}"


def _stated(value: Any) -> str:
    """The value of a command-line option."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "the default" if value is None else str(value)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
