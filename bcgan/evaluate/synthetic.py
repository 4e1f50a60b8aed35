"""Scores of the synthetic patches, each with a floor (real against real patches) and a ceiling.

A plain CNN is trained twice, for as many steps: on as many real training patches as there are synthetic ones (the
reference CNN), and on all synthetic patches. The first gives the features of the distances and recognizes the classes;
the second is tested on real patients. If EfficientNet-Lite2's weights are installed, KID, FID and the repetition rate
are also measured on its ImageNet features; so are KID and FID on those of the published FID's network, if the user
provides it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from bcgan import progress
from bcgan.classes import count_classes
from bcgan.classify.reference_cnn import (
    NETWORK,
    load_or_train,
    make_feature_fn,
    max_balanced_size,
    sample_class_balanced,
)
from bcgan.classify.train import Patches, make_predict_fn
from bcgan.evaluate import inception, intervals, metrics
from bcgan.experiment import Experiment
from bcgan.gan import distances, scores, watch
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights, make_pooled_feature_fn
from bcgan.preprocess.store import Store, load_role, load_synthetic

BLUR_SIGMA = 0.04  # of the side, 2 of 50 pixels: of the real patches without texture that give the ceiling
INTERVAL_PERCENTILES = (2.5, 97.5)
BOUNDS = ("value", "floor", "ceiling")
COMPARED_SETS = ("training", "value", "floor")  # of `_sample_patch_sets`, among which copies are counted
MIN_SAMPLES = 4 * scores.NUM_NEIGHBORS  # with fewer, nearest neighbors are not near
MIN_CLASS_SAMPLES = 100  # with fewer of a class, a quantile of 1 % is the distance of one pair
MAX_MEMORIZATION_PATCHES = 20_000  # training patches that synthetic ones are compared with for memorization
IMAGENET = "efficientnet_lite2"
DISTANCES = (
    "kid", "fid", "coverage", "density", "precision", "recall", "memorization_rate", "memorization_rate_pixels",
    "repetition_rate", "repetition_rate_layout", f"kid_{IMAGENET}", f"fid_{IMAGENET}", f"repetition_rate_{IMAGENET}",
)  # fmt: skip


def evaluate(experiment: Experiment, store: Store, features: Path, folder: Path, xla: bool) -> dict[str, Any]:
    """Score the features stage's synthetic patches.

    Args:
        features: Folder of the stage `features`.
        folder: Where the network trained on synthetic patches is written, so that an interrupted stage reuses it.
        xla: Whether training steps are compiled by XLA.

    Returns:
        {score: {value, low, high, floor, ceiling, samples, network}}; floor and ceiling are two references on the same
        scale.

        - kid, fid: floor training against validation patients, ceiling blurred training patches; also
          real_vs_real_same_patients (training patches against others of the same patients), random_pixels and
          benign_only (validation patients' patches of the first class alone).
        - coverage, density, precision, recall: floor is what validation patients reach, ceiling blurred training
          patches.
        - class_fidelity: balanced accuracy of the reference CNN on synthetic patches; floor chance, ceiling that of
          real test patches.
        - tstr_roc_auc: trained on synthetic, tested on real test patients; floor chance, ceiling trained on real.
        - memorization_rate: share nearer to a training patch than 99 % of training patches are to each other, in
          features and in pixels, in any orientation; floor that of validation patients, ceiling 1.
        - repetition_rate: share nearer to its nearest synthetic neighbor of the class than 99 % of training patches are
          to theirs, in features and in the brightness of a coarse grid, in any orientation; floor that of validation
          patients, ceiling 1; `None` with fewer than MIN_CLASS_SAMPLES patches of a class.
    """
    real, validation, test = (Patches(*load_role(store, role)) for role in ("train", "validation", "test"))
    synthetic = Patches(*load_synthetic(features, experiment.data.size, accepted_only=False))
    steps = experiment.features.quality_filter.steps
    networks = {
        "real": weights.load_model(features / "reference_cnn.keras"),
        "synthetic": load_or_train(
            synthetic, validation, steps, experiment.seed, folder / f"{NETWORK}-synthetic.keras", xla
        ),
    }
    results = _score_distances(experiment, networks["real"], real, validation, synthetic)
    results["class_fidelity"] = _score_class_fidelity(networks["real"], validation, test, synthetic)
    patients = store.index["patient"].to_numpy()[store.role_indices("test")]
    results["tstr_roc_auc"] = _score_train_synthetic_test_real(experiment, networks, test, patients)
    return {name: {"low": None, "high": None, "network": NETWORK, **score} for name, score in results.items()}


def _score_distances(
    experiment: Experiment, network: keras.Model, real: Patches, validation: Patches, synthetic: Patches
) -> dict[str, dict[str, Any]]:
    """Return {score: {value, floor, ceiling, samples, ...}} for DISTANCES; see `evaluate`.

    The values are `None` if a set has fewer than MIN_SAMPLES patches.

    Args:
        network: The reference CNN, whose features are compared.
    """
    count = min(
        experiment.evaluate.num_gan_samples,
        max_balanced_size(real) // 2,
        *map(max_balanced_size, (validation, synthetic)),
    )
    count -= count % experiment.num_classes
    if count < MIN_SAMPLES:
        return {name: {"value": None, "floor": None, "ceiling": None, "samples": count} for name in DISTANCES}
    seed = experiment.seed
    patches = _sample_patch_sets(real, validation, synthetic, count, seed)
    extract = make_feature_fn(network)
    features = {name: extract(images) for name, images in patches.items()}
    order = np.random.default_rng(seed).permutation(len(real.images))
    training = real.images[np.sort(order[:MAX_MEMORIZATION_PATCHES])]
    results = {"kid": _kid(features, seed), "fid": _fid(features)}
    results |= _score_copies(training, patches, distances.average_orientations(extract), experiment.num_classes)
    manifolds = {key: scores.prdc(features["training"], features[key]) for key in BOUNDS}
    for name in ("coverage", "density", "precision", "recall"):
        results[name] = {key: manifold[name] for key, manifold in manifolds.items()}
    names = ("kid", "fid", "repetition_rate")
    imagenet_scores: dict[str, dict] = {name: dict.fromkeys(BOUNDS) for name in names}
    if has_weights("lite2"):
        extract_imagenet = make_pooled_feature_fn("lite2")
        imagenet_views = distances.average_orientations(extract_imagenet)
        imagenet_features = {name: extract_imagenet(images) for name, images in patches.items()}
        repetition = _repetition_rates(lambda name: imagenet_views(patches[name]), count, experiment.num_classes)
        imagenet_scores = dict(
            zip(names, (_kid(imagenet_features, seed), _fid(imagenet_features), repetition), strict=True)
        )
    for name, score in imagenet_scores.items():
        results[f"{name}_{IMAGENET}"] = score | {"network": IMAGENET}
    if path := experiment.evaluate.inception_graph:
        extract = inception.make_feature_fn(path)
        features = {name: extract(patches[name]) for name in ("training", *BOUNDS)}
        for name, score in (("kid", _kid(features, seed)), ("fid", _fid(features))):
            results[f"{name}_{inception.NETWORK}"] = score | {"network": inception.NETWORK}
    return {name: {**score, "samples": count} for name, score in results.items()}


def _sample_patch_sets(
    real: Patches, validation: Patches, synthetic: Patches, count: int, seed: int
) -> dict[str, np.ndarray]:
    """Return the training patches and the sets that are compared with them, by name.

    Returns:
        {training, value, floor, real_vs_real_same_patients, ceiling, random_pixels, benign_only}: uint8, (count, size,
        size, 3), as many of each class, sorted by class. value are synthetic patches, floor validation patients',
        ceiling blurred training patches. benign_only has patches of the first class only, and may have fewer.
    """
    rng = np.random.default_rng(seed)
    # One draw, sorted by class, that is divided into two sets without a common patch.
    double = sample_class_balanced(real, 2 * count, rng).images
    # (classes, 2, count / classes, size, size, 3): of each class, two halves.
    halves = double.reshape(count_classes(real.labels), 2, -1, *double.shape[1:])
    training, other_training = (halves[:, half].reshape(-1, *double.shape[1:]) for half in (0, 1))
    return {
        "training": training,
        "value": sample_class_balanced(synthetic, count, rng).images,
        "floor": sample_class_balanced(validation, count, rng).images,
        "real_vs_real_same_patients": other_training,
        "ceiling": np.stack([cv2.GaussianBlur(patch, (0, 0), BLUR_SIGMA * training.shape[1]) for patch in training]),
        "random_pixels": rng.integers(0, 256, training.shape, np.uint8),
        "benign_only": rng.permutation(validation.images[validation.labels == 0])[:count],
    }


def _score_copies(
    training: np.ndarray,
    patches: dict[str, np.ndarray],
    extract: Callable[[np.ndarray], np.ndarray],
    num_classes: int,
) -> dict[str, dict[str, float | None]]:
    """Return {score: {value, floor, ceiling}}: how many patches copy a training patch, or repeat one another.

    Turned and mirrored copies count: the generator is trained on patches in all orientations.

    Args:
        training: uint8, (n, size, size, 3). Patches that synthetic ones are compared with for memorization.
        patches: From `_sample_patch_sets`.
        extract: From `distances.average_orientations`.
    """
    count = len(patches["training"])
    features = {key: extract(patches[key]) for key in COMPARED_SETS}
    layouts = {key: watch.compute_layouts(patches[key]) for key in COMPARED_SETS}
    training_features, training_pixels = extract(training), distances.reduce_pixels(training)
    return {
        "memorization_rate": {
            key: scores.memorization_rate(training_features, features[key]) for key in ("value", "floor")
        } | {"ceiling": 1.0},
        "memorization_rate_pixels": {
            key: scores.memorization_rate(
                training_pixels, distances.reduce_pixels(patches[key]), side=distances.PIXEL_SIDE
            )
            for key in ("value", "floor")
        } | {"ceiling": 1.0},
        "repetition_rate": _repetition_rates(features.__getitem__, count, num_classes),
        "repetition_rate_layout": _repetition_rates(layouts.__getitem__, count, num_classes, side=watch.GRID_CELLS),
    }  # fmt: skip


def _repetition_rates(
    represent: Callable[[str], np.ndarray], count: int, num_classes: int, side: int | None = None
) -> dict[str, float | None]:
    """Return {value, floor, ceiling}: the repetition rates of synthetic and validation patches, and 1.

    Each is `None` with fewer than MIN_CLASS_SAMPLES patches of a class.

    Args:
        represent: Returns the features or images of a set of COMPARED_SETS by its name, float, (count, d), sorted by
            class.
        count: Patches of a set.
        side: As in `scores.repetition_rate`.
    """
    if count < MIN_CLASS_SAMPLES * num_classes:
        return dict.fromkeys(BOUNDS)
    real, value, floor = (represent(name) for name in COMPARED_SETS)
    rates = (scores.repetition_rate(real, rows, num_classes, side=side) for rows in (value, floor))
    return dict(zip(BOUNDS, (*rates, 1.0), strict=True))


def _fid(features: dict[str, np.ndarray]) -> dict[str, float]:
    """Return {set: FID of its features, (n, d), from those of the set `training`}."""
    return {name: scores.fid(features["training"], rows) for name, rows in features.items() if name != "training"}


def _kid(features: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """Return {set: KID of its features, (n, d), from those of the set `training`}, and low and high.

    low and high are INTERVAL_PERCENTILES of the KID over random subsets of the set `value`.
    """
    real = features["training"]
    subsets = {
        name: scores.kid(real, rows, min(len(real) // 2, len(rows)), seed)
        for name, rows in features.items()
        if name != "training"
    }
    low, high = np.percentile(subsets["value"], INTERVAL_PERCENTILES)
    return {name: float(values.mean()) for name, values in subsets.items()} | {"low": float(low), "high": float(high)}


def _score_class_fidelity(
    network: keras.Model, validation: Patches, test: Patches, synthetic: Patches
) -> dict[str, Any]:
    """Return {value, floor, ceiling, samples} of the reference CNN's balanced accuracy on synthetic patches.

    The floor is chance, the ceiling that on real test patches. The threshold is selected on validation patches.
    """
    predict = make_predict_fn(network)
    threshold = metrics.select_threshold(validation.labels, predict(validation.images))

    def balanced_accuracy(patches: Patches) -> float:
        """Return the balanced accuracy on some patches."""
        unit_weights = np.ones((1, len(patches.labels)))
        measured = metrics.compute_metrics(patches.labels, predict(patches.images), threshold, unit_weights)
        return float(measured["balanced_accuracy"][0])

    value, ceiling = balanced_accuracy(synthetic), balanced_accuracy(test)
    chance = 1 / count_classes(test.labels)
    return {"value": value, "floor": chance, "ceiling": ceiling, "samples": len(synthetic.labels)}


def _score_train_synthetic_test_real(
    experiment: Experiment, networks: dict[str, keras.Model], test: Patches, patients: np.ndarray
) -> dict[str, Any]:
    """Return {value, low, high, floor, ceiling, samples}: ROC AUC on real test patches by training on synthetic ones.

    The floor is chance, the ceiling the ROC AUC by training on real patches.

    Args:
        networks: The CNNs, by `real` and `synthetic`: the patches that they were trained on.
        patients: (n,). The patient of each test patch.
    """
    areas = {}
    for name, network in networks.items():
        predictions = intervals.SeedPredictions({0: make_predict_fn(network)(test.images)}, {0: 0.5})
        measured = intervals.metrics_with_intervals(test.labels, predictions, patients, *experiment.bootstrap)
        areas[name] = measured["roc_auc"]
    estimate = {key: areas["synthetic"][key] for key in ("value", "low", "high")}
    return {**estimate, "floor": 0.5, "ceiling": areas["real"]["value"], "samples": len(test.labels)}


def log_scores(scores: dict[str, Any]) -> None:
    """Log every score with its floor and ceiling."""
    for name, score in scores.items():
        numbers = [
            "not defined" if score[key] is None else f"{score[key]:.4f}" for key in ("value", "floor", "ceiling")
        ]
        progress.log.info("evaluate: GAN %-24s %s (floor %s, ceiling %s)", name, *numbers)
