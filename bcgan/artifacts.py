"""Artifacts: folders of files that depend on settings and inputs, built once and reused under the same key.

An artifact is built in `<folder>.partial` and renamed when it is complete, so that an interrupted build resumes and
never destroys what was there before. Its manifest lists its key and the SHA-256 of every file. A stage's outputs,
runs/<experiment>/<stage>/, are an artifact. So is each training, below runs/<experiment>/cache/<stage>/ (`Cache`).
"""

import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bcgan import __version__, machine, runs
from bcgan.experiment import Experiment
from bcgan.progress import log

MANIFEST = "manifest.json"
CHANGED = "its settings, its inputs or bcgan changed"  # why an artifact is stale
STATE = "unfinished.json"  # in a partial folder: key, commit, seconds of earlier attempts
# Numbers of what stages and commands compute. Raise one when the same settings and inputs give other outputs: it then
# runs again in existing runs, and reuses its cached trainings and predictions.
DEFINITIONS = {
    "preprocess": 1, "evaluate": 3, "ablation": 1, "cross_validation": 1, "learning_curve": 1,
    "release": 1, "tune": 1,  # commands, which write it into their results
}  # fmt: skip
CACHE = "cache"
PARTIAL = ".partial"
KEY_LENGTH = 16  # characters of a key in the name of a cached artifact's folder


def make_key(kind: str, settings: Any, inputs: dict[str, str]) -> str:
    """Return the SHA-256 of what an artifact depends on: its settings, its inputs, and what bcgan computes.

    Args:
        kind: Name of the stage, or of the artifact within it.
        settings: Serializable as JSON.
        inputs: SHA-256 of files, by name.
    """
    parts = {"stage": kind, "settings": settings, "inputs": inputs, "version": __version__}
    parts |= {"definition": DEFINITIONS[kind]} if kind in DEFINITIONS else {}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def partial_folder(folder: Path) -> Path:
    """Return the folder in which an artifact is built."""
    return folder.with_name(folder.name + PARTIAL)


def read_unfinished_state(folder: Path) -> dict[str, Any]:
    """Return the state of an artifact's unfinished build; {} if there is none.

    Returns:
        key: Of the artifact that is built.
        commit: Of the checkout that started to build it; `None` outside a checkout.
        restarted: Whether the build was started by a forced run.
        seconds: Of earlier attempts.
    """
    try:
        state = runs.read_json(partial_folder(folder) / STATE)
        return state if isinstance(state, dict) else {}
    except (OSError, ValueError):
        return {}


