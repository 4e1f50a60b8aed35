"""Find the images and slides that arguments, folders and archives contain; nothing is decoded."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from bcgan import outputs, runs
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
    MANIFEST,
    SLIDE_SUFFIXES,
    has_known_suffix,
    is_hidden,
    is_synthetic,
    plain_path,
    printable,
    sniff,
    strip_suffixes,
)
from bcgan.slides.series import group_files, group_series, mirax_folders

__all__ = [
    "ARCHIVE_SUFFIXES", "IMAGE_SUFFIXES", "KNOWN_SUFFIXES", "SLIDE_SUFFIXES", "Child", "ImageFile", "find_images",
    "iterate_images", "list_children", "printable", "sniff", "strip_suffixes",
]  # fmt: skip
BYTE_ORDER_MARK = "\ufeff"  # that programs of Windows write at the start of a list
MAX_NESTED_ARCHIVES = 10_000  # archives inside one archive


class ImageFile(NamedTuple):
    """The file of an image or a slide."""

    name: str  # relative to the source, with forward slashes, for display
    path: str  # path for display; `archive.zip!member` or `a.zip!b.zip!member` inside archives
    source: str  # name of the folder or archive
    local: Path | None  # the file on disk; `None` inside an archive
    size: int  # bytes
    read: Callable[[], bytes]  # returns the content; raises OSError or ValueError with the reason
    parts: tuple[Path, ...] = ()  # other files on disk of the same slide (DICOM series, MIRAX folder, VMS)
    crc: int | None = None  # CRC-32 of the content, as a ZIP archive states it


class Child(NamedTuple):
    """An image, a folder or an archive that lies directly in a folder."""

    name: str  # of the file or folder; it may contain bytes that are not UTF-8
    path: Path
    kind: Literal["image", "folder", "archive"]
    image: ImageFile | None = None  # `None` for a folder or an archive


class _Search:
    """The state of one search through folders and archives."""

    def __init__(self, strict: bool) -> None:
        """Start a search.

        Args:
            strict: Whether it is of a data set: an unreadable archive is an error (otherwise it is returned as an
                unreadable image), and folders that bcgan writes and synthetic patches are left out.
        """
        self.strict = strict
        self.left_out: list[str] = []  # folders of a data set with synthetic patches
        self.visited: set[tuple[int, int]] = set()  # device and inode of searched folders: links may lead in circles
        self.num_nested = 0  # archives inside archives
        self.num_skipped, self.first_skipped = 0, ""  # files that are neither images nor archives

    def skip(self, path: str) -> None:
        self.first_skipped = self.first_skipped or path
        self.num_skipped += 1

    def report_skipped(self) -> None:
        """Log the number of skipped files and the first one, and warn of synthetic patches that were left out."""
        if self.num_skipped:
            log.info("%d files are no images and are left out, the first: %s", self.num_skipped, self.first_skipped)
        if self.left_out:
            log.warning(
                "data.dir: %d folders of synthetic patches, which are of no patient, are left out, the first: %s",
                len(self.left_out), self.left_out[0],
            )  # fmt: skip


def find_images(arguments: Iterable[str], listed: Iterable[str] = ()) -> list[ImageFile]:
    """Find the images that command-line arguments name.

    Args:
        arguments: Files, folders, which are searched recursively, archives and glob patterns; "-" stands for `listed`.
        listed: Lines of paths.

    Returns:
        The images in the order of the arguments, and in name order inside folders and archives. A file that is named
        is returned even if it is no image or does not exist.

    Raises:
        InputError: If an argument names nothing, or a named archive cannot be read.
    """
    search, images = _Search(strict=False), []
    for argument in arguments:
        search.visited.clear()  # a folder can be named twice, or be inside another one
        if argument == "-":
            for line in listed:
                if line.strip():
                    images += _named_images(Path(line.rstrip("\r\n").removeprefix(BYTE_ORDER_MARK)), search)
            continue
        path = Path(argument)
        if path.is_dir() or os.path.lexists(path):
            named = list(_named_images(path, search))
        else:
            named = _pattern_images(argument, search)
        if not named:
            raise InputError(f"{argument}: no image there. Give files ({', '.join(KNOWN_SUFFIXES)}), folders, archives "
                             "or patterns.")  # fmt: skip
        images += named
    search.report_skipped()
    if not images:
        raise InputError("No image was named. Give files, folders or patterns, or - for a list on standard input.")
    unique: dict[str, ImageFile] = {}
    for image in images:
        unique.setdefault(os.path.abspath(image.local) if image.local else image.path, image)  # noqa: PTH100
    if len(unique) < len(images):
        log.warning("%d files are named more than once and are read once", len(images) - len(unique))
    return group_series(list(unique.values()))


def iterate_images(paths: tuple[Path, ...]) -> Iterator[ImageFile]:
    """Yield the images of a data set's folders and archives, and of archives inside folders, in name order.

    Left out are folders that bcgan writes below its home, and, with a warning, synthetic patches that it made.

    Raises:
        InputError: If there is no path, one does not exist, or an archive cannot be opened.
    """
    if not paths:
        raise InputError(
            "data.dir is empty, and this data set is not downloaded for you. "
            "Give its folder or archive: --data-dir /path/to/data (with make: DATA_DIR=/path/to/data)."
        )
    search = _Search(strict=True)
    for path in paths:
        if not path.exists():
            raise InputError(f"data.dir: {path} does not exist. Give an existing folder or archive.")
        if path.is_dir():
            search.visited.clear()  # a folder that is given twice is read twice
            yield from _folder_images(path, path, search)
        else:
            yield from _archive_images((path,), search)
    search.report_skipped()


def list_children(folder: Path) -> list[Child]:
    """Return the images, folders and archives that lie directly in a folder, in name order.

    Files of one slide are one image; the data folder of a MIRAX slide is left out.
    """
    search = _Search(strict=False)
    listing = list(_iterate_children(folder, folder, search))
    search.report_skipped()
    return listing


def _named_images(path: Path, search: _Search) -> Iterator[ImageFile]:
    """Yield the images of a named folder or archive; any other path is returned as an image."""
    if path.is_dir():
        yield from _folder_images(path, path, search)
    elif path.is_file() and _is_archive(path):
        archives.list_members((path,))  # raises InputError: a named archive has to be readable, even if not strict
        yield from _archive_images((path,), search)
    else:
        yield _make_image_file(path.absolute().parent, path, path.name)


def _pattern_images(pattern: str, search: _Search) -> list[ImageFile]:
    """Return the images that match a glob pattern, and those in matching folders and archives."""
    found = sorted(map(Path, glob.iglob(pattern, recursive=True)))  # noqa: PTH207, Path.glob knows no absolute pattern
    named = Path(pattern).parts  # glob itself decides on names that begin with a dot
    paths = [path for path in found if not any(map(is_hidden, {part.lstrip(".") for part in path.parts} - {*named}))]
    data_folders = mirax_folders([str(path) for path in paths])
    images: list[ImageFile] = []
    for path in paths:
        # A pattern with ** matches the files inside folders directly.
        if not path.is_dir() or ("**" not in pattern and str(path) not in data_folders):
            images += _named_images(path, search)
    return group_files(images)


def _folder_images(root: Path, folder: Path, search: _Search) -> Iterator[ImageFile]:
    """Yield the images of a folder, recursively; `root` is the folder that their names are relative to."""
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in search.visited:
        return
    search.visited.add((stat.st_dev, stat.st_ino))
    manifest = folder / MANIFEST
    if search.strict and manifest.is_file() and is_synthetic(manifest.read_bytes):
        search.left_out.append(printable(str(folder)))
        return
    for child in _iterate_children(root, folder, search):
        if child.kind == "image":
            yield child.image
        elif child.kind == "archive":
            yield from _archive_images((child.path,), search)
        else:
            yield from _folder_images(root, child.path, search)


def _iterate_children(root: Path, folder: Path, search: _Search) -> Iterator[Child]:
    """Yield the images, folders and archives that lie directly in a folder, in name order."""
    try:
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not is_hidden(entry.name)]
        entries.sort(key=lambda entry: entry.name)
    except OSError as error:
        log.warning("%s cannot be searched (%s) and is left out", printable(str(folder)), error.strerror)
        return
    mirax_data = mirax_folders([entry.name for entry in entries])
    kinds = {entry.name: _entry_kind(root, entry, mirax_data) for entry in entries}
    images = [_make_image_file(root, Path(entry.path)) for entry in entries if kinds[entry.name] == "image"]
    grouped = {image.local.name: image for image in group_files(images)}
    parts = {part.name for image in grouped.values() for part in image.parts}
    for entry in entries:
        kind = kinds[entry.name]
        if kind == "image" and entry.name in grouped:
            yield Child(entry.name, Path(entry.path), "image", grouped[entry.name])
        elif kind in ("folder", "archive"):
            yield Child(entry.name, Path(entry.path), kind)
        elif kind == "other" and entry.name not in parts:
            search.skip(printable(entry.path))


def _entry_kind(root: Path, entry: os.DirEntry, mirax_data: set[str]) -> str:
    """Return "image", "archive", "folder", "other", or "" for a folder that is not searched.

    Folders that are not searched are the data folders of MIRAX slides, named in `mirax_data`, links that lead back into
    the search and, with a warning, folders that bcgan writes.
    """
    try:
        if entry.is_dir():
            if is_output(Path(entry.path)):
                log.warning("%s was written by bcgan and is left out; name it to read it", printable(entry.path))
                return ""
            is_link_back = entry.is_symlink() and leads_back(root, Path(entry.path))
            return "" if entry.name in mirax_data or is_link_back else "folder"
        if has_known_suffix(entry.name):
            # A broken link is an image that cannot be read. Reading a pipe or a socket would block.
            return "image" if entry.is_file() or entry.is_symlink() else "other"
        if not entry.is_file():
            return "other"
        path = Path(entry.path)
        if sniff(_read_head(path)) in IMAGE_KINDS:
            return "image"
        return "archive" if _is_archive(path) else "other"
    except OSError:
        return "image" if has_known_suffix(entry.name) else "other"


def is_output(folder: Path) -> bool:
    """Return whether bcgan writes a folder: runs, reports, models, and those of pictures that it draws."""
    is_below_home = folder.name in runs.OUTPUTS and folder.resolve() in runs.output_folders()
    return is_below_home or (folder / outputs.MARKER).exists()


def leads_back(root: Path, link: Path) -> bool:
    """Return whether a link leads into the searched folder, or to a folder that contains it."""
    target, top = link.resolve(), root.resolve()
    return target.is_relative_to(top) or top.is_relative_to(target)


def _is_archive(path: Path) -> bool:
    try:
        return archives.is_archive(path.name, partial(_read_head, path), partial(path.open, "rb"))
    except OSError:
        return False


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _make_image_file(root: Path, path: Path, name: str | None = None) -> ImageFile:
    """Return the entry of an image file on disk, which is not opened.

    Args:
        root: The searched folder.
        path: The file, below `root`.
        name: For display. Defaults to the path relative to `root`.
    """
    name = printable(plain_path(name or path.relative_to(root).as_posix()))
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # a broken link, or a file that vanished: reading it says why
    source = printable(root.name or root.resolve().name)
    return ImageFile(name, printable(str(path)), source, path, size, partial(_read_file, path))


def _read_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > archives.MAX_FILE_BYTES:
        raise ValueError(f"{printable(str(path))} has {size} bytes, more than {archives.MAX_FILE_BYTES}")
    return path.read_bytes()


def _archive_images(chain: Chain, search: _Search) -> Iterator[ImageFile]:
    """Yield the images of an archive and of the archives inside it.

    Raises:
        InputError: If it cannot be read and the search is strict.
    """
    try:
        members = [(name, size) for name, size in archives.list_members(chain) if name and not is_hidden(name)]
    except InputError as error:
        if search.strict:
            raise
        name = printable(plain_path(str(chain[-1])).rpartition("/")[2])
        yield ImageFile(name, display_path(chain), name, None, 0, partial(_raise_unreadable, str(error)))
        return
    left_out = [f"{folder}/" for folder in mirax_folders([name for name, _ in members])]
    if search.strict:
        synthetic = [name for name, _ in members if _is_manifest(chain, name)]
        search.left_out.extend(display_path((*chain, name)) for name in synthetic)
        left_out += [name.removesuffix(MANIFEST) for name in synthetic]
    members = [(name, size) for name, size in members if not name.startswith(tuple(left_out))]
    kinds = {name: _member_kind(chain, name) for name, _ in members}
    crcs = archives.list_checksums(chain)
    images = [_make_member(chain, name, size, crcs.get(name)) for name, size in members if kinds[name] == "image"]
    grouped = {image.path: image for image in group_files(images)}
    for name, _ in members:
        path = display_path((*chain, name))
        if path in grouped:
            yield grouped[path]
        elif kinds[name] == "archive" and _may_open_nested(chain, path, search):
            yield from _archive_images((*chain, name), search)
        elif kinds[name] != "image":
            search.skip(path)


def _is_manifest(chain: Chain, name: str) -> bool:
    """Return whether a member of an archive is the manifest of synthetic patches."""
    return name.rpartition("/")[2] == MANIFEST and is_synthetic(partial(archives.read_member, chain, name))


def _member_kind(chain: Chain, name: str) -> Literal["image", "archive", "other"]:
    """Return what a member of an archive is, by its suffix, else by its content; "other" if it cannot be read."""
    if has_known_suffix(name) or archives.is_broken_link(chain, name):  # a link may lead to a folder of images
        return "image"
    try:
        head = partial(archives.read_member, chain, name, HEAD)
        if archives.is_archive(name, head, partial(archives.open_member, chain, name)):
            return "archive"
        return "image" if sniff(head()) in IMAGE_KINDS else "other"
    except (OSError, ValueError):
        return "other"


def _may_open_nested(chain: Chain, path: str, search: _Search) -> bool:
    """Return whether an archive inside the archive `chain` may be opened.

    Raises:
        InputError: If there are more than MAX_NESTED_ARCHIVES.
    """
    if len(chain) >= archives.MAX_DEPTH:
        log.warning("%s lies inside %d archives and is left out. Unpack the outer ones.", path, len(chain))
        return False
    search.num_nested += 1
    if search.num_nested > MAX_NESTED_ARCHIVES:
        raise InputError(f"{display_path(chain[:1])} has more than {MAX_NESTED_ARCHIVES} archives inside. Unpack it.")
    return True


def _make_member(chain: Chain, name: str, size: int, crc: int | None) -> ImageFile:
    source = plain_path(str(chain[-1])).rpartition("/")[2]
    read = partial(archives.read_member, chain, name)
    return ImageFile(printable(name), display_path((*chain, name)), printable(source), None, size, read, crc=crc)


def _raise_unreadable(reason: str) -> bytes:
    raise ValueError(reason)
