"""The files of a raw folder, which of them is the image that an annotation names, and what must not be opened."""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote

from mtseg.core.errors import UserError, quoted
from mtseg.core.names import unscrambled
from mtseg.data.images import DECODE_ERRORS, open_lazily, pillow, suffixes
from mtseg.data.raw import MEGAPIXELS, BadRecord, check_megapixels

# leading folders of a stated file name that tools add, and that need not exist
LAYOUT = {"", ".", "data", "image", "images", "img", "imgs", "jpegimages", "upload"}
ANNOTATIONS = ("", ".csv", ".json", ".jsonl", ".lst", ".tsv", ".txt", ".xml", ".yaml", ".yml")
SCHEME = "[A-Za-z][A-Za-z0-9+.-]+://"
SYSTEM, MEMORY = ("/dev/", "/proc/", "/sys/"), "/dev/shm/"  # folders without end, and one of common files among them
POINTER = b"version https://git-lfs"
LOST = "lost+found"  # of a disk, only for root to read
NO_DATA = "a pipe, a device or a file of the system, and no data: remove it"


class Files:
    """The files of a folder and its subfolders, also linked ones, except hidden ones. Names are relative, with `/`.

    Links are followed and not resolved: DVC may link files into the folder. A link to a folder above it is not
    followed: it would have no end. Which links are allowed: `check_files`. Raises UserError for a folder that cannot be
    read."""

    def __init__(self, folder: Path, max_megapixels: float = MEGAPIXELS) -> None:
        self.folder, self._max_megapixels = folder, max_megapixels
        self.names: list[str] = []
        above = {str(folder): (os.path.realpath(folder),)}  # by folder: the real path of itself, and of those above it
        for path, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            own = above.pop(path)
            for name in folders:
                inside = os.path.join(path, name)
                real = os.path.realpath(inside) if os.path.islink(inside) else os.path.join(own[0], name)
                if not name.startswith(".") and real not in own and not _of_system(real):
                    above[inside] = (real, *own)
            folders[:] = [name for name in folders if os.path.join(path, name) in above]
            place = Path(path).relative_to(folder).as_posix()
            self.names += [_normal(f"{place}/{name}") for name in names if not name.startswith(".")]
        self.names.sort()
        self._known = frozenset(self.names)
        known = suffixes()
        self.images = {name for name in self.names if suffix_of(name).lower() in known}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def ending(self, *suffixes: str) -> list[str]:
        """Files with one of the suffixes, in lower or upper case."""
        return [name for name in self.names if name.lower().endswith(suffixes)]

    def folders(self, name: str) -> list[str]:
        """Folders of this name, in any case and at any depth, that contain files."""
        parents = dict.fromkeys(str(parent) for file in self.names for parent in PurePosixPath(file).parents)
        return [parent for parent in parents if PurePosixPath(parent).name.lower() == name.lower()]

    def file(self, path: str) -> str | None:
        """The file of this path, or the only one whose path differs in case or Unicode composition."""
        return self._at(path, self._known)

    def image(self, stated: Any, places: Sequence[str]) -> str:
        """The image that an annotation names: a path below one of `places`, or an absolute path, of another computer,
        or a URL, whose last parts are. Case and Unicode composition may differ if only one image fits. Raises
        BadRecord."""
        if not isinstance(stated, str) or not stated.strip():
            raise BadRecord("missing image", f"the file name of the image is {quoted(stated)}, expected text")
        if stated.startswith("data:"):
            fix = "save it as one, and state its name there"
            raise BadRecord(
                "embedded image", f"the image is embedded in the annotations (base64) and not a file: {fix}"
            )
        tails = list(_tails(stated.strip()))
        for tail in tails:
            for place in places:
                if found := self._at(f"{place}/{tail}", self.images):
                    return found
        for tail in tails:
            for place in places:
                if other := self._at(f"{place}/{tail}", self._known):
                    kind = PurePosixPath(other).suffix or "such"
                    reason = f"{other} exists, but Pillow does not read {kind} files: convert it to PNG or JPEG"
                    raise BadRecord("missing image", reason)
        looked = ", ".join(dict.fromkeys(f"{place}/" if place != "." else "data.raw" for place in places))
        hint = self._hint(PurePosixPath(tails[0]).name)
        raise BadRecord("missing image", f"no image {quoted(stated)} in {looked}{hint}")

    def _hint(self, name: str) -> str:
        """For a message: where an image that was not found may be."""
        for text, known, key in (
            ("an image of this name is in another folder", self._by_name, name),
            ("an image of this name has another suffix", self._by_stem, os.path.splitext(name)[0]),
            ("an image of this name was unpacked in another encoding", self._by_spelling, name),
            ("this name was read in another encoding, and there is an image", self._by_name, unscrambled(name) or name),
        ):
            if found := known.get(_folded(key)):
                return f"; {text}, {found[0]}: state its path below data.raw, if it is the one"
        archives = self.ending(".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
        return f"; {archives[0]} is an archive, and not read: unpack it" if archives else ""

    def of_stem(self, stem: str) -> list[str]:
        """All images of a name without suffix, in any folder."""
        return self._by_stem.get(_folded(stem), [])

    def image_of_stem(self, stem: str, preferred: str = "") -> str | None:
        """The image of this name without suffix; of several, the one whose file name is `preferred`. Raises BadRecord
        if there are several and none is preferred."""
        found = self._stems.get(stem) or self._folded_stems.get(_folded(stem), [])
        if len(found) > 1:
            found = [name for name in found if PurePosixPath(name).name == preferred] or found
        if len(found) > 1:
            raise BadRecord("ambiguous image", f"several images have this name: {', '.join(found)}")
        return found[0] if found else None

    def beside(self, where: str) -> list[str]:
        """The files in the same folder and with the same name but for the suffix, itself included."""
        start = os.path.splitext(where)[0] + "."
        return [name for name in self.names if name.startswith(start) and "/" not in name[len(start) :]]

    def size(self, image: str) -> tuple[int, int]:
        """Height and width of an image after rotation by its EXIF data. Raises BadRecord, also for too large an image:
        masks are drawn in this size."""
        try:
            with open_lazily(self.folder / image, sys.maxsize) as opened:
                width, height = opened.size
                check_megapixels(PurePosixPath(image).name, width, height, self._max_megapixels)
                with pillow():
                    rotated = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except FileNotFoundError:
            raise BadRecord("missing image", f"{image} is a link to a file that does not exist") from None
        except DECODE_ERRORS as error:
            raise BadRecord("broken image", f"{image} does not decode: {error}") from None
        return (width, height) if rotated else (height, width)

    @cached_property
    def image_names(self) -> set[str]:
        """Names of the images, without folders."""
        return {PurePosixPath(name).name for name in self.images}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: _folded(PurePosixPath(name).name))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: _folded(PurePosixPath(name).stem))

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        names = [name for name in self.images if unscrambled(PurePosixPath(name).name)]
        return _grouped(names, lambda name: _folded(unscrambled(PurePosixPath(name).name) or name))

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: os.path.splitext(name)[0])

    @cached_property
    def _folded_stems(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: _folded(os.path.splitext(name)[0]))

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        return _grouped(self.names, _folded)

    def _at(self, path: str, names: Set[str]) -> str | None:
        path = _normal(path)
        if path in names:
            return path
        found = [name for name in self._alike.get(_folded(path), ()) if name in names]
        return found[0] if len(found) == 1 else None