def list_outputs(root: Path, stages: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the files that finished stages of a run wrote, by `<stage>/<file>`."""
    paths = {stage: root / stage / MANIFEST for stage in stages}
    return {
        f"{stage}/{file}": digest
        for stage, path in paths.items()
        if path.exists()
        for file, digest in runs.read_json(path)["outputs"].items()
    }


def stale_reason(folder: Path, key: str) -> str | None:
    """Return why an artifact has to be built, as text for messages; `None` if it is complete and up to date.

    Args:
        key: From `make_key`, of the present settings and inputs.
    """
    if read_unfinished_state(folder).get("key") == key:
        return "resumes"
    path = folder / MANIFEST
    if not path.is_file():
        return "has not run yet"
    try:
        manifest = runs.read_json(path)
        if manifest["key"] != key:
            return CHANGED
        for name, digest in manifest["outputs"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:  # a file outside the folder
                return "its manifest was not written by bcgan"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if runs.hash_file(folder / name) != digest:
                return f"{name} was changed"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest was not written by bcgan"
    return None


def build(
    folder: Path, key: str, make: Callable[[Path], dict[str, Any] | None], record: dict[str, Any], restart: bool = False
) -> None:
    """Build an artifact, or resume its unfinished build.

    Args:
        folder: Where the artifact goes. What is there stays until the new one is complete.
        key: From `make_key`.
        make: Writes the files into the folder that it is given; may return more fields for the manifest.
        record: Fields of the manifest, such as settings and inputs.
        restart: Whether an unfinished build is dropped, unless it was restarted itself.
    """
    partial, state = partial_folder(folder), read_unfinished_state(folder)
    if state.get("key") != key or (restart and not state["restarted"]):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = {"key": key, "commit": runs.commit(), "restarted": restart, "seconds": 0.0}
    else:
        state["seconds"] += _seconds_of_attempt(partial)
    runs.write_json(partial / STATE, state)
    if not (partial / MANIFEST).exists():  # otherwise it was interrupted after it was complete
        start_time, start_cpu_time = time.monotonic(), time.process_time()
        more_fields = make(partial) or {}
        seconds = time.monotonic() - start_time
        times = {
            "seconds": round(state["seconds"] + seconds, 1),
            "busy_cores": round((time.process_time() - start_cpu_time) / max(seconds, 1e-9), 2),
        }
        runs.write_json(partial / MANIFEST, record | more_fields | _common_fields(partial, state) | times)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    (folder / STATE).unlink()


def _common_fields(partial: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the manifests of all artifacts have, such as the SHA-256 of every file.

    Args:
        partial: Folder with all files of the artifact, before it is renamed.
        state: What the file STATE holds: the artifact's key, and bcgan's commit when the build was started.
    """
    return {
        "key": state["key"],
        "version": __version__,
        "commit": state["commit"],
        "environment": machine.environment(),
        "outputs": {
            path.relative_to(partial).as_posix(): runs.hash_file(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file() and path.name not in (MANIFEST, STATE)
        },
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (2**20 if sys.platform == "darwin" else 2**10),  # bytes on macOS, KiB on Linux
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def discard_empty(folder: Path) -> None:
    """Remove the unfinished build of an artifact if it has no files yet."""
    partial = partial_folder(folder)
    if partial.exists() and [path.name for path in partial.iterdir()] == [STATE]:
        shutil.rmtree(partial)


def _seconds_of_attempt(partial: Path) -> float:
    """Return the seconds that an interrupted attempt took, up to the last file that it wrote."""
    last_write = max(path.stat().st_mtime for path in partial.rglob("*"))
    return last_write - (partial / STATE).stat().st_mtime


class Cache:
    """The artifacts of one stage: trainings and predictions that are reused when other settings change.

    Attributes:
        folder: runs/<experiment>/cache/<stage>.
        used: Names of the folders that `get_or_build` returned.
    """

    def __init__(self, root: Path, stage: str):
        self.folder = root / CACHE / stage
        self.used: set[str] = set()

    def get_or_build(self, name: str, settings: Any, inputs: dict[str, str], make: Callable[[Path], None]) -> Path:
        """Return the folder of an artifact, built if it is not there.

        Args:
            name: Readable name of the artifact, unique within the stage; part of the key.
            settings: What the artifact depends on, as JSON.
            inputs: SHA-256 of the files that it depends on, by name.
            make: Writes the files into the folder that it is given.
        """
        key = make_key(name, settings, inputs)
        folder = self.folder / f"{name}-{key[:KEY_LENGTH]}"
        self.used.add(folder.name)
        if stale_reason(folder, key):
            build(folder, key, make, {"settings": settings, "inputs": inputs})
        else:
            log.info("%s: %s is reused; nothing that it depends on changed", self.folder.name, name)
        return folder

    def clear(self) -> None:
        """Delete all artifacts of the stage, so that they are built again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def prune(root: Path) -> int:
    """Delete cached artifacts that no finished stage of a run uses, and unfinished builds.

    Returns:
        Number of bytes that were freed.
    """
    used = {
        (manifest.parent.name, name)
        for manifest in root.glob(f"*/{MANIFEST}")
        for name in runs.read_json(manifest).get("cache", ())
    }
    folders = [folder for folder in root.glob(f"{CACHE}/*/*") if (folder.parent.name, folder.name) not in used]
    folders += root.glob(f"*{PARTIAL}")
    freed = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    for folder in folders:
        shutil.rmtree(folder)
    return freed


class StageRun(NamedTuple):
    """The settings, folders and inputs of one run of a stage.

    Attributes:
        experiment: The settings.
        root: The run's folder, with the outputs of the stages before.
        folder: Where the stage writes.
        inputs: SHA-256 of the files that it reads, by `<stage>/<file>`.
        cache: The stage's cached artifacts.
    """

    experiment: Experiment
    root: Path
    folder: Path
    inputs: dict[str, str]
    cache: Cache
