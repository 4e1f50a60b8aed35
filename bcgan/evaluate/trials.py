"""One training whose weights nobody keeps: what it says of held-out patches is the result.

A trial has a key of its own and is kept under it, so that a stage whose settings name one trial more trains that one
alone.
"""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from bcgan import runs
from bcgan.classify.scoring import probabilities
from bcgan.classify.train import Patches, train
from bcgan.data.views import central
from bcgan.experiment import APART, TRAINING, Classifier, Classify, Experiment
from bcgan.models import weights

TRIALS = "trials"  # a folder of the run
KEY = 16  # characters of a key that tell trials apart in a file's name
# What names a stage's trials is no part of what one of them depends on.
LISTS = APART | {"classify": {"models", *APART["classify"]}, "learning_curve": {"shares", "arms", "seeds"}}


def key(
    folder: Path,
    experiment: Experiment,
    setting_names: tuple[str, ...],
    *trial: Any,
    inputs: dict[str, str] | None = None,
) -> str:
    """What a trial depends on, as one hash: settings, the files that the stage reads, and what tells it from others.

    Args:
        folder: Path. The stage's.
        setting_names: names of the experiment's settings that count beside those of every training.
        trial: what tells this trial from the stage's others.
        inputs: {file: hash} that it reads. Defaults to all that the stage reads.
    """
    include = dict.fromkeys((*TRAINING, *setting_names), True) | {"evaluate": {"views"}}
    settings = experiment.model_dump(mode="json", include=include, exclude=LISTS)
    inputs = (runs.unfinished(folder, "inputs") or {}) if inputs is None else inputs
    return runs.key_of("trial", settings | {"trial": trial}, inputs)


def once(path: Path, folder: Path, key: str, train: Callable[[], None]) -> None:
    """Have `train` write `path`, unless a trial of this key was made before: every one is kept in the run's `trials`,
    whatever becomes of the stage's settings. A stage that is made afresh takes none from there."""
    if _key_in(path) == key:
        return
    keeper = folder.parent / TRIALS / f"{key[:KEY]}.npz"
    if runs.unfinished(folder, "afresh") or _key_in(keeper) != key:
        train()
        _copy(path, keeper)
    else:
        _copy(keeper, path)


def kept_in(folder: Path) -> Path:
    """Where networks that trials share are: the run's `trials`, or the stage's own folder where it is made afresh."""
    return folder if runs.unfinished(folder, "afresh") else folder.parent / TRIALS


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.stem}.part.npz")
    shutil.copy2(source, part)
    part.replace(target)


def _key_in(path: Path) -> str | None:
    try:
        return str(runs.read_arrays(path).get("key"))
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None


def run(
    path: Path,
    network: keras.Model,
    real: Patches,
    extra: Patches | None,
    held: dict[str, Patches],
    settings: Classify,
    classifier_settings: Classifier,
    views: int,
    seed: int,
    xla: bool,
    key: str,
    extra_arrays: dict[str, Any],
    **train_options: Any,
) -> None:
    """Train and write `path` (.npz): by role the probabilities of malignancy, float32 (n,), the key, and the arrays of
    `extra_arrays`.

    Args:
        held: {role: Patches}. The role validation chooses the epoch.
        extra: Patches. Join the real ones in every batch; None: real patches alone.
        train_options: What else `bcgan.classify.train.train` takes.

    Raises:
        WorkError: the loss is NaN or infinite.
    """
    model, part = path.with_suffix(".keras"), path.with_name(f"{path.stem}.part.npz")
    train(network, real, extra, held["validation"], settings, classifier_settings, seed, model, xla, **train_options)
    best = weights.load_model(model)
    predictions = {role: probabilities(best, central(side.images, settings.crop), views) for role, side in held.items()}
    np.savez_compressed(part, key=key, **extra_arrays, **predictions)
    part.replace(path)
    model.unlink()
