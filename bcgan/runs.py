"""Read, write and hash files of a run, which is the folder runs/<experiment>/; lock it; find the checkout's commit."""

import hashlib
import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bcgan.errors import InputError

OUTPUTS = ("runs", "reports", "models")  # folders that bcgan writes, below `home()`
_home = Path()  # set by `set_home`


def home() -> Path:
    """Return the folder in which runs/, reports/, models/ and the user's pipelines/ lie."""
    return _home


def root() -> Path:
    """Return the folder of all runs."""
    return _home / "runs"


def output_folders() -> list[Path]:
    """Return the folders that bcgan writes, with links resolved; they are no part of a data set around them."""
    return [(_home / name).resolve() for name in OUTPUTS]


def set_home(folder: Path) -> None:
    """Set the folder of runs and reports for this process.

    Raises:
        InputError: If it does not exist, or files cannot be written to it.
    """
    global _home
    if not folder.is_dir():
        raise InputError(f"{folder}, of --home or BCGAN_HOME, is no folder. Make it, or name another.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}, of --home or BCGAN_HOME, takes no files from this user. Name another.")
    _home = folder


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True), "utf-8")
    part.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text("utf-8"))


def read_arrays(path: Path) -> dict[str, Any]:
    """Read every array of a .npz file; pickled objects are refused."""
    import numpy as np

    with np.load(path, allow_pickle=False) as saved:
        return dict(saved)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str | None:
    """Return the checkout's commit, with `+` if files differ from it; `None` outside a checkout."""
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():  # bcgan may be installed in another project's folder
        return None
    try:
        description = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=package, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return description.stdout.strip()


@contextmanager
def lock(folder: Path, timeout_s: float = 0):
    """Hold the lock of a run, so that no other process works in it.

    Args:
        timeout_s: Seconds to wait for another process to release it.

    Raises:
        InputError: If another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner.txt"
    try:
        with FileLock(folder / "lock", timeout=timeout_s):
            owner.write_text(f"process {os.getpid()} on {os.uname().nodename}", "utf-8")
            yield
            owner.unlink(missing_ok=True)
    except Timeout as error:
        owner_text = owner.read_text("utf-8") if owner.exists() else "another process"
        raise InputError(f"{folder} is in use by {owner_text}. Wait for it, or stop it.") from error


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run."""
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True
