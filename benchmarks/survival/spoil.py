"""Ways to damage a file that a stage has written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

Spoil = Callable[[Path], None]


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def first_bytes(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(b"\0" * 64 + content[64:])


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def foreign_pickle(path: Path) -> None:
    torch.save({"network": {}, "step": 3}, content := io.BytesIO())
    path.write_bytes(content.getvalue())


def foreign_table(path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), path)


def written(content: bytes) -> Spoil:
    return lambda path: path.write_bytes(content) and None


def gone(path: Path) -> None:
    path.unlink()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


EMPTY = written(b"")
STATES = {
    "half of it": half, "a bit": a_bit, "its first bytes": first_bytes, "longer": longer, "a folder": folder,
    "a link to itself": loop, "a link to nothing": dangling, "another pickle": foreign_pickle, "text": written(b"text"),
    "empty": EMPTY, "removed": gone, "a FIFO": fifo,
}  # fmt: skip
LOCKS = {"empty": EMPTY, "other JSON": written(b"[1]"), "text": written(b"\xff\xfe{"), "removed": gone}
ARTIFACTS = {
    "half of it": half, "its first bytes": first_bytes, "another table": foreign_table, "empty": EMPTY,
    "[]": written(b"[]\n"), "{}": written(b"{}\n"), "null": written(b"null\n"), "text": written(b"a text\n"),
    "a CSV of other columns": written(b"a,b\n1,2\n"), "bytes": written(bytes(range(256)) * 4), "removed": gone,
    "a list in a list": written(b'[[1, {"a": [null]}]]'), "a folder": folder, "a FIFO": fifo,
}  # fmt: skip
