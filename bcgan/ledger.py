"""Where the time of a run went: by stage, and by the trainings and predictions that a stage keeps."""

from pathlib import Path
from typing import NamedTuple

from bcgan import runs
from bcgan.artifacts import CACHE, MANIFEST, PARTIAL

MIN_SHARE = 0.02  # of the run's seconds, of a training that is listed by itself


class Entry(NamedTuple):
    """The time of a stage, or of one of its trainings."""

    stage: str
    training: str  # empty for the stage as a whole
    seconds: float  # with those of interrupted attempts
    # mean number of cores that the last attempt kept busy; `None` if an earlier version wrote the manifest
    busy_cores: float | None
    peak_memory_mib: int  # of the process until then


def read(root: Path) -> list[Entry]:
    """Return the time of each finished stage, followed by its longest trainings, the longest first.

    Stages come in the order in which they ended. Trainings that were there before the stage ran count too, so that
    they may take longer than their stage.

    Args:
        root: Folder of the run.
    """
    paths = [path for path in root.glob(f"*/{MANIFEST}") if path.parent.suffix != PARTIAL]
    manifests = {path.parent.name: manifest for path in paths if (manifest := _read_manifest(path))}
    manifests = dict(sorted(manifests.items(), key=lambda item: item[1]["finished"]))
    total, entries = sum(manifest["seconds"] for manifest in manifests.values()), []
    for stage, manifest in manifests.items():
        entries.append(_entry(stage, "", manifest))
        paths = [root / CACHE / stage / name / MANIFEST for name in manifest.get("cache", [])]
        trainings = [
            _entry(stage, path.parent.name.rpartition("-")[0], cached)
            for path in paths
            if path.is_file() and (cached := _read_manifest(path))
        ]
        trainings.sort(key=lambda entry: -entry.seconds)
        entries += [entry for entry in trainings if entry.seconds >= MIN_SHARE * total]
    return entries


def _read_manifest(path: Path) -> dict | None:
    """Return a manifest; `None` if it is no JSON object or lacks the fields that bcgan writes."""
    try:
        manifest = runs.read_json(path)
        return manifest if {"finished", "seconds", "peak_memory_mib"} <= manifest.keys() else None
    except (ValueError, AttributeError):
        return None


def _entry(stage: str, training: str, manifest: dict) -> Entry:
    return Entry(stage, training, manifest["seconds"], manifest.get("busy_cores"), manifest["peak_memory_mib"])


def format_seconds(seconds: float) -> str:
    """Return a duration for reading: 48 s, 12 min, 1 h 38 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
