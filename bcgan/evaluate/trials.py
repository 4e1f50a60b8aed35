"""One training whose weights nobody keeps: what it says of held-out patches is the result.

A trial has a key of its own, so that a stage whose settings name one trial more trains that one alone.
"""

import shutil
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from bcgan import runs
from bcgan.classify.scoring import probabilities
from bcgan.classify.train import Patches, train
from bcgan.data.views import central
from bcgan.experiment import TRAINING, Classifier, Classify, Experiment
from bcgan.models import weights

# What names a stage's trials, or belongs to other stages: no part of what one trial depends on.
LISTS = {"classify": {"models", "seeds", "teachers"}, "learning_curve": {"shares", "arms", "seeds"}}


def key(folder: Path, experiment: Experiment, also: tuple[str, ...], *trial: Any) -> str:
    """What a trial depends on, as one hash: settings, the files that the stage reads, and what tells it from others.

    Args:
        folder: Path. The stage's.
        also: names of the experiment's settings that count beside those of every training.
        trial: what tells this trial from the stage's others.
    """
    include = dict.fromkeys((*TRAINING, *also), True) | {"evaluate": {"views"}}
    settings = experiment.model_dump(mode="json", include=include, exclude=LISTS)
    return runs.key_of("trial", settings | {"trial": trial}, runs.unfinished(folder, "inputs") or {})


def is_there(path: Path, folder: Path, key: str) -> bool:
    """Whether `path` holds the trial of this key; taken from what the stage left under other settings where that
    has it."""
    before = runs.earlier(folder)
    for place in (path, before and before / path.relative_to(folder)):
        if place and _key_in(place) == key:
            if place != path:
                path.parent.mkdir(exist_ok=True)
                part = path.with_name(f"{path.stem}.part.npz")
                shutil.copy2(place, part)
                part.replace(path)
            return True
    return False


def take_over(place: Path, folder: Path) -> None:
    """Make a trial's folder of networks, whose name tells what they depend on: as the stage left it under other
    settings, or empty."""
    before = runs.earlier(folder)
    if not place.exists() and before and (before / place.name).exists():
        shutil.copytree(before / place.name, place)
    place.mkdir(exist_ok=True)


def _key_in(path: Path) -> str | None:
    try:
        return str(runs.read_arrays(path).get("key"))
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None


def run(
    path: Path,
    network: keras.Model,
    real: Patches,
    made: Patches | None,
    held: dict[str, Patches],
    settings: Classify,
    own: Classifier,
    views: int,
    seed: int,
    xla: bool,
    key: str,
    beside: dict[str, Any],
    **more: Any,
) -> None:
    """Train and write `path` (.npz): by role the probabilities of malignancy, float32 (n,), the key, and the arrays of
    `beside`.

    Args:
        held: {role: Patches}. The role validation chooses the epoch.
        more: what else `bcgan.classify.train.train` takes.

    Raises:
        WorkError: the loss is no number any more.
    """
    model, part = path.with_suffix(".keras"), path.with_name(f"{path.stem}.part.npz")
    train(network, real, made, held["validation"], settings, own, seed, model, xla, **more)
    best = weights.load_model(model)
    found = {role: probabilities(best, central(side.images, settings.crop), views) for role, side in held.items()}
    np.savez_compressed(part, key=key, **beside, **found)
    part.replace(path)
    model.unlink()
