"""Follow the links in an archive to its files."""

import posixpath
import tarfile
from collections.abc import Iterator
from typing import TypeVar

from bcgan.slides.kinds import plain_path

Entry = TypeVar("Entry")
MAX_LINKS = 40  # that are followed from one path, as on Linux; more are a circle


def follow_links(entries: dict[str, Entry], targets: dict[str, str]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Replace the links in an archive by the files that they lead to.

    Links to folders of the archive are left out: what they lead to is read in its own place.

    Args:
        entries: By plain path; files and links.
        targets: The path in the archive that each link states, by the link's path; outside of it absolute or with `..`.

    Returns:
        The entries of files by path, for a link the entry of its target; and the targets of links that lead to nothing
        in the archive.
    """
    if not targets:
        return entries, {}
    files = {path: entry for path, entry in entries.items() if path not in targets}
    folders = {".", *(folder for path in files for folder in _parts_of(posixpath.dirname(path)))}
    broken, followed = {}, {}
    for link, target in targets.items():
        path = _find_target(link, targets)
        if path in files:
            followed[link] = files[path]
        elif path not in folders:
            broken[link] = target
    return files | followed, broken


def links_to_itself(entry: tarfile.TarInfo) -> bool:
    """Return whether an entry stands for a file that comes before it under the same name, as tar packs one twice."""
    return entry.islnk() and plain_path(entry.linkname) == plain_path(entry.name)


def join_target(path: str, target: str) -> str:
    """Return the path in an archive to which a link at `path` leads; outside of it absolute or with `..`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _find_target(path: str, targets: dict[str, str]) -> str:
    """Return the path to which a path leads if links in it are followed; "" if they lead in a circle."""
    for _ in range(MAX_LINKS):
        link = next((part for part in _parts_of(path) if part in targets), None)
        if link is None:
            return path
        path = posixpath.normpath(targets[link] + path[len(link) :])
    return ""


def _parts_of(path: str) -> Iterator[str]:
    """Yield a path's folders, from the outermost to the innermost, and the path."""
    parts = path.split("/")
    return ("/".join(parts[:number]) for number in range(1, len(parts) + 1))
