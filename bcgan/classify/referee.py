"""The referee: the plain CNN, trained on real training patches alone. It says which class a synthetic patch shows, and
its features are where synthetic and real patches are compared."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd

from bcgan.classify.train import Patches, scorer, train
from bcgan.data import batches
from bcgan.experiment import Classifier, Classify
from bcgan.experiment import Referee as Settings
from bcgan.gan import selection
from bcgan.models import weights
from bcgan.models.classifier import classifier

NETWORK = "cnn"
MOST_EPOCHS = 12  # looks at the validation patients; few patches would otherwise mean hundreds


def trained(patches: Patches, validation: Patches, steps: int, seed: int, path: Path, xla: bool) -> keras.Model:
    """The plain CNN after about so many steps; read from `path` where it was trained before.

    Args:
        patches: Patches. Real training patches, or synthetic ones to train on synthetic and test on real.
        validation: Patches. Choose the epoch.
    """
    if not path.exists():
        settings = Classify()
        epoch_steps = min(steps, max(1, len(patches.labels) // settings.batch, steps // MOST_EPOCHS))
        classifier_settings = Classifier(epochs=max(1, round(steps / epoch_steps)))
        keras.utils.set_random_seed(seed)
        network = classifier(NETWORK, patches.images.shape[1])
        train(network, patches, None, validation, settings, classifier_settings, seed, path, xla, epoch_steps)
    return weights.load_model(path)


def extractor(network: keras.Model):
    """A function from uint8 patches to what the binary head sees, float64 (n, features)."""
    extract = keras.Model(network.inputs, network.get_layer("logit").input)

    def run(part: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.cast(extract(batches.scale(part), training=False), "float32"), np.float64)

    return lambda images: batches.by_parts(run, images)


def selector(network: keras.Model, real: Patches, settings: Settings) -> selection.Selector:
    """What the referee lets through, from the real training patches."""
    return selection.fit(extractor(network)(real.images), real.labels, settings.quantile, settings.confidence)


def select(network: keras.Model, chosen: selection.Selector, images: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """A row a synthetic patch: confidence in the label that was asked for, distance (1: the limit), verdict."""
    confidence, distance, verdict = selection.judge(chosen, extractor(network)(images), scorer(network)(images), labels)
    names = np.array(selection.VERDICTS)[verdict]
    return pd.DataFrame({"confidence": confidence, "distance": distance, "verdict": names})


def as_many(real: Patches, number: int, seed: int) -> Patches:
    """As many real patches as there are synthetic ones, if there are, half of each class."""
    return balanced(real, min(number, pairs(real)), np.random.default_rng(seed))


def balanced(side: Patches, number: int, rng: np.random.Generator) -> Patches:
    """So many patches, half of each class: a difference of class shares must not look like one of the pictures."""
    rows = [rng.choice(np.flatnonzero(side.labels == label), number // 2, replace=False) for label in (0, 1)]
    rows = np.concatenate(rows)
    return Patches(side.images[rows], side.labels[rows])


def pairs(side: Patches) -> int:
    """How many patches `balanced` can draw."""
    return 2 * int(np.bincount(side.labels, minlength=2).min())
