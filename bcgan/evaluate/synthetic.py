"""What the synthetic patches are worth, beside real ones: between a floor, real against real, and a ceiling.

A small network, the plain CNN, is trained twice for as many steps: on real training patches, as many as there are
synthetic ones, and on the synthetic ones. The first gives the features of the distances and recognises the classes, the
second is tested on real patients. KID is measured on ImageNet's features too, where their package is installed.
"""

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from bcgan import progress
from bcgan.classify.train import Patches, scorer, train
from bcgan.data import batches
from bcgan.evaluate import intervals, metrics
from bcgan.experiment import Classifier, Experiment
from bcgan.gan import scores
from bcgan.models import weights
from bcgan.models.classifier import classifier
from bcgan.models.efficientnet_lite import efficientnet_lite, installed
from bcgan.preprocess.store import GAN_SIZE, Store, at_size, load_synthetic

NETWORK = "cnn"
BLUR = 2.0  # pixels, of the ceiling: real patches that lost their texture
QUANTILES = (2.5, 97.5)
SIDES = ("value", "floor", "ceiling")
LEAST_SAMPLES = 4 * scores.NEIGHBOURS  # fewer have no neighbourhood worth the name
IMAGENET_KID = "kid_efficientnet_lite2"
IMAGENET_SIZE = 100  # pixels
DISTANCES = ("kid", "fid", "coverage", "density", "precision", "recall", "memorised")


def evaluate(experiment: Experiment, store: Store, features: Path, folder: Path, xla: bool) -> dict[str, Any]:
    """Score the features stage's synthetic patches.

    Args:
        features: Path. The folder of the features stage.
        folder: Path. Takes the two trained networks, so that a kill costs one training at most.

    Returns:
        {score: {value, low, high, floor, ceiling, samples, network}}. kid, fid: floor training against validation
        patients, ceiling blurred training patches. coverage, density: floor is what validation patients reach.
        class_fidelity: balanced accuracy, floor chance, ceiling the real validation patches' own. tstr_roc_auc: trained
        on synthetic, tested on real test patients, ceiling trained on real. memorised: share nearer to a training patch
        than 99 % of training patches are to each other, floor that of validation patients.
    """
    labels = store.index["label"].to_numpy()
    real, validation, test = (
        Patches(at_size(store.images[rows], GAN_SIZE), labels[rows])
        for rows in map(store.rows, ("train", "validation", "test"))
    )
    made = Patches(*load_synthetic(features, GAN_SIZE))
    rng = np.random.default_rng(experiment.seed)
    as_many = _balanced(real, min(len(made.labels), _pairs(real)), rng)
    networks = {
        name: _trained(experiment, patches, validation, folder / f"{NETWORK}-{name}.keras", xla)
        for name, patches in (("real", as_many), ("synthetic", made))
    }
    found = _distances(experiment, networks["real"], real, validation, made)
    found["class_fidelity"] = _fidelity(networks["real"], validation, made)
    patients = store.index["patient"].to_numpy()[store.rows("test")]
    found["tstr_roc_auc"] = _tested_on_real(experiment, networks, test, patients)
    return {name: {"low": None, "high": None, "network": NETWORK, **score} for name, score in found.items()}


