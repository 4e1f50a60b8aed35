"""What the synthetic patches are worth, beside real ones: between a floor, real against real, and a ceiling.

The plain CNN is trained twice for as many steps: on as many real training patches as there are synthetic ones (the
referee), and on the synthetic ones, selected or not. The first gives the features of the distances and recognises the
classes, the second is tested on real patients. KID and FID are measured on ImageNet's features too, where their package
is installed.
"""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from bcgan import progress
from bcgan.classify.reference_cnn import (
    NETWORK,
    load_or_train,
    make_feature_fn,
    max_balanced_size,
    sample_class_balanced,
)
from bcgan.classify.train import Patches, scorer
from bcgan.evaluate import intervals, metrics
from bcgan.experiment import Experiment
from bcgan.gan import scores
from bcgan.models import weights
from bcgan.models.efficientnet_lite import installed, pooled
from bcgan.preprocess.store import GAN_SIZE, Store, load_synthetic, of_role

BLUR = 2.0  # pixels, of the ceiling: real patches that lost their texture
QUANTILES = (2.5, 97.5)
BOUNDS = ("value", "floor", "ceiling")
LEAST_SAMPLES = 4 * scores.NEIGHBOURS  # fewer have no neighbourhood worth the name
MOST_KNOWN = 20_000  # training patches that synthetic ones are compared with for memorization
IMAGENET = "efficientnet_lite2"
DISTANCES = (
    "kid", "fid", "coverage", "density", "precision", "recall", "memorization_rate", "memorization_rate_pixels",
    f"kid_{IMAGENET}", f"fid_{IMAGENET}",
)  # fmt: skip


def evaluate(experiment: Experiment, store: Store, features: Path, folder: Path, xla: bool) -> dict[str, Any]:
    """Score the features stage's synthetic patches.

    Args:
        features: Path. The folder of the features stage.
        folder: Path. Takes the network trained on synthetic patches, so that a kill costs no second training.

    Returns:
        {score: {value, low, high, floor, ceiling, samples, network}}. kid, fid: floor training against validation
        patients, ceiling blurred training patches; also real_vs_real_same_patients (training patches against others of
        the same patients), random_pixels and benign_only (validation patients' benign patches alone).
        coverage, density: floor is what validation patients reach.
        class_fidelity: balanced accuracy, floor chance, ceiling that of real test patches. tstr_roc_auc: trained on
        synthetic, tested on real test patients, ceiling trained on real. memorization_rate: share nearer to a training
        patch than 99 % of training patches are to each other, in features and in pixels, floor that of validation
        patients.
    """
    real, validation, test = (Patches(*of_role(store, role)) for role in ("train", "validation", "test"))
    synthetic = Patches(*load_synthetic(features, GAN_SIZE, selected=False))
    steps = experiment.features.quality_filter.steps
    networks = {
        "real": weights.load_model(features / "reference_cnn.keras"),
        "synthetic": load_or_train(
            synthetic, validation, steps, experiment.seed, folder / f"{NETWORK}-synthetic.keras", xla
        ),
    }
    scores = _distances(experiment, networks["real"], real, validation, synthetic)
    scores["class_fidelity"] = _fidelity(networks["real"], validation, test, synthetic)
    patients = store.index["patient"].to_numpy()[store.rows("test")]
    scores["tstr_roc_auc"] = _tested_on_real(experiment, networks, test, patients)
    return {name: {"low": None, "high": None, "network": NETWORK, **score} for name, score in scores.items()}


def _distances(
    experiment: Experiment, network: keras.Model, real: Patches, validation: Patches, synthetic: Patches
) -> dict[str, dict[str, Any]]:
    number = min(
        experiment.evaluate.num_gan_samples,
        max_balanced_size(real) // 4 * 2,
        *map(max_balanced_size, (validation, synthetic)),
    )
    if number < LEAST_SAMPLES:
        nothing = {"value": None, "floor": None, "ceiling": None, "samples": number}
        return {name: dict(nothing) for name in DISTANCES}
    seed = experiment.seed
    patches = _references(real, validation, synthetic, number, seed)
    extract = make_feature_fn(network)
    features = {name: extract(images) for name, images in patches.items()}
    known = real.images[np.sort(np.random.default_rng(seed).permutation(len(real.images))[:MOST_KNOWN])]
    every = extract(known)
    ours, same = features["value"], features["floor"]
    pixels = thumbnails(known)
    feature_sets = {key: features[key] for key in BOUNDS}
    results = {
        "kid": _kid(features, seed),
        "fid": _fid(features),
        "memorization_rate": {
            "value": scores.memorization_rate(every, ours), "floor": scores.memorization_rate(every, same),
            "ceiling": 1.0,
        },
        "memorization_rate_pixels": {
            key: scores.memorization_rate(pixels, thumbnails(patches[key])) for key in ("value", "floor")
        } | {"ceiling": 1.0},
    }  # fmt: skip
    manifolds = {key: scores.manifold(features["training"], side) for key, side in feature_sets.items()}
    for name in ("coverage", "density", "precision", "recall"):
        results[name] = {key: manifold[name] for key, manifold in manifolds.items()}
    imagenet_features = _seen_by_imagenet(patches) if installed("lite2") else {}
    for name, measure in (("kid", partial(_kid, seed=seed)), ("fid", _fid)):
        results[f"{name}_{IMAGENET}"] = (measure(imagenet_features) if imagenet_features else dict.fromkeys(BOUNDS)) | {
            "network": IMAGENET
        }
    return {name: {**score, "samples": number} for name, score in results.items()}


