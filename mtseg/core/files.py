"""Read and write files. A file or folder is written under a temporary name next to the target, then renamed.

The temporary name is fixed, so the next run overwrites what a killed run left behind.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import re
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mtseg.core.errors import UserError, is_pipe

if TYPE_CHECKING:
    import PIL.Image

MOST_SYNCED = 100
UNSYNCED = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}  # of file systems that cannot, of folders at least

TEXT_COLUMNS = ("task", "class", "label", "metric", "ranking", "stage", "rule")  # of the stages' tables

# the start of a formula, after any apostrophes: `without_formulas` adds one, which can be removed without doubt
FORMULA = re.compile(r"'*[=+\-@\t\r\n](?s:.)")


@contextmanager
def replace_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path (same suffix, same folder) to write to; it becomes `path` if the block succeeds."""
    path, temporary = _begun(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        remove(temporary)


def check_file(path: Path | str) -> None:
    """Raise the error that `replace_file` would raise after long work: that the file cannot be written."""
    _, temporary = _begun(path)
    remove(temporary)


def check_folder(path: Path | str) -> None:
    """The same for `replace_folder`."""
    path, temporary = _names(path)
    with _creating(path):
        temporary.mkdir()
    remove(temporary)


@contextmanager
def replace_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; it becomes `path`, the old one removed, if the block succeeds."""
    path, temporary = _names(path)
    with _creating(path):
        temporary.mkdir()
    old = path.with_name(f".old-{path.name}")
    _put_back(old, path)
    try:
        yield temporary
        if path.exists():
            path.rename(old)  # a folder cannot be renamed onto one that is not empty
        temporary.rename(path)
    finally:
        remove(temporary)
        _put_back(old, path)


def _put_back(old: Path, path: Path) -> None:
    """Rename the old folder back if what was to replace it is not there, or remove it."""
    if old.exists() and not path.exists():
        old.rename(path)
    remove(old)


def sync(path: Path) -> None:
    """Wait until a file or folder, with its name, is on the disk: for outputs whose source, such as the state of a
    training, is removed next, since a power failure could leave the removal alone. Each file takes milliseconds: of a
    folder with a file for each image the first are waited for, from the outermost, and tables are among these."""
    inside = sorted((len(one.parts), one) for one in path.rglob("*"))[:MOST_SYNCED]
    for one in (*(one for _, one in inside), path, path.parent):
        opened = os.open(one, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in UNSYNCED:
                raise
        finally:
            os.close(opened)


def write_json(path: Path | str, value: Any, *, indent: int | None = 1) -> None:
    """Write deterministic JSON: keys sorted, UTF-8, a newline at the end; `indent=None` packs it into one line.

    Raises ValueError on NaN or infinity, which JSON does not have.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        allow_nan=False,
        ensure_ascii=False,
        indent=indent,
        separators=(",", ":") if indent is None else None,
    )
    with replace_file(path) as temporary:
        temporary.write_bytes(f"{text}\n".encode())


def write_json_array(path: Path | str, values: Iterable[Any]) -> None:
    """Write the same bytes as `write_json` with `indent=None`, but one value at a time to save memory."""
    encode = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, value in enumerate(values):
            file.write("," * bool(number) + encode(value))
        file.write("]\n")


def write_json_with(path: Path | str, first: str, values: Iterable[Any], rest: Mapping[str, Any]) -> None:
    """Write the same bytes as `write_json` of `{first: values} | rest` with `indent=None`, but one of the values at a
    time to save memory. `first` must come before the other keys in alphabetical order. Arrays are written as lists. The
    bytes are the same for numbers from 1e-4 to 1e16; values are not checked for NaN."""
    import orjson  # of the extra `pipeline`; three times as fast

    assert all(first < key for key in rest)
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY

    def encode(value: Any) -> bytes:
        return orjson.dumps(value, default=np.frombuffer, option=options)

    with replace_file(path) as temporary, temporary.open("wb") as file:
        file.write(b"{%s:[" % encode(first))
        for number, value in enumerate(values):
            file.write(b"," * bool(number) + encode(value))
        file.write(b"".join([b"]", *(b",%s:%s" % (encode(key), encode(rest[key])) for key in sorted(rest)), b"}\n"]))


def write_image(path: Path, image: PIL.Image.Image, format: str, **options: Any) -> None:
    """Write an image with the options of Pillow's `save`, which does not notice that a disk becomes full in the middle
    of a JPEG: it ignores that fewer bytes were written."""
    image.save(content := io.BytesIO(), format, **options)
    path.write_bytes(content.getvalue())


