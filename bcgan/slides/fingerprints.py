"""Hash the names, sizes and times of files, to detect that an input changed without reading it."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bcgan import runs
from bcgan.slides.files import leads_back


def fingerprint(roots: tuple[Path, ...]) -> str:
    """Return a hash of the names, sizes and modification times of files and of all files in folders, to detect changes.

    The folders that bcgan writes, runs/ and the like, are left out, so that a run does not change its own data set.
    If a root is a ZIP archive, the names, sizes and checksums of its members are hashed instead, so that a copy of it
    has the same hash.
    """
    digest = hashlib.sha256()
    for root in roots:
        lines = _list_members(root) or [
            f"{name} {(stat := path.stat()).st_size} {stat.st_mtime_ns}" for path, name in _iterate_paths(root, set())
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


def _iterate_paths(root: Path, visited: set[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield each path below a folder, or a file itself, and its path relative to `root`.

    Links to folders outside are followed once, with paths relative to their targets; `visited` gets these folders.
    """
    paths = [root] if root.is_file() else sorted(root.rglob("*")) if root.is_dir() else []
    visited.add(root.resolve())
    top = root.resolve()
    outputs = [root / folder.relative_to(top) for folder in runs.output_folders() if top in folder.parents]
    above = {parent for folder in outputs for parent in folder.parents}  # their times change as an output is made
    outputs = [folder for folder in outputs if folder.exists()]
    for path in paths:
        if path in above or any(path.is_relative_to(folder) for folder in outputs) or not path.exists():
            continue  # what does not exist is a broken link
        yield path, path.relative_to(root)
        if path.is_symlink() and path.is_dir() and not leads_back(root, path) and path.resolve() not in visited:
            yield from _iterate_paths(path.resolve(), visited)