def _references(
    real: Patches, validation: Patches, synthetic: Patches, number: int, seed: int
) -> dict[str, np.ndarray]:
    """As many patches of each thing that is compared with `training`; half of each class, but for benign_only, of which
    there may be fewer."""
    rng = np.random.default_rng(seed)
    # Two draws of the training patches that share no patch.
    twice, half = sample_class_balanced(real, 2 * number, rng), number // 2
    training, second_half = (np.concatenate([twice.images[k : k + half], twice.images[k + number : k + number + half]])
                       for k in (0, half))  # fmt: skip
    return {
        "training": training,
        "value": sample_class_balanced(synthetic, number, rng).images,
        "floor": sample_class_balanced(validation, number, rng).images,
        "real_vs_real_same_patients": second_half,
        "ceiling": np.stack([cv2.GaussianBlur(patch, (0, 0), BLUR) for patch in training]),
        "random_pixels": rng.integers(0, 256, training.shape, np.uint8),
        "benign_only": rng.permutation(validation.images[validation.labels == 0])[:number],
    }


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Patches at half their size as rows of pixels, float32 in [0, 1]."""
    small = [cv2.resize(patch, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for patch in images]
    return np.stack(small).reshape(len(images), -1).astype(np.float32) / 255


def _seen_by_imagenet(patches: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ends = np.cumsum([len(images) for images in patches.values()])
    features = pooled("lite2", np.concatenate(list(patches.values())))
    return dict(zip(patches, np.split(features, ends[:-1]), strict=True))


def _fid(features: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: scores.fid(features["training"], side) for name, side in features.items() if name != "training"}


def _kid(features: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """The KID of each side against the training patches' features, and the spread of the value's subsets."""
    real = features["training"]
    subsets = {
        name: scores.kid(real, side, len(real) // 2, seed) for name, side in features.items() if name != "training"
    }
    low, high = np.percentile(subsets["value"], QUANTILES)
    return {name: float(values.mean()) for name, values in subsets.items()} | {"low": float(low), "high": float(high)}


def _fidelity(network: keras.Model, validation: Patches, test: Patches, synthetic: Patches) -> dict[str, Any]:
    score = scorer(network)
    threshold = metrics.operating_points(validation.labels, score(validation.images))["youden"]

    def accuracy(side: Patches) -> float:
        weights = np.ones((1, len(side.labels)))
        return float(metrics.measure(side.labels, score(side.images), threshold, weights)["balanced_accuracy"][0])

    value, ceiling = accuracy(synthetic), accuracy(test)
    return {"value": value, "floor": 0.5, "ceiling": ceiling, "samples": len(synthetic.labels)}


def _tested_on_real(
    experiment: Experiment, networks: dict[str, keras.Model], test: Patches, patients: np.ndarray
) -> dict[str, Any]:
    settings = experiment.evaluate
    areas = {
        name: intervals.with_intervals(
            test.labels, intervals.Scored({0: scorer(network)(test.images)}, {0: 0.5}), patients,
            settings.bootstrap_samples, settings.confidence_level, experiment.seed,
        )["roc_auc"]
        for name, network in networks.items()
    }  # fmt: skip
    ours = {key: areas["synthetic"][key] for key in ("value", "low", "high")}
    return {**ours, "floor": 0.5, "ceiling": areas["real"]["value"], "samples": len(test.labels)}


def log_scores(scores: dict[str, Any]) -> None:
    for name, score in scores.items():
        numbers = [
            "not defined" if score[key] is None else f"{score[key]:.4f}" for key in ("value", "floor", "ceiling")
        ]
        progress.log.info("evaluate: GAN %-24s %s (floor %s, ceiling %s)", name, *numbers)