def write_table(path: Path | str, rows: Sequence[dict[str, Any]] | pd.DataFrame, columns: Sequence[str] | None = None):
    """Write rows as CSV, with an empty cell for None and NaN. columns: by default the rows' keys."""
    table = without_formulas(pd.DataFrame(rows, columns=columns))
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table.to_csv(file, index=False, lineterminator="\n")  # pandas would take a path like `file:a` for a URL


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before text that spreadsheets would run as a formula, such as a class `=1+1`. An RLE
    stays as it is: it is no text of the user's, and other tools read it. `parse_table` removes the apostrophe."""
    table = table.copy(deep=False)
    for name in [name for name in table.select_dtypes(exclude=["number", "bool"]) if name != "rle"]:
        texts = [text for text in table[name].unique() if isinstance(text, str) and FORMULA.match(text)]
        if texts:
            table[name] = table[name].replace(texts, [f"'{text}" for text in texts])
    return table


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable garbage collection. It is slow while millions of objects are created and none is freed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(path: Path | str, made_by: str | None = None, keys: Sequence[str] | None = None) -> Any:
    """Read a JSON file. keys: that its object must have, `()` for any object; a list of keys if the file is a list, of
    objects that each must have them. Raises UserError if it cannot be read, is not JSON or not such; the message names
    the stage `made_by`."""
    with _reading(path, "valid JSON", made_by), uncollected():
        value = json.loads(Path(path).read_bytes())
    if keys is None:
        return value
    listed = isinstance(keys, list)
    with _reading(path, "a file of this version", made_by):
        if not isinstance(value, list if listed else dict):
            raise ValueError(f"{'a list' if listed else 'an object'} is expected")
        for each in value if listed else [value]:
            _has(each if isinstance(each, dict) else (), keys)
    return value


def parse_table(source: Any, sep: str = ",", only: Sequence[str] | None = None) -> pd.DataFrame:
    """A table from a path or an open file. Only an empty cell is NaN: a class may be called "none" or "NA". only: the
    columns that are read. Raises ValueError if it is not a table."""
    table = pd.read_csv(source, sep=sep, keep_default_na=False, dtype=str, usecols=only)
    numeric = [name for name in table if name not in TEXT_COLUMNS]
    texts = [name for name in table if name in TEXT_COLUMNS]
    for name in texts:
        marked = {text: text[1:] for text in table[name].unique() if text[:1] == "'" and FORMULA.match(text[1:])}
        table[name] = table[name].replace(marked) if marked else table[name]
    table[numeric] = table[numeric].apply(pd.to_numeric, errors="coerce")
    return table


def read_table(
    path: Path | str, made_by: str, keys: Sequence[str] = (), only: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a .csv or .tsv file as `parse_table` does. keys: columns that it must have. Raises UserError if it cannot be
    read, is not a table or lacks a column; the message names the stage `made_by`."""
    with _reading(path, "a table", made_by):
        table = parse_table(path, "\t" if Path(path).suffix == ".tsv" else ",", only)
    with _reading(path, "a table of this version", made_by):
        _has(table, keys)
    return table


def _has(known: Container[str], keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in known]:
        raise ValueError(f"'{missing[0]}' is missing")


@contextmanager
def _reading(path: Path | str, kind: str, made_by: str | None) -> Iterator[None]:
    """Report errors of reading a file as UserErrors."""
    first, again = (f": run `dvc repro {made_by}` {when}" if made_by else "" for when in ("first", "again"))
    if is_pipe(path):
        raise UserError(f"{path} is a pipe or a device, not a file{again}")
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing{first}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}){again}") from None
    except (ValueError, RecursionError) as error:  # broken contents, bytes that are not text, nested too deep
        raise UserError(f"{path} is not {kind} ({' '.join(str(error).split())}){again}") from None


def _names(path: Path | str) -> tuple[Path, Path]:
    """The target path and its temporary path. Creates the parent folder and removes an old temporary file."""
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    with _creating(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
    return path, temporary


def _begun(path: Path | str) -> tuple[Path, Path]:
    """The same for a file, whose temporary one is created."""
    path, temporary = _names(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another name for the file")
    with _creating(path):
        temporary.touch()
    return path, temporary


@contextmanager
def _creating(path: Path) -> Iterator[None]:
    """Errors name the path that the user knows."""
    try:
        yield
    except FileNotFoundError:  # though its folder is there: a file system of the kernel's, such as /proc
        raise UserError(f"{path} cannot be created, as its file system does not allow it: write elsewhere") from None
    except OSError as error:
        error.filename = error.filename.replace(f".tmp-{path.name}", path.name)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
