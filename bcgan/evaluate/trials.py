"""One training whose weights nobody keeps: what it says of held-out patches is the result."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from bcgan.classify.scoring import probabilities
from bcgan.classify.train import Patches, train
from bcgan.data.views import central
from bcgan.experiment import Classifier, Classify
from bcgan.models import weights


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
    beside: dict[str, Any],
    **more: Any,
) -> None:
    """Train and write `path` (.npz): by role the probabilities of malignancy, float32 (n,), and the arrays of `beside`.

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
    np.savez_compressed(part, **beside, **found)
    part.replace(path)
    model.unlink()