def check_files(folder: Path, *, follow_links: bool, most: float) -> Files:
    """The files of a folder. Raises UserError for what readers must not open: links out of the folder, unless they are
    to be followed; pipes, devices and files of the system, which may never end; annotation files above `most`
    megabytes; and for names that are not UTF-8, which no annotation can state."""
    root = os.path.realpath(folder)
    _check_links(folder, root, follow_links)
    files = Files(folder)
    for name in files.names:
        path = f"{folder}/{name}"
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{path}: the name is not UTF-8: rename it, for example with convmv -t utf8 -r {folder}")
        try:
            facts = os.stat(path)
        except OSError:
            if suffix_of(name).lower() in ANNOTATIONS[1:]:  # a link without suffix may be of a folder
                raise UserError(f"{path} is a link to nothing: restore its file, or remove it") from None
            continue  # a missing image, if an annotation names it
        if facts.st_size < 200 and stat.S_ISREG(facts.st_mode) and Path(path).read_bytes().startswith(POINTER):
            raise UserError(f"{path} is a pointer of Git LFS, and not the file: run `git lfs pull` in its repository")
        system = os.path.realpath(path) if follow_links else root
        if not stat.S_ISREG(facts.st_mode) or _of_system(system):
            raise UserError(f"{path} is {NO_DATA}")
        if facts.st_size > most * 1e6 and suffix_of(name).lower() in ANNOTATIONS:
            size = f"{facts.st_size / 1e6:,.0f} MB"
            raise UserError(
                f"{path} has {size}: split so large an annotation file, or raise data.max_file_mb ({most:g}); if it is "
                "none, remove it"
            )
    return files


