"""What the discriminator's features know about the class: linear probes of every block, beside controls.

A probe is a logistic regression on standardised features, its penalty chosen on validation patients, tested once. Each
seed draws the training patients anew, with replacement, and starts the untrained discriminator anew. The controls say
what is needed to be impressed: an untrained discriminator, colour and texture, a supervised network, ImageNet.
"""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bcgan import progress, runs
from bcgan.classify.reference_cnn import make_feature_fn
from bcgan.data import batches
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.models.discriminator import BLOCKS, discriminator, feature_maps
from bcgan.models.efficientnet_lite import installed, pooled
from bcgan.preprocess.store import GAN_SIZE, Store, at_size

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # inverse penalties tried
COLOUR_AND_TEXTURE = ("red", "green", "blue", "contrast", "homogeneity", "sharpness", "density", "coverage")
ROLES = ("train", "validation", "test")
MOST = 10_000  # patches of a role; more change a probe little, and a logistic regression of millions takes days


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Write probes.json: {features: {dimensions, roc_auc: {value, low, high, seeds}}}, on the test patients."""
    index, seeds = store.index, experiment.evaluate.probe_seeds
    used = np.sort(np.concatenate([_capped(store.rows(role), experiment.seed) for role in ROLES]))
    index = index.iloc[used].reset_index(drop=True)
    rows = {role: np.flatnonzero(index["role"] == role) for role in ROLES}
    labels, patients = index["label"].to_numpy(), index["patient"].to_numpy()
    images = at_size(store.images[used], GAN_SIZE)
    fixed = _fixed(images, used, root)
    untrained = {seed: _untrained(images, experiment, seed) for seed in seeds}
    test, settings, results = rows["test"], experiment.evaluate, {}
    names = [*fixed, "untrained_discriminator"]
    with progress.bar(len(names) * len(seeds), "probes", "probe") as bar:
        for name in names:
            scores = {}
            for seed in seeds:
                features = fixed.get(name, untrained[seed])
                drawn = _drawn(patients, labels, rows["train"], seed)
                scores[seed] = probe(features, labels, drawn, rows["validation"], test)
                bar.update()
            figures = intervals.with_intervals(
                labels[test], intervals.Scored(scores, dict.fromkeys(seeds, 0.5)), patients[test],
                settings.bootstrap_samples, settings.confidence_level, experiment.seed,
            )  # fmt: skip
            results[name] = {"dimensions": features.shape[1], "roc_auc": figures["roc_auc"]}
    runs.write_json(folder / "probes.json", results)


def probe(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Probabilities of malignancy of the test rows, by the probe whose penalty served the validation rows best.

    Args:
        features: float, (n, d). labels: integers, (n,). train, validation, test: positions, patients apart.
    """
    best, best_area = None, -1.0
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=300))
        model.fit(features[train], labels[train])
        area = roc_auc_score(labels[validation], model.decision_function(features[validation]))
        if area > best_area:
            best, best_area = model, area
    return best.predict_proba(features[test])[:, 1]


def _capped(rows: np.ndarray, seed: int) -> np.ndarray:
    return rows if len(rows) <= MOST else np.random.default_rng(seed).choice(rows, MOST, replace=False)


def _fixed(images: np.ndarray, used: np.ndarray, root: Path) -> dict[str, np.ndarray]:
    """Features that no seed changes: each block, all blocks, controls, and concatenations."""
    with np.load(root / "features" / "pooled.npz") as saved:
        blocks = {f"discriminator_{block}": saved[block][used] for block in BLOCKS}
    discriminator_features = np.concatenate(list(blocks.values()), 1)
    measured = pd.read_csv(root / "features" / "properties.csv", usecols=list(COLOUR_AND_TEXTURE)).iloc[used]
    colours = measured[list(COLOUR_AND_TEXTURE)].to_numpy(np.float32)
    cnn_features = make_feature_fn(weights.load_model(root / "features" / "reference_cnn.keras"))(images).astype(
        np.float32
    )
    features = {
        **blocks, "discriminator_all": discriminator_features, "colour_and_texture": colours,
        "supervised_cnn": cnn_features,
        "discriminator_and_cnn": np.concatenate([discriminator_features, cnn_features], 1),
    }  # fmt: skip
    if installed("lite2"):
        imagenet = pooled("lite2", images).astype(np.float32)
        features["efficientnet_lite2"] = imagenet
        features["discriminator_and_efficientnet_lite2"] = np.concatenate([discriminator_features, imagenet], 1)
    return features


def _untrained(images: np.ndarray, experiment: Experiment, seed: int) -> np.ndarray:
    keras.utils.set_random_seed(seed)
    gan = experiment.gan
    maps = feature_maps(discriminator(gan.base_channels, spectral=gan.spectral_norm))

    def run(part: np.ndarray) -> np.ndarray:
        outputs = maps(batches.scale(part), training=False)
        return np.concatenate([np.asarray(keras.ops.cast(x, "float32")).mean((1, 2)) for x in outputs], 1)

    return batches.by_parts(run, images)


def _drawn(patients: np.ndarray, labels: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """The training rows of patients drawn with replacement; drawn again while a class is missing."""
    groups = pd.Series(train).groupby(patients[train]).apply(np.array)
    for attempt in range(100):
        drawn = np.random.default_rng((seed, attempt)).integers(0, len(groups), len(groups))
        rows = np.concatenate([groups.iloc[number] for number in drawn])
        if len(np.unique(labels[rows])) == 2:
            return rows
    return train