def _trained(experiment: Experiment, patches: Patches, validation: Patches, path: Path, xla: bool) -> keras.Model:
    if not path.exists():
        settings = experiment.classify.model_copy(update={"crop": None})
        epoch_steps = max(1, len(patches.labels) // settings.batch)
        own = Classifier(epochs=max(1, round(experiment.evaluate.tstr_steps / epoch_steps)))
        keras.utils.set_random_seed(experiment.seed)
        network = classifier(NETWORK, GAN_SIZE)
        train(network, patches, None, validation, settings, own, experiment.seed, path, xla)
    return weights.load_model(path)


def _distances(
    experiment: Experiment, network: keras.Model, real: Patches, validation: Patches, made: Patches
) -> dict[str, dict[str, Any]]:
    number = min(experiment.evaluate.gan_samples, *map(_pairs, (real, validation, made)))
    if number < LEAST_SAMPLES:
        nothing = {"value": None, "floor": None, "ceiling": None, "samples": number}
        return {name: dict(nothing) for name in (*DISTANCES, IMAGENET_KID)}
    rng = np.random.default_rng(experiment.seed)
    training, held_out, synthetic = (_balanced(side, number, rng).images for side in (real, validation, made))
    blurred = np.stack([cv2.GaussianBlur(patch, (0, 0), BLUR) for patch in training])
    extract = _features(network)
    patches = (training, held_out, synthetic, blurred)
    x, same, ours, poor = map(extract, patches)
    every = extract(real.images)
    sides = {"value": ours, "floor": same, "ceiling": poor}
    found = {
        "kid": _kid(x, sides, experiment.seed),
        "fid": {key: scores.fid(x, side) for key, side in sides.items()},
        "memorised": {"value": scores.memorised(every, ours), "floor": scores.memorised(every, same), "ceiling": 1.0},
    }
    manifolds = {key: scores.manifold(x, side) for key, side in sides.items()}
    for name in ("coverage", "density", "precision", "recall"):
        found[name] = {key: manifold[name] for key, manifold in manifolds.items()}
    found[IMAGENET_KID] = _imagenet_kid(patches, experiment.seed)
    return {name: {**score, "samples": number} for name, score in found.items()}


def _kid(real: np.ndarray, sides: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """The KID of each side against real features, and the spread of the value's subsets."""
    subsets = {key: scores.kid(real, side, len(real) // 2, seed) for key, side in sides.items()}
    low, high = np.percentile(subsets["value"], QUANTILES)
    return {key: float(values.mean()) for key, values in subsets.items()} | {"low": float(low), "high": float(high)}


def _imagenet_kid(patches: tuple[np.ndarray, ...], seed: int) -> dict[str, Any]:
    """KID on EfficientNet-Lite2's pooled ImageNet features; nulls where its package is not installed."""
    if not installed("lite2"):
        return dict.fromkeys(SIDES)
    network = efficientnet_lite("lite2", IMAGENET_SIZE)

    def extract(images: np.ndarray) -> np.ndarray:
        large = (
            batches.scale(at_size(images[start : start + 128], IMAGENET_SIZE)) for start in range(0, len(images), 128)
        )
        return np.concatenate([np.asarray(network(part, training=False), np.float64) for part in large])

    real, same, ours, poor = map(extract, patches)
    return _kid(real, {"value": ours, "floor": same, "ceiling": poor}, seed) | {"network": "efficientnet_lite2"}


def _fidelity(network: keras.Model, validation: Patches, made: Patches) -> dict[str, Any]:
    score = scorer(network)
    real, synthetic = score(validation.images), score(made.images)
    threshold = metrics.youden_threshold(validation.labels, real)

    def balanced(labels, found):
        return float(metrics.measure(labels, found, threshold, np.ones((1, len(labels))))["balanced_accuracy"][0])

    value, ceiling = balanced(made.labels, synthetic), balanced(validation.labels, real)
    return {"value": value, "floor": 0.5, "ceiling": ceiling, "samples": len(made.labels)}


def _tested_on_real(
    experiment: Experiment, networks: dict[str, keras.Model], test: Patches, patients: np.ndarray
) -> dict[str, Any]:
    settings = experiment.evaluate
    areas = {
        name: intervals.with_intervals(
            test.labels, {0: scorer(network)(test.images)}, {0: 0.5}, patients,
            settings.resamples, settings.confidence, experiment.seed,
        )["roc_auc"]
        for name, network in networks.items()
    }  # fmt: skip
    ours = {key: areas["synthetic"][key] for key in ("value", "low", "high")}
    return {**ours, "floor": 0.5, "ceiling": areas["real"]["value"], "samples": len(test.labels)}


def _pairs(side: Patches) -> int:
    """How many patches can be drawn, half of each class."""
    return 2 * int(np.bincount(side.labels, minlength=2).min())


def _balanced(side: Patches, number: int, rng: np.random.Generator) -> Patches:
    """Half of each class, so that a difference of class shares is not taken for one of the pictures."""
    rows = [rng.choice(np.flatnonzero(side.labels == label), number // 2, replace=False) for label in (0, 1)]
    rows = np.concatenate(rows)
    return Patches(side.images[rows], side.labels[rows])


def _features(network: keras.Model):
    """From uint8 patches to what the binary head sees, float64 (n, features)."""
    extract = keras.Model(network.inputs, network.get_layer("logit").input)

    def run(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), 256)
        found = [extract(batches.scale(images[start : start + 256]), training=False) for start in starts]
        return np.concatenate([np.asarray(keras.ops.cast(part, "float32"), np.float64) for part in found])

    return run


def log_scores(found: dict[str, Any]) -> None:
    for name, score in found.items():
        numbers = [
            "not defined" if score[key] is None else f"{score[key]:.4f}" for key in ("value", "floor", "ceiling")
        ]
        progress.log.info("evaluate: GAN %-14s %s (floor %s, ceiling %s)", name, *numbers)
