"""Trials: trainings of which only the predictions on held-out patches are stored, as cached artifacts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bcgan import runs
from bcgan.artifacts import PARTIAL, StageRun
from bcgan.classify import linear
from bcgan.classify.scoring import predict_probabilities
from bcgan.classify.train import Patches, Recipe, TrainingData
from bcgan.experiment import SET_BY_STAGE, TRAINING, Experiment, subset
from bcgan.models import weights
from bcgan.settings import Evaluate

PREDICTIONS = "predictions.npz"
# Settings that list all trials of a stage; a single trial does not depend on them.
TRIAL_LISTS = (
    "classify.models", "learning_curve.train_fractions", "learning_curve.arms", "learning_curve.seeds",
    "ablation.variants", "ablation.seeds", "ablation.model", "cross_validation.models",
)  # fmt: skip


class Trial(NamedTuple):
    """What a trial trains and predicts."""

    network: keras.Model  # the untrained classifier
    real: Patches  # training patches
    synthetic: Patches | None  # patches that join the real ones in every batch
    held_out: dict[str, Patches]  # by role; the role validation selects the epoch
    recipe: Recipe  # how it is trained
    arrays: dict[str, Any]  # more arrays to store with the predictions


def trial_settings(experiment: Experiment, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that every trial of a stage depends on: those of `names`, and those of every training."""
    return subset(
        experiment, (*TRAINING, *names, "evaluate.tta_views", "evaluate.test_crops"), (*SET_BY_STAGE, *TRIAL_LISTS)
    )


def get_predictions(
    run: StageRun, name: str, settings: Any, inputs: dict[str, str], build: Callable[[Path], None]
) -> dict[str, np.ndarray]:
    """Return the arrays of a trial, trained if it is not cached.

    Args:
        name, settings, inputs, build: As `bcgan.artifacts.Cache.get_or_build` takes them; `build` calls `train_trial`.
    """
    return runs.read_arrays(run.cache.get_or_build(name, settings, inputs, build) / PREDICTIONS)


def train_trial(trial: Trial, settings: Evaluate, folder: Path) -> None:
    """Train, predict every role of `trial.held_out`, and write the predictions into `folder`.

    The .npz file PREDICTIONS has `trial.arrays`, and each role's probabilities under its name: float32, of the second
    of two classes, (n,), or of each class, (n, classes).

    Raises:
        WorkError: If the loss is NaN or infinite.
    """
    path = folder / f"{folder.name.removesuffix(PARTIAL)}.keras"
    if not path.exists():  # otherwise it was interrupted after it was trained
        data = TrainingData(trial.real, trial.synthetic, trial.held_out["validation"])
        linear.fit(trial.network, data, trial.recipe, path)
    network = weights.load_model(path)
    by_role = {
        role: predict_probabilities(network, patches.images, settings.tta_views, settings.test_crops)
        for role, patches in trial.held_out.items()
    }
    np.savez_compressed(folder / PREDICTIONS, **trial.arrays, **by_role)
    path.unlink()
