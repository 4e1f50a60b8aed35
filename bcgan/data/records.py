"""What every data set yields: one record a patch, its bytes read only when they are asked for."""

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bcgan.errors import InputError

CLASSES = ("benign", "malignant")  # labels 0 and 1
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LARGEST_FILE = 256 * 2**20  # bytes; a larger member of an archive is taken for a decompression bomb
UNKNOWN = -1  # x and y of a patch whose place in the slide nobody recorded
PLACE = re.compile(r"(?<=.)_x(\d{1,9})_y(\d{1,9})(_.*)?$", re.DOTALL)  # as the public archive's file names have it
QUPATH = re.compile(
    r"(?P<slide>.+) \[(?:d=(?P<finer>\d{1,4}(?:\.\d+)?),)?x=(?P<x>\d{1,9}),y=(?P<y>\d{1,9}),w=\d+,h=\d+"
    r"(?P<layer>(?:,[zt]=\d+)*)\](?:\.ome)?",
    re.DOTALL,
)  # as QuPath names the tiles that it exports


class Record(NamedTuple):
    """A patch before it is decoded.

    key: unique in its data set. path: where it came from, `archive.zip!member` inside an archive.
    source: the folder's or archive's name. x, y: the upper left corner in the slide, pixels at the patch's
    own scale, or UNKNOWN. given: the role that the data set's authors gave it, or "".
    read: gives the encoded image's bytes; raises OSError or ValueError where it cannot.
    """

    key: str
    path: str
    source: str
    patient: str
    label: int
    x: int
    y: int
    given: str
    read: Callable[[], bytes]


class File(NamedTuple):
    source: str
    name: str  # relative to the source, with forward slashes
    path: str
    read: Callable[[], bytes]


def image_files(places: tuple[Path, ...]) -> Iterator[File]:
    """Image files of folders and zip archives, archives inside folders too, in the order of their names.

    Raises:
        InputError: no place was given, one does not exist, or an archive cannot be opened.
    """
    if not places:
        raise InputError(
            "data.dir is empty, and this data set is not downloaded for you. "
            "Give its folder or archive: make train DATA_DIR=/path/to/data (or --data-dir)."
        )
    for place in places:
        if not place.exists():
            raise InputError(f"data.dir: {place} does not exist. Give an existing folder or zip archive.")
        if place.is_file():
            yield from _archive_files(place)
            continue
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            if path.suffix.lower() == ".zip":
                yield from _archive_files(path)
            elif _is_image(path.name):
                names = (printable(name) for name in (path.relative_to(place).as_posix(), str(path)))
                yield File(place.name, *names, _file_reader(path))


def slide_of(keys: Iterable[str]) -> list[str]:
    """The slide of each patch whose place is known: its key up to the place. A patient may have several."""
    return [PLACE.sub("", key) for key in keys]


class Place(NamedTuple):
    """x, y: the upper left corner, in the patch's own pixels. slide: the name of the slide, a layer of it with the
    layer. finer: pixels in which the slide counts, for each of the patch's own."""

    x: int
    y: int
    slide: str
    finer: float


def place_of(name: str) -> Place | None:
    """Where a patch lies, by its name; None: it does not say.

    Args:
        name: string. `<slide>_x<x>_y<y>`, whatever follows an underscore; or `<slide> [x=<x>,y=<y>,w=<w>,h=<h>]`, in
            pixels of the slide, d= before them being how many of these make one of the patch's.
    """
    if found := QUPATH.fullmatch(name):
        finer = float(found["finer"] or 1)
        x, y = (round(int(found[side]) / finer) if finer else 0 for side in "xy")
        return Place(x, y, found["slide"] + found["layer"], finer) if finer else None
    found = PLACE.search(name)
    return found and Place(int(found[1]), int(found[2]), name[: found.start()], 1.0)


def printable(name: str) -> str:
    """Bytes of a file's name that are no UTF-8, which no table could hold, as \\xff and the like."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def label_of(text: str, path: str) -> int:
    """0 (benign) or 1 (malignant) from a class folder's name or a file name's class digit."""
    label = {"0": 0, "benign": 0, "1": 1, "malignant": 1}.get(text.lower())
    if label is None:
        raise InputError(
            f"{path}: label {text!r} is none of 0, 1, benign, malignant. Rename or remove that file, or its folder."
        )
    return label


def fingerprint(places: tuple[Path, ...]) -> str:
    """A hash of what lies at the places: names, sizes and times of change, without reading the files."""
    import hashlib

    digest = hashlib.sha256()
    for place in places:
        found = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
        for path in found:
            if path.exists():  # a broken link is nobody's data
                stat = path.stat()
                digest.update(os.fsencode(f"{path.relative_to(place)} {stat.st_size} {stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _archive_files(path: Path) -> Iterator[File]:
    try:
        members = sorted(_archive(path).infolist(), key=lambda member: member.filename)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is not a readable zip archive ({error}). Fetch it again or remove it.") from error
    for member in members:
        name = member.filename
        if _is_image(name.rsplit("/", 1)[-1]) and not name.startswith("__MACOSX/"):
            yield File(path.name, name, f"{path}!{name}", _member_reader(path, member))


def _archive(path: Path) -> zipfile.ZipFile:
    return _opened(path, path.stat().st_mtime_ns)


@lru_cache(32)
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    """Open while its members are read; a thousand at once would be more files than a process may have."""
    return zipfile.ZipFile(path)


def _file_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path} holds {path.stat().st_size} bytes, more than {LARGEST_FILE}")
        return path.read_bytes()

    return read


def _member_reader(path: Path, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        if member.file_size > LARGEST_FILE:
            raise ValueError(f"{member.filename} unpacks to {member.file_size} bytes, more than {LARGEST_FILE}")
        try:
            return _archive(path).read(member)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError) as error:
            raise OSError(str(error)) from error

    return read
