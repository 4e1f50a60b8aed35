"""Image files: what arguments, folders and archives hold, one entry an image or slide."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from bcgan.errors import InputError
from bcgan.progress import log
from bcgan.slides import archives
from bcgan.slides.archives import Chain, display_path
from bcgan.slides.kinds import (
    ARCHIVE_SUFFIXES,
    HEAD,
    IMAGE_KINDS,
    IMAGE_SUFFIXES,
    KNOWN_SUFFIXES,
    SLIDE_SUFFIXES,
    has_known_suffix,
    is_hidden,
    plain_path,
    printable,
    sniff,
    strip_suffixes,
)
from bcgan.slides.series import group_files, group_series, mirax_folders

__all__ = [
    "ARCHIVE_SUFFIXES", "IMAGE_SUFFIXES", "KNOWN_SUFFIXES", "SLIDE_SUFFIXES", "Child", "ImageFile", "children",
    "find_images", "fingerprint", "image_files", "printable", "sniff", "strip_suffixes",
]  # fmt: skip
MOST_NESTED = 10_000  # archives inside one archive


class ImageFile(NamedTuple):
    """An image or a slide that was found; nothing of it is decoded.

    name: relative to the source, with forward slashes, for display.
    path: the file's path, or `archive.zip!member` and `a.zip!b.zip!member` inside archives, for display.
    source: the folder's or archive's name.
    local: the file on disk; `None` inside an archive.
    size: in bytes.
    read: returns the bytes; raises OSError or ValueError with the reason.
    parts: other files on disk of the same slide (DICOM series, MIRAX folder, VMS).
    """

    name: str
    path: str
    source: str
    local: Path | None
    size: int
    read: Callable[[], bytes]
    parts: tuple[Path, ...] = ()


class Child(NamedTuple):
    """What lies directly in a folder.

    name: the file's or folder's own name; it may hold bytes that are not UTF-8.
    path: where it lies.
    kind: of what it is.
    image: the image; `None` for a folder or an archive.
    """

    name: str
    path: Path
    kind: Literal["image", "folder", "archive"]
    image: ImageFile | None = None


class _LeftOut:
    """Counts the files that are neither images nor archives, for one line in the log."""

    def __init__(self) -> None:
        self.first, self.count = "", 0

    def add(self, path: str) -> None:
        self.first = self.first or path
        self.count += 1

    def tell(self) -> None:
        if self.count:
            log.info("%d files are no images and are left out, the first: %s", self.count, self.first)


class _Search(NamedTuple):
    """One search through folders and archives.

    strict: whether an archive that cannot be read ends it; otherwise the archive is an image that cannot be read.
    left_out: counts the files that are no images.
    visited: device and inode of the folders that were searched, so that links cannot lead in circles.
    nested: chains of the archives inside archives.
    """

    strict: bool
    left_out: _LeftOut
    visited: set[tuple[int, int]]
    nested: list[Chain]

    @classmethod
    def start(cls, strict: bool) -> "_Search":
        return cls(strict, _LeftOut(), set(), [])


def find_images(arguments: Iterable[str], listed: Iterable[str] = ()) -> list[ImageFile]:
    """Find the images that arguments name.

    Args:
        arguments: Files, folders (searched through), archives, glob patterns; "-" stands for `listed`.
        listed: Paths, one a line.

    Returns:
        The images in the order of the arguments; a folder's and an archive's in the order of their names. A file that
        is named is among them whatever it holds, and where it does not exist.

    Raises:
        InputError: An argument names nothing, or an archive that is named cannot be read.
    """
    search, images = _Search.start(strict=False), []
    for argument in arguments:
        search.visited.clear()  # a folder may be named twice, or inside another one
        if argument == "-":
            lines = (line.rstrip("\r\n") for line in listed if line.strip())
            images += [image for line in lines for image in _named(Path(line), search)]
            continue
        path = Path(argument)
        if path.is_dir() or os.path.lexists(path):
            inside = list(_named(path, search))
        else:
            inside = _matching(argument, search)
        if not inside:
            raise InputError(f"{argument}: no image there. Give files ({', '.join(KNOWN_SUFFIXES)}), folders, archives "
                             "or patterns.")  # fmt: skip
        images += inside
    search.left_out.tell()
    if not images:
        raise InputError("No image was named. Give files, folders or patterns, or - for a list on standard input.")
    unique: dict[str, ImageFile] = {}
    for image in images:
        unique.setdefault(os.path.abspath(image.local) if image.local else image.path, image)  # noqa: PTH100
    if len(unique) < len(images):
        log.warning("%d files are named more than once and are read once", len(images) - len(unique))
    return group_series(list(unique.values()))


def image_files(places: tuple[Path, ...]) -> Iterator[ImageFile]:
    """Iterate over the images of a data set's folders and archives, archives inside folders too, in name order.

    Raises:
        InputError: No place was given, one does not exist, or an archive cannot be opened.
    """
    if not places:
        raise InputError(
            "data.dir is empty, and this data set is not downloaded for you. "
            "Give its folder or archive: make train DATA_DIR=/path/to/data (or --data-dir)."
        )
    search = _Search.start(strict=True)
    for place in places:
        if not place.exists():
            raise InputError(f"data.dir: {place} does not exist. Give an existing folder or archive.")
        if place.is_dir():
            search.visited.clear()  # a place that was given twice is read twice
            yield from _folder_images(place, place, search)
        else:
            yield from _archive_images((place,), search)
    search.left_out.tell()


def children(folder: Path) -> list[Child]:
    """List the images, folders and archives that lie directly in a folder, by name.

    Files of one slide are one image; a folder of a MIRAX slide's data is left out.
    """
    search = _Search.start(strict=False)
    listing = list(_children(folder, folder, search))
    search.left_out.tell()
    return listing


def fingerprint(places: tuple[Path, ...]) -> str:
    """Return a hash of what lies at the places: names, sizes and times of change, without reading the files."""
    digest = hashlib.sha256()
    for place in places:
        for path, name in _everything(place, set()):
            stat = path.stat()
            digest.update(os.fsencode(f"{name} {stat.st_size} {stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def _everything(place: Path, visited: set[Path]) -> Iterator[tuple[Path, Path]]:
    """Iterate over all that lies at a place, with its relative path; links to folders elsewhere are followed once."""
    paths = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
    visited.add(place.resolve())
    for path in paths:
        if not path.exists():  # a broken link is nobody's data
            continue
        yield path, path.relative_to(place)
        if path.is_symlink() and path.is_dir() and not _leads_back(place, path) and path.resolve() not in visited:
            yield from _everything(path.resolve(), visited)


def _named(path: Path, search: _Search) -> Iterator[ImageFile]:
    """Iterate over the images of a folder or archive that was named; anything else is taken for an image."""
    if path.is_dir():
        yield from _folder_images(path, path, search)
    elif path.is_file() and _is_archive(path):
        archives.members((path,))  # raises InputError, whatever is done about archives in folders
        yield from _archive_images((path,), search)
    else:
        yield _image(path.absolute().parent, path, path.name)


def _matching(pattern: str, search: _Search) -> list[ImageFile]:
    paths = sorted(map(Path, glob.iglob(pattern, recursive=True)))  # noqa: PTH207, Path.glob knows no absolute pattern
    data = mirax_folders([str(path) for path in paths])
    images: list[ImageFile] = []
    for path in paths:
        # A pattern with ** matches what lies in folders by itself.
        if not path.is_dir() or ("**" not in pattern and str(path) not in data):
            images += _named(path, search)
    return group_files(images)


def _folder_images(root: Path, folder: Path, search: _Search) -> Iterator[ImageFile]:
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in search.visited:
        return
    search.visited.add((stat.st_dev, stat.st_ino))
    for child in _children(root, folder, search):
        if child.kind == "image":
            yield child.image
        elif child.kind == "archive":
            yield from _archive_images((child.path,), search)
        else:
            yield from _folder_images(root, child.path, search)


def _children(root: Path, folder: Path, search: _Search) -> Iterator[Child]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        log.warning("%s cannot be searched (%s) and is left out", printable(str(folder)), error.strerror)
        return
    data = mirax_folders([entry.name for entry in entries])
    kinds = {entry.name: _kind(root, entry, data) for entry in entries}
    images = [_image(root, Path(entry.path)) for entry in entries if kinds[entry.name] == "image"]
    grouped = {image.local.name: image for image in group_files(images)}
    parts = {part.name for image in grouped.values() for part in image.parts}
    for entry in entries:
        kind = kinds[entry.name]
        if kind == "image" and entry.name in grouped:
            yield Child(entry.name, Path(entry.path), "image", grouped[entry.name])
        elif kind in ("folder", "archive"):
            yield Child(entry.name, Path(entry.path), kind)
        elif kind == "other" and entry.name not in parts:
            search.left_out.add(printable(entry.path))


def _kind(root: Path, entry: os.DirEntry, data: set[str]) -> str:
    """Return "image", "archive", "folder", "other", or "" for what belongs to something else."""
    try:
        if entry.is_dir():
            return (
                "" if entry.name in data or (entry.is_symlink() and _leads_back(root, Path(entry.path))) else "folder"
            )
        if has_known_suffix(entry.name):
            # A broken link is an image that cannot be read; a pipe or a socket would be waited for.
            return "image" if entry.is_file() or entry.is_symlink() else "other"
        if not entry.is_file():
            return "other"
        path = Path(entry.path)
        return "image" if sniff(_head(path)) in IMAGE_KINDS else "archive" if _is_archive(path) else "other"
    except OSError:
        return "image" if has_known_suffix(entry.name) else "other"


def _leads_back(root: Path, link: Path) -> bool:
    """Return whether a link leads to a folder that is searched anyway, or to one around it."""
    real, top = link.resolve(), root.resolve()
    return real.is_relative_to(top) or top.is_relative_to(real)


def _is_archive(path: Path) -> bool:
    try:
        return archives.is_archive(path.name, partial(_head, path), partial(path.open, "rb"))
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _image(root: Path, path: Path, name: str | None = None) -> ImageFile:
    name = printable(plain_path(name or path.relative_to(root).as_posix()))
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    source = printable(root.name or root.resolve().name)
    return ImageFile(name, printable(str(path)), source, path, size, partial(_read_file, path))


def _read_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > archives.LARGEST_FILE:
        raise ValueError(f"{printable(str(path))} holds {size} bytes, more than {archives.LARGEST_FILE}")
    return path.read_bytes()


def _archive_images(chain: Chain, search: _Search) -> Iterator[ImageFile]:
    try:
        names = [(name, size) for name, size in archives.members(chain) if name and not is_hidden(name)]
    except InputError as error:
        if search.strict:
            raise
        name = printable(plain_path(str(chain[-1])).rpartition("/")[2])
        yield ImageFile(name, display_path(chain), name, None, 0, partial(_refuse, str(error)))
        return
    data = tuple(f"{folder}/" for folder in mirax_folders([name for name, _ in names]))
    names = [(name, size) for name, size in names if not name.startswith(data)]
    kinds = {name: _member_kind(chain, name) for name, _ in names}
    images = [_member(chain, name, size) for name, size in names if kinds[name] == "image"]
    grouped = {image.path: image for image in group_files(images)}
    for name, _ in names:
        path = display_path((*chain, name))
        if path in grouped:
            yield grouped[path]
        elif kinds[name] == "archive" and _may_go_deeper(chain, path, search):
            yield from _archive_images((*chain, name), search)
        elif kinds[name] != "image":
            search.left_out.add(path)


def _member_kind(chain: Chain, name: str) -> str:
    if has_known_suffix(name):
        return "image"
    try:
        head = partial(archives.read_member, chain, name, HEAD)
        if archives.is_archive(name, head, partial(archives.open_member, chain, name)):
            return "archive"
        return "image" if sniff(head()) in IMAGE_KINDS else "other"
    except (OSError, ValueError):
        return "other"


def _may_go_deeper(chain: Chain, path: str, search: _Search) -> bool:
    if len(chain) >= archives.DEEPEST:
        log.warning("%s lies inside %d archives and is left out. Unpack the outer ones.", path, len(chain))
        return False
    search.nested.append(chain)
    if len(search.nested) > MOST_NESTED:
        raise InputError(f"{display_path(chain[:1])} holds more than {MOST_NESTED} archives. Unpack it.")
    return True


def _member(chain: Chain, name: str, size: int) -> ImageFile:
    source = plain_path(str(chain[-1])).rpartition("/")[2]
    read = partial(archives.read_member, chain, name)
    return ImageFile(printable(name), display_path((*chain, name)), printable(source), None, size, read)


def _refuse(reason: str) -> bytes:
    raise ValueError(reason)