def _refuse(error: OSError) -> None:
    if os.path.basename(error.filename) == LOST:
        return
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): grant the right to read it, or remove it")


def _of_system(real: str) -> bool:
    """Whether a real path is a device or a file of the system."""
    return f"{real}/".startswith(SYSTEM) and not real.startswith(MEMORY)


def _check_links(folder: Path, root: str, follow: bool) -> None:
    for path, folders, names in os.walk(folder):
        for name in [name for name in (*folders, *names) if os.path.islink(os.path.join(path, name))]:
            place = os.path.join(path, name)
            real = os.path.realpath(place)
            if name.startswith(".") or not os.path.exists(real):
                continue
            if _of_system(real):
                raise UserError(f"{place} is {NO_DATA}")
            if not follow and not Path(real).is_relative_to(root):
                raise UserError(
                    f"{place} is a link to {real}, outside {folder} (data.raw): copy the files into the folder, or set "
                    "data.follow_links: true if all links in it are yours, as those of DVC's cache.type symlink are"
                )


def _tails(stated: str) -> Iterator[str]:
    """Relative paths that a stated file name can mean, the most literal first."""
    for name in dict.fromkeys((stated, unquote(stated), unquote(stated.replace("+", " ")))):
        name = _in_query(name).replace("\\", "/")
        if stored := re.match(r".*/media/upload/\d+/", name):  # Label Studio's own folder
            name = "/" + name[stored.end() :]
        else:
            name = _path(name)
        absolute = bool(re.match(r"/|[A-Za-z]:/", name))
        rest = re.sub(r"^[A-Za-z]:/|^/+", "", name)
        yield rest
        while "/" in rest:
            first, rest = rest.split("/", 1)
            if not absolute and first.lower() not in LAYOUT:
                break
            yield rest


def _in_query(address: str) -> str:
    """The file that the query of an address names, as Label Studio's /data/local-files/?d=, /storage-data/uploaded/
    ?filepath= and, in base64, /tasks/1/resolve/?fileuri= do; else the address."""
    path, _, query = address.partition("?")
    if not re.match(rf"/.*/$|{SCHEME}", path) or _is_image(path):
        return address
    for key, value in parse_qsl(query):
        if key == "fileuri":
            with suppress(ValueError):
                value = urlsafe_b64decode(value + "==").decode()
        if _is_image(value):
            return f"/{_path(value)}"
    return address


def _path(address: str) -> str:
    """The path of a URL; any other address as it is."""
    found = re.match(rf"{SCHEME}[^/?#]*([^?#]*)", address)
    return found[1] if found else address


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in suffixes()


def suffix_of(path: str) -> str:
    """That of PurePosixPath, in a tenth of the time. path: without a slash at its end."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(key(name), []).append(name)
    return groups


def _normal(path: str) -> str:
    return os.path.normpath(path).replace(os.sep, "/")


def _folded(name: str) -> str:
    """Equal for names that differ in case or in Unicode composition only: macOS decomposes accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", name).casefold()
