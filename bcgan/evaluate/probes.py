"""Linear probes: how well the class can be predicted from the discriminator's features, and from controls.

A probe is a logistic regression on standardized features. Its penalty is selected on validation patients, and it is
tested once. Each seed resamples the training patients with replacement, and initializes the untrained discriminator.
The controls are an untrained discriminator, color and texture, a supervised network, and ImageNet features.
"""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bcgan import progress, runs
from bcgan.classify.reference_cnn import make_feature_fn
from bcgan.data import batches
from bcgan.evaluate import intervals, metrics
from bcgan.experiment import Experiment
from bcgan.gan.features import load_pooled
from bcgan.models import weights
from bcgan.models.discriminator import discriminator, feature_maps
from bcgan.models.efficientnet_lite import has_weights, pooled_features
from bcgan.preprocess.store import Store

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # candidates
COLOR_AND_TEXTURE = ("red", "green", "blue", "contrast", "homogeneity", "sharpness", "density", "coverage")
ROLES = ("train", "validation", "test")
MAX_PATCHES = 10_000  # of a role: more change a probe little, and a logistic regression on millions takes days


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Fit and test all probes, and write probes.json: {features: {dimensions, roc_auc: {value, low, high, seeds}}}."""
    index, seeds = store.index, experiment.evaluate.probe_seeds
    store_rows = np.sort(np.concatenate([subsample(store.role_indices(role), experiment.seed) for role in ROLES]))
    index = index.iloc[store_rows].reset_index(drop=True)
    rows = {role: np.flatnonzero(index["role"] == role) for role in ROLES}
    labels, patients = index["label"].to_numpy(), index["patient"].to_numpy()
    images = store.images[store_rows]
    fixed_features = _seed_independent_features(images, store_rows, root)
    untrained = {seed: _untrained_features(images, experiment, seed) for seed in seeds}
    test, results = rows["test"], {}
    names = [*fixed_features, "untrained_discriminator"]
    with progress.bar(len(names) * len(seeds), "probes", "probe") as bar:
        for name in names:
            scores = {}
            for seed in seeds:
                features = fixed_features.get(name, untrained[seed])
                train = resample_patients(patients, labels, rows["train"], seed)
                scores[seed] = fit_and_score_probe(features, labels, train, rows["validation"], test)
                bar.update()
            predictions = intervals.SeedPredictions(scores, dict.fromkeys(seeds, 0.5))
            estimates = intervals.metrics_with_intervals(
                labels[test], predictions, patients[test], *experiment.bootstrap
            )
            results[name] = {"dimensions": features.shape[1], "roc_auc": estimates["roc_auc"]}
    runs.write_json(folder / "probes.json", results)


def fit_and_score_probe(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Return the test rows' probabilities by a probe with the penalty that is best on validation rows.

    Args:
        features: float, (n, d).
        labels: integers, (n,).
        train, validation, test: Row indices; no patient is in two of them.
    """
    best_model, best_area = None, -1.0
    for inverse_penalty in INVERSE_PENALTIES:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=300)
        )
        model.fit(features[train], labels[train])
        area = metrics.macro_roc_auc(labels[validation], model.decision_function(features[validation]))
        if area > best_area:
            best_model, best_area = model, area
    return metrics.second_or_all(best_model.predict_proba(features[test]))


def subsample(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return row numbers, or MAX_PATCHES of them drawn at random, in random order, if there are more."""
    return rows if len(rows) <= MAX_PATCHES else np.random.default_rng(seed).choice(rows, MAX_PATCHES, replace=False)


def _seed_independent_features(images: np.ndarray, store_rows: np.ndarray, root: Path) -> dict[str, np.ndarray]:
    """Return {name: float, (n, d)}: the features that are the same for every seed of the probes.

    They are those of each block of the discriminator and of all together, of the controls, and of both concatenated.
    """
    pooled = load_pooled(root / "features")
    blocks = {f"discriminator_{block}": features[store_rows] for block, features in pooled.items()}
    discriminator_features = np.concatenate(list(blocks.values()), 1)
    properties = pd.read_csv(root / "features" / "properties.csv", usecols=list(COLOR_AND_TEXTURE)).iloc[store_rows]
    color_texture = properties[list(COLOR_AND_TEXTURE)].to_numpy(np.float32)
    extract = make_feature_fn(weights.load_model(root / "features" / "reference_cnn.keras"))
    cnn_features = extract(images).astype(np.float32)
    features = {
        **blocks, "discriminator_all": discriminator_features, "colour_and_texture": color_texture,
        "supervised_cnn": cnn_features,
        "discriminator_and_cnn": np.concatenate([discriminator_features, cnn_features], 1),
    }  # fmt: skip
    if has_weights("lite2"):
        imagenet = pooled_features("lite2", images).astype(np.float32)
        features["efficientnet_lite2"] = imagenet
        features["discriminator_and_efficientnet_lite2"] = np.concatenate([discriminator_features, imagenet], 1)
    return features


def _untrained_features(images: np.ndarray, experiment: Experiment, seed: int) -> np.ndarray:
    """Return the channel means of all blocks of a discriminator with random weights: float32, (n, channels)."""
    keras.utils.set_random_seed(seed)
    gan = experiment.gan
    maps = feature_maps(discriminator(gan.base_channels, spectral=gan.spectral_norm, size=images.shape[1]))

    def pool(batch: np.ndarray) -> np.ndarray:
        """Return the channel means of a batch."""
        outputs = maps(batches.to_float(batch), training=False)
        return np.concatenate([np.asarray(keras.ops.cast(x, "float32")).mean((1, 2)) for x in outputs], 1)

    return batches.map_in_batches(pool, images)


def resample_patients(patients: np.ndarray, labels: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """Return the training rows of patients drawn with replacement, so that a patient's rows may occur several times.

    It draws again while a class is missing, a hundred times at most; then all training rows are returned once.

    Args:
        patients, labels: (n,). Of each patch.
        train: Row numbers of the training patches.
    """
    rows_by_patient = pd.Series(train).groupby(patients[train]).apply(np.array)
    count = len(rows_by_patient)
    for attempt in range(100):
        drawn_patients = np.random.default_rng((seed, attempt)).integers(0, count, count)
        rows = np.concatenate([rows_by_patient.iloc[index] for index in drawn_patients])
        if len(np.unique(labels[rows])) == len(np.unique(labels)):
            return rows
    return train
