"""The reference CNN: a plain CNN that is trained on real training patches only.

Synthetic and real patches are compared in its features, and the quality filter uses it to accept synthetic patches.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from bcgan.classes import count_classes
from bcgan.classify.train import Patches, Recipe, TrainingData, make_predict_fn, train
from bcgan.data import batches
from bcgan.gan import quality_filter
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.settings import Classifier, Classify
from bcgan.settings import QualityFilter as FilterSettings

NETWORK = "cnn"
MAX_EPOCHS = 12  # limits the evaluations on the validation set, which few training patches would make hundreds


def load_or_train(patches: Patches, validation: Patches, steps: int, seed: int, path: Path, xla: bool) -> keras.Model:
    """Train the plain CNN for about `steps` steps, or load it from `path` if it was trained before.

    Args:
        patches: Real training patches, or synthetic ones to train on synthetic and test on real.
        validation: Patches that select the epoch.
    """
    if not path.exists():
        settings = Classify()
        epoch_steps = min(steps, max(1, len(patches.labels) // settings.batch_size, steps // MAX_EPOCHS))
        classifier_settings = Classifier(epochs=max(1, round(steps / epoch_steps)))
        keras.utils.set_random_seed(seed)
        num_classes = count_classes(patches.labels)
        network = build_classifier(NETWORK, patches.images.shape[1], num_classes=num_classes)
        recipe = Recipe(settings, classifier_settings, seed, xla, epoch_steps)
        train(network, TrainingData(patches, None, validation), recipe, path)
    return weights.load_model(path)


def make_feature_fn(network: keras.Model):
    """Return a function from uint8 patches, (n, size, size, 3), to the input of the head, float64, (n, features)."""
    extract = keras.Model(network.inputs, network.get_layer("logit").input)

    def extract_batch(images: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.cast(extract(batches.to_float(images), training=False), "float32"), np.float64)

    return lambda images: batches.map_in_batches(extract_batch, images)


def fit_quality_filter(network: keras.Model, real: Patches, settings: FilterSettings) -> quality_filter.QualityFilter:
    """Fit the quality filter on the network's features of real training patches.

    The filter accepts a synthetic patch by its distance to real patches of its class, and by its predicted probability.
    """
    features = make_feature_fn(network)(real.images)
    return quality_filter.fit(features, real.labels, settings.distance_quantile, settings.min_confidence)


def make_filter_fn(
    network: keras.Model, fitted: quality_filter.QualityFilter
) -> Callable[[np.ndarray, np.ndarray], pd.DataFrame]:
    """Return the function that applies the quality filter to synthetic patches, uint8, given with their labels.

    It returns a table with a row for each patch: confidence, the probability of its label; distance to real patches of
    its class, where 1 is the limit; and filter_result, a name of `quality_filter.RESULTS`.
    """
    extract, predict = make_feature_fn(network), make_predict_fn(network)

    def apply(images: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
        confidence, distance, result = quality_filter.apply(fitted, extract(images), predict(images), labels)
        names = np.array(quality_filter.RESULTS)[result]
        return pd.DataFrame({"confidence": confidence, "distance": distance, "filter_result": names})

    return apply


def sample_matching(real: Patches, count: int, seed: int) -> Patches:
    """Draw `count` real patches, as many of each class, or as many as possible."""
    return sample_class_balanced(real, min(count, max_balanced_size(real)), np.random.default_rng(seed))


def sample_class_balanced(patches: Patches, count: int, rng: np.random.Generator) -> Patches:
    """Draw `count` patches, as many of each class, so that two samples have the same class balance."""
    num_classes = count_classes(patches.labels)
    groups = [np.flatnonzero(patches.labels == label) for label in range(num_classes)]
    rows = np.concatenate([rng.choice(group, count // num_classes, replace=False) for group in groups])
    return Patches(patches.images[rows], patches.labels[rows])


def max_balanced_size(patches: Patches) -> int:
    """Return the largest number of patches that `sample_class_balanced` can draw."""
    num_classes = count_classes(patches.labels)
    return num_classes * int(np.bincount(patches.labels, minlength=num_classes).min())
