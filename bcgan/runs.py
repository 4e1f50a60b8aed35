"""Files that a stage leaves, and how one knows that they are whole and current.

A stage's manifest is written last and at once, so a folder without one is unfinished, and a manifest holds the
hash of every output, so a folder with one can be checked. Everything lies under runs/<experiment>/<stage>/.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bcgan import __version__, machine
from bcgan.errors import InputError

ROOT = Path("runs")
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
ASIDE = ".before"  # after a stage's name: its earlier outputs, until it has finished anew


def write_json(path: Path, value: Any) -> None:
    """Write atomically: whoever reads sees the old file or the new one, never half of one."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True), "utf-8")
    part.replace(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_arrays(path: Path) -> dict[str, Any]:
    """Every array of an .npz file; none of them may hold code."""
    import numpy as np

    with np.load(path, allow_pickle=False) as saved:
        return dict(saved)


def key_of(stage: str, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """What a stage's outputs depend on, as one hash: its settings, its inputs' hashes, bcgan's version."""
    parts = {"stage": stage, "settings": settings, "inputs": inputs, "version": __version__}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def why_stale(folder: Path, key: str) -> str | None:
    """Why a stage has to run, or None where its outputs are whole and current."""
    path = folder / MANIFEST
    if not path.is_file():
        return "resumes" if unfinished(folder, "key") == key else "has not run yet"
    try:
        manifest = read_json(path)
        if manifest["key"] != key:
            return "its settings, its inputs or bcgan's version changed"
        for name, digest in manifest["outputs"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:  # what lies outside is not this run's
                return "its manifest is not one of ours"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if hash_file(folder / name) != digest:
                return f"{name} was changed"
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "its manifest is not one of ours"
    return None


def unfinished(folder: Path, field: str) -> Any:
    """`key`, `commit`, `inputs` ({file: hash}), `afresh` or `seconds` (of earlier parts) of the stage at work in this
    folder; None where none is."""
    try:
        return read_json(folder / UNFINISHED).get(field)
    except (OSError, json.JSONDecodeError, AttributeError):
        return None


def begin(folder: Path, key: str, inputs: dict[str, str] | None = None, afresh: bool = False) -> None:
    """Make the stage's folder ready: work left by the same settings stays, so that it resumes; other work is set
    aside until the stage has finished, but not in the place of whole work that is there already. `afresh`: so is work
    left by the same settings, unless that was begun afresh."""
    if unfinished(folder, "key") != key or (afresh and not unfinished(folder, "afresh")):
        if folder.exists() and (aside(folder) / MANIFEST).exists() and not (folder / MANIFEST).exists():
            shutil.rmtree(folder)
        elif folder.exists():
            shutil.rmtree(aside(folder), ignore_errors=True)
            folder.rename(aside(folder))
        folder.mkdir(parents=True)
        state = {"key": key, "commit": commit(), "inputs": inputs or {}, "afresh": afresh, "seconds": 0.0}
    else:
        state = read_json(folder / UNFINISHED) | {"seconds": _seconds_before(folder)}
    write_json(folder / UNFINISHED, state)


def _seconds_before(folder: Path) -> float:
    """What a stage took until it was stopped: each part of its work until the last file that it wrote."""
    last = max(path.stat().st_mtime for path in folder.rglob("*"))
    return (unfinished(folder, "seconds") or 0.0) + last - (folder / UNFINISHED).stat().st_mtime


def undo(folder: Path, key: str | None = None) -> bool:
    """Give back what `begin` set aside: where it is whole and of this key; without a key, where nothing was done since.

    Returns:
        bool. Whether it was given back.
    """
    if key is None:
        due = aside(folder).exists() and [path.name for path in folder.iterdir()] == [UNFINISHED]
    else:
        due = why_stale(aside(folder), key) is None
    if due:
        shutil.rmtree(folder, ignore_errors=True)  # it may be gone already
        aside(folder).rename(folder)
    return due


def finish(folder: Path, key: str, stage: str, settings: dict[str, Any], inputs: dict[str, str], began: float) -> None:
    """Hash what the stage wrote, write its manifest, and drop what was set aside. `began`: when this part of the work
    did, by time.monotonic."""
    outputs = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, UNFINISHED)
    }
    manifest = {
        "stage": stage,
        "key": key,
        "settings": settings,
        "version": __version__,
        "commit": unfinished(folder, "commit"),
        "environment": machine.environment(),
        "inputs": inputs,
        "outputs": outputs,
        "seconds": round(unfinished(folder, "seconds") + time.monotonic() - began, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (2**20 if sys.platform == "darwin" else 2**10),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(folder / MANIFEST, manifest)
    (folder / UNFINISHED).unlink()
    shutil.rmtree(aside(folder), ignore_errors=True)


def aside(folder: Path) -> Path:
    """Where a stage's earlier outputs are until it has finished anew."""
    return folder.with_name(folder.name + ASIDE)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str | None:
    """The checkout's commit, marked `+` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():  # another project's, in whose folder bcgan is installed
        return None
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()


@contextmanager
def lock(folder: Path, patience: float = 0):
    """Keep a second run of the same experiment out; wait so many seconds for whoever only looks.

    Raises:
        InputError: another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner.txt"
    try:
        with FileLock(folder / "lock", timeout=patience):
            owner.write_text(f"process {os.getpid()} on {os.uname().nodename}", "utf-8")
            yield
            owner.unlink(missing_ok=True)
    except Timeout as error:
        owner_text = owner.read_text("utf-8") if owner.exists() else "another process"
        raise InputError(f"{folder} is in use by {owner_text}. Wait for it, or stop it.") from error


def is_locked(folder: Path) -> bool:
    """Whether a run holds the folder."""
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True
