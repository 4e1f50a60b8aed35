"""Write the files that a user names for results: whole or not at all, and never over a file that is read."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from bcgan.errors import InputError

STDOUT = "-"
MARKER = ".bcgan-output"  # in folders of pictures that bcgan drew, which searches for images leave out


def make_folder(folder: Path) -> None:
    """Create a folder for pictures that bcgan draws, if it is missing, and mark it: its pictures are no data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("bcgan drew the pictures in this folder. It does not read them as images.\n", "utf-8")


def check(outputs: Mapping[str, str | None], inputs: Iterable[Path]) -> None:
    """Check the files that a command will write, before it begins.

    Args:
        outputs: The file of each option, such as {"--out": "calls.csv"}; `None` or `-` if there is none.
        inputs: The files that the command reads.

    Raises:
        InputError: If an output is a folder or a file that is read, or two outputs are one file.
    """
    named = {option: Path(file) for option, file in outputs.items() if file not in (None, STDOUT)}
    identities: dict[object, str] = {}
    for option, path in named.items():
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder. Name a file.")
        if path.exists() and not path.is_file():
            continue  # a device or a pipe: several outputs may go there
        identity = _identify(path)
        if identity in identities:
            raise InputError(f"{option} {path} is the file of {identities[identity]} too. Name another file.")
        identities[identity] = option
    for path in inputs if identities else ():
        if option := identities.get(_identify(path)):
            raise InputError(f"{option} {named[option]} would replace {path}, which is read. Name another file.")


def _identify(path: Path) -> object:
    """Return what is equal for two paths of the same file: links are followed, and hard links are found."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


@contextmanager
def open_text(file: str | Path | None) -> Iterator[TextIO]:
    """Open a file for text in UTF-8; an earlier file is replaced when the new one is complete.

    The file that a link points to is replaced, not the link. Devices and pipes are written to as they are.

    Args:
        file: Its path, in a folder that is created if necessary; `-` or `None` for standard output.
    """
    if file in (None, STDOUT):
        with click.open_file(STDOUT, "w", "utf-8") as stream:
            yield stream
        return
    path = Path(os.path.realpath(file))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        yield stream
    part.replace(path)
