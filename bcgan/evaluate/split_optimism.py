"""How much a split that ignores patients flatters: the same features and model, cross-validated both ways.

Neighbouring patches share tissue and stain, so a random split tests a model on patients that it was trained on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bcgan.evaluate import intervals
from bcgan.evaluate.derived import boosted_trees
from bcgan.evaluate.probes import COLOUR_AND_TEXTURE, MOST
from bcgan.experiment import Experiment
from bcgan.models.discriminator import BLOCKS
from bcgan.preprocess.store import Store

FOLDS = 5
LEAST = 20  # patches of a patient whom the probe is to know again


def measure(
    experiment: Experiment, store: Store, properties: pd.DataFrame, features: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {model: {random_split, patient_split, split_optimism: {value, low, high}}}, ROC AUC by cross-validation.

    Over all patches with a role in the protocol, at most MOST of them. The discriminator's features are measured on
    held-out patients alone, because it was trained on the labels of the others. A model is left out if there are fewer
    patients than folds.
    """
    roles = store.index["role"].isin(["train", "validation", "test"]).to_numpy()
    rows = np.flatnonzero(roles)
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(experiment.seed).choice(rows, MOST, replace=False))
    labels, patients = store.index["label"].to_numpy()[rows], store.index["patient"].to_numpy()[rows]
    if len(np.unique(patients)) < FOLDS:
        return {}
    colours = properties[list(COLOUR_AND_TEXTURE)].to_numpy(np.float32)[rows]
    by_features = {"color_texture_gbdt": compare(boosted_trees(), colours, labels, patients, experiment)}
    held = store.index["role"].to_numpy()[rows] != "train"
    if len(np.unique(patients[held])) < FOLDS:
        return by_features
    with np.load(features / "pooled.npz") as saved:
        discriminator_features = np.concatenate([saved[block][rows[held]] for block in BLOCKS], 1)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=300))
    return by_features | {
        "discriminator_features": compare(linear, discriminator_features, labels[held], patients[held], experiment)
    }


def patient_probe(
    properties: pd.DataFrame, index: pd.DataFrame, features: Path, seed: int
) -> dict[str, float | int] | None:
    """How much patches betray their patient: {balanced_accuracy, chance, patients} of a linear discriminant on the
    GAN's features, colour and texture, fitted on half of the training patches and asked about the other half.

    It is no check of the split: on real stains a patient under two names would mostly go unnoticed.
    """
    counts = index["patient"][index["role"] == "train"].value_counts()
    rows = np.flatnonzero((index["role"] == "train") & index["patient"].isin(counts.index[counts >= LEAST]))
    if (number := index["patient"].iloc[rows].nunique()) < 2:
        return None
    with np.load(features / "pooled.npz") as saved:
        known = np.concatenate([*(saved[block] for block in BLOCKS), properties[list(COLOUR_AND_TEXTURE)]], 1)[rows]
    patients = index["patient"].to_numpy()[rows]
    fitting, scoring = train_test_split(np.arange(len(rows)), test_size=0.5, stratify=patients, random_state=seed)
    discriminant = LinearDiscriminantAnalysis("eigen", shrinkage="auto", priors=np.full(number, 1 / number))
    fitted = make_pipeline(StandardScaler(), discriminant).fit(known[fitting], patients[fitting])
    accuracy = balanced_accuracy_score(patients[scoring], fitted.predict(known[scoring]))
    return {"balanced_accuracy": float(accuracy), "chance": 1 / number, "patients": number}


def compare(
    model: ClassifierMixin, features: np.ndarray, labels: np.ndarray, patients: np.ndarray, experiment: Experiment
) -> dict[str, dict[str, Any]]:
    """One model's ROC AUC by either split, and the difference between the two on the same patches."""
    settings = experiment.evaluate
    drawn = intervals.patient_weights(patients, settings.bootstrap_samples, experiment.seed)
    splits = {
        "random_split": StratifiedKFold(FOLDS, shuffle=True, random_state=experiment.seed),
        "patient_split": StratifiedGroupKFold(FOLDS, shuffle=True, random_state=experiment.seed),
    }
    areas, rng = {}, np.random.default_rng(experiment.seed)
    for name, split in splits.items():
        folds = list(split.split(features, labels, patients if name == "patient_split" else None))
        probabilities = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")[:, 1]
        areas[name] = intervals.resampled(labels, intervals.Scored({0: probabilities}, {0: 0.5}), drawn, rng)["roc_auc"]
    intervals_by_split = {
        name: intervals.interval(area, patients, settings.confidence_level) for name, area in areas.items()
    }
    gain = intervals.difference(areas["random_split"], areas["patient_split"], patients, settings.confidence_level)
    return intervals_by_split | {"split_optimism": gain}
