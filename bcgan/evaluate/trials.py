"""A trial: a training of which only the predictions on held-out patches are kept, as a cached artifact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bcgan import runs
from bcgan.artifacts import PARTIAL, StageRun
from bcgan.classify.scoring import probabilities
from bcgan.classify.train import Patches, Recipe, TrainingData, train
from bcgan.data.views import central
from bcgan.experiment import SET_BY_STAGE, TRAINING, Experiment, subset
from bcgan.models import weights

PREDICTIONS = "predictions.npz"
# Settings that list a stage's trials; a single trial does not depend on them.
LISTS = (
    "classify.models", "learning_curve.train_fractions", "learning_curve.arms", "learning_curve.seeds",
    "ablation.variants", "ablation.seeds", "ablation.model", "cross_validation.models",
)  # fmt: skip


class Trial(NamedTuple):
    """A training.

    network: the untrained classifier.
    real: training patches.
    extra: patches that join the real ones in every batch, or `None`.
    held: held-out patches by role; the role validation selects the epoch.
    recipe: how it is trained.
    arrays: further arrays to store with the predictions.
    """

    network: keras.Model
    real: Patches
    extra: Patches | None
    held: dict[str, Patches]
    recipe: Recipe
    arrays: dict[str, Any]


def settings_of(experiment: Experiment, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that a stage's trials depend on: those of `names` and of every training, without lists."""
    return subset(experiment, (*TRAINING, *names, "evaluate.tta_views"), (*SET_BY_STAGE, *LISTS))


def predictions(
    run: StageRun, name: str, settings: Any, inputs: dict[str, str], build: Callable[[Path], None]
) -> dict[str, np.ndarray]:
    """Return the arrays of a trial, trained if it is not cached.

    Args:
        name, settings, inputs, build: As `bcgan.artifacts.Cache.get_or_build` takes them; `build` calls `train_trial`.
    """
    return runs.read_arrays(run.cache.get_or_build(name, settings, inputs, build) / PREDICTIONS)


def train_trial(trial: Trial, tta_views: int, folder: Path) -> None:
    """Train, predict every role of `trial.held`, and write the probabilities and `trial.arrays` to a .npz file.

    Probabilities of malignancy are float32, (n,), under the name of their role.

    Raises:
        WorkError: If the loss is NaN or infinite.
    """
    path = folder / f"{folder.name.removesuffix(PARTIAL)}.keras"
    if not path.exists():  # otherwise it was interrupted after it was trained
        train(trial.network, TrainingData(trial.real, trial.extra, trial.held["validation"]), trial.recipe, path)
    best, crop_size = weights.load_model(path), trial.recipe.classify.crop_size
    by_role = {
        role: probabilities(best, central(patches.images, crop_size), tta_views) for role, patches in trial.held.items()
    }
    np.savez_compressed(folder / PREDICTIONS, **trial.arrays, **by_role)
    path.unlink()
