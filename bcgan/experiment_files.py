"""The YAML files of the experiments: those that come with bcgan, and the user's own in `pipelines/`.

The first are the folder pipelines/ of the repository, which is also part of the installed package.
"""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from bcgan import runs
from bcgan.errors import InputError

INCLUDED = Path(__file__).parent / "pipelines"  # in the repository a link to its folder
NAME = re.compile(r"[a-z][a-z0-9_]*")


class ExperimentFile(NamedTuple):
    """An experiment's file."""

    path: Path
    is_own: bool  # whether it is the user's


def own_folder() -> Path:
    """Return the folder of the user's own experiments."""
    return runs.home() / "pipelines"


def list_all() -> dict[str, ExperimentFile]:
    """Return every experiment by its name; the user's own come first, and hide those that have the same name."""
    has_own = own_folder().resolve() != INCLUDED.resolve()
    folders = ((own_folder(), True), (INCLUDED, False)) if has_own else ((own_folder(), False),)
    files: dict[str, ExperimentFile] = {}
    for folder, is_own in folders:
        for path in sorted(path for path in folder.glob("*.yaml") if path.is_file()):
            files.setdefault(path.stem, ExperimentFile(path, is_own))
    return files


def find(name: str) -> Path:
    """Return the file of an experiment.

    Args:
        name: Name of an experiment, or path of a YAML file.

    Raises:
        InputError: If there is no such file, or the user's own and bcgan's of that name differ.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{path} does not exist. Give the path of a YAML file, or a name that bcgan list shows.")
        return path
    own_file, included = own_folder() / f"{name}.yaml", INCLUDED / f"{name}.yaml"
    if own_file.is_file() and included.is_file() and own_file.read_bytes() != included.read_bytes():
        raise InputError(
            f"{own_file} has the name of an experiment that comes with bcgan, {name}, and other settings. Rename it, "
            "and `name` in it, or give its path in place of the name."
        )
    if own_file.is_file() or included.is_file():
        return own_file if own_file.is_file() else included
    remedy = f"; or write one: bcgan init {name}" if NAME.fullmatch(name) else ""
    raise InputError(
        f"No experiment {name!r} in {own_folder()} or among those that come with bcgan. Choose one of: "
        f"{', '.join(list_all())}{remedy}."
    )


def init(name: str, base: str) -> Path:
    """Write a new experiment, a copy of another, to the user's own.

    Args:
        name: Of the new experiment.
        base: Name or path of the experiment that is copied.

    Returns:
        The new file.

    Raises:
        InputError: If the name is taken or not allowed, or there is no such experiment to copy.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of an experiment. Use small letters, digits and _, a letter first.")
    source, files = find(base), list_all()
    if name in files:
        raise InputError(f"{name} exists already: {files[name].path}. Choose another name.")
    text, changed = re.subn(r"^name:.*$", f"name: {name}", read_text(source), count=1, flags=re.MULTILINE)
    if not changed:
        raise InputError(f"{source} has no line `name:`. Choose another experiment with --from.")
    target = own_folder() / f"{name}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    # The base's commands name it: EXPERIMENT=idc.
    target.write_text(re.sub(rf"(EXPERIMENT=|bcgan run ){source.stem}\b", rf"\g<1>{name}", text), "utf-8")
    return target


def summarize(path: Path) -> str:
    """Return the first sentence of the comment at the top of a file, or why it cannot be read."""
    try:
        text = read_text(path)
    except InputError as error:
        return str(error)
    comment = itertools.takewhile(re.compile("# (?! )").match, text.splitlines())
    lines = (line.removeprefix("# ") for line in comment)
    return re.split(r"(?<=[.])\s", " ".join(lines), maxsplit=1)[0].rstrip(".")


def read_text(path: Path) -> str:
    """Read a YAML file.

    Raises:
        InputError: If it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check its path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read ({error}). Save it as UTF-8.") from error
