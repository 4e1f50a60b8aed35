"""What the synthetic patches are worth, beside real ones: between a floor, real against real, and a ceiling.

A small network, the plain CNN, is trained twice for as many steps: on real training patches and on synthetic ones. The
first gives the features of every distance and recognises the classes, the second is tested on real patients.
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
from bcgan.preprocess.store import GAN_SIZE, Store, at_size, load_synthetic

NETWORK = "cnn"
BLUR = 2.0  # pixels, of the ceiling: real patches that lost their texture
QUANTILES = (2.5, 97.5)


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
    networks = {
        name: _trained(experiment, patches, validation, folder / f"{NETWORK}-{name}.keras", xla)
        for name, patches in (("real", real), ("synthetic", made))
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
    number = min(experiment.evaluate.gan_samples, *(2 * np.bincount(side.labels, minlength=2).min() for side in
                                                    (real, validation, made)))  # fmt: skip
    rng = np.random.default_rng(experiment.seed)
    training, held_out, synthetic = (_balanced(side, number, rng) for side in (real, validation, made))
    blurred = np.stack([cv2.GaussianBlur(patch, (0, 0), BLUR) for patch in training])
    extract = _features(network)
    x, same, ours, poor = (extract(side) for side in (training, held_out, synthetic, blurred))
    every = extract(real.images)
    sides = {"value": ours, "floor": same, "ceiling": poor}
    kids = {key: scores.kid(x, side, number // 2, experiment.seed) for key, side in sides.items()}
    low, high = np.percentile(kids["value"], QUANTILES)
    found = {
        "kid": {name: float(values.mean()) for name, values in kids.items()} | {"low": float(low), "high": float(high)},
        "fid": {key: scores.fid(x, side) for key, side in sides.items()},
        "memorised": {"value": scores.memorised(every, ours), "floor": scores.memorised(every, same), "ceiling": 1.0},
    }
    manifolds = {key: scores.manifold(x, side) for key, side in sides.items()}
    for name in ("coverage", "density", "precision", "recall"):
        found[name] = {key: manifold[name] for key, manifold in manifolds.items()}
    return {name: {**score, "samples": int(number)} for name, score in found.items()}


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


def _balanced(side: Patches, number: int, rng: np.random.Generator) -> np.ndarray:
    """Half of each class, so that a difference of class shares is not taken for one of the pictures."""
    rows = [rng.choice(np.flatnonzero(side.labels == label), number // 2, replace=False) for label in (0, 1)]
    return side.images[np.concatenate(rows)]


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
        progress.log.info("evaluate: GAN %-14s %.4f (floor %.4f, ceiling %.4f)", name, score["value"], score["floor"],
                          score["ceiling"])  # fmt: skip
