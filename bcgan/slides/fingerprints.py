"""Hash the names, sizes and times of files, to detect that an input changed without reading it."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bcgan.slides.files import is_output, leads_back


def fingerprint(roots: tuple[Path, ...]) -> str:
    """Return a hash of the names, sizes and modification times of files and of all files in folders, to detect changes.

    The folders that bcgan writes are left out, as in a search for images, so that a run or a map does not change its
    own data set. If a root is a ZIP archive, the names, sizes and checksums of its members are hashed instead, so that
    a copy of it has the same hash.
    """
    digest = hashlib.sha256()
    for root in roots:
        lines = _list_members(root) or [
            f"{name} {(stat := path.stat()).st_size} {stat.st_mtime_ns}" for path, name in _iterate_files(root, set())
        ]
        digest.update(os.fsencode("".join(f"{line}\n" for line in lines)))
    return digest.hexdigest()


def _list_members(path: Path) -> list[str]:
    """Return name, size and CRC-32 of each member of a ZIP archive; [] for other and for damaged files."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [f"{member.filename} {member.file_size} {member.CRC}" for member in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _iterate_files(root: Path, visited: set[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield each file below a folder, or a file itself, and its path relative to `root`.

    Links to folders outside are followed once, with paths relative to their targets; `visited` gets these folders.
    """
    if root.is_file():
        yield root, Path()
    visited.add(root.resolve())
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_output(Path(parent, name)))
        for path in (Path(parent, name) for name in sorted(files)):
            if path.exists():  # else it is a broken link
                yield path, path.relative_to(root)
        for link in (Path(parent, name) for name in folders):
            if link.is_symlink() and not leads_back(root, link) and link.resolve() not in visited:
                yield from _iterate_files(link.resolve(), visited)
