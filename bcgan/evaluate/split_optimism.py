"""Split optimism: by how much a random split of patches overestimates a model, compared with a split of patients.

Neighboring patches share tissue and stain, and a random split tests a model on patients that it was trained on. The
same model on the same features is cross-validated with both splits.
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

from bcgan.evaluate import intervals, metrics
from bcgan.evaluate.derived import make_boosted_trees, one_openmp_thread
from bcgan.evaluate.probes import COLOR_AND_TEXTURE, subsample
from bcgan.experiment import Experiment
from bcgan.gan.features import load_pooled
from bcgan.preprocess.store import Store

FOLDS = 5
MIN_PATIENT_PATCHES = 20  # of a patient that the patient probe is to recognize


def measure(
    experiment: Experiment, store: Store, properties: pd.DataFrame, features: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    """Cross-validate models over random folds of patches and over folds of patients, and compare their ROC AUC.

    At most `probes.MAX_PATCHES` patches of the training, validation and test patients are used. The discriminator's
    features are measured on held-out patches only, because it was trained on the labels of the others.

    Args:
        properties: Columns COLOR_AND_TEXTURE; a row for each patch of the store.
        features: Folder of the stage `features`.

    Returns:
        {model: {random_split, patient_split, split_optimism}}, each {value, low, high}; the last one, the difference,
        also has p and p_floor. A model is left out if there are fewer patients than FOLDS.
    """
    has_role = store.index["role"].isin(["train", "validation", "test"]).to_numpy()
    rows = np.sort(subsample(np.flatnonzero(has_role), experiment.seed))
    labels, patients = store.index["label"].to_numpy()[rows], store.index["patient"].to_numpy()[rows]
    if len(np.unique(patients)) < FOLDS:
        return {}
    color_texture = properties[list(COLOR_AND_TEXTURE)].to_numpy(np.float32)[rows]
    results = {"color_texture_gbdt": compare(make_boosted_trees(), color_texture, labels, patients, experiment)}
    is_held_out = store.index["role"].to_numpy()[rows] != "train"
    if len(np.unique(patients[is_held_out])) < FOLDS:
        return results
    pooled = load_pooled(features)
    discriminator_features = np.concatenate([values[rows[is_held_out]] for values in pooled.values()], 1)
    linear_model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=300))
    return results | {
        "discriminator_features": compare(
            linear_model, discriminator_features, labels[is_held_out], patients[is_held_out], experiment
        )
    }


def patient_probe(
    properties: pd.DataFrame, index: pd.DataFrame, features: Path, seed: int
) -> dict[str, float | int] | None:
    """Measure how well patches identify their patient, by a linear discriminant.

    Its features are the GAN's, color and texture. It is fitted on half of the training patches and tested on the other
    half. It is not a check of the split: on real stains it would mostly miss a patient under two names.

    Returns:
        {balanced_accuracy, chance, patients}, or `None` with fewer than two patients of MIN_PATIENT_PATCHES.
    """
    counts = index["patient"][index["role"] == "train"].value_counts()
    rows = np.flatnonzero(
        (index["role"] == "train") & index["patient"].isin(counts.index[counts >= MIN_PATIENT_PATCHES])
    )
    num_patients = index["patient"].iloc[rows].nunique()
    if num_patients < 2:
        return None
    all_features = [*load_pooled(features).values(), properties[list(COLOR_AND_TEXTURE)]]
    inputs = np.concatenate(all_features, 1)[rows]
    patients = index["patient"].to_numpy()[rows]
    train, test = train_test_split(np.arange(len(rows)), test_size=0.5, stratify=patients, random_state=seed)
    discriminant = LinearDiscriminantAnalysis("eigen", shrinkage="auto", priors=np.full(num_patients, 1 / num_patients))
    fitted = make_pipeline(StandardScaler(), discriminant).fit(inputs[train], patients[train])
    accuracy = balanced_accuracy_score(patients[test], fitted.predict(inputs[test]))
    return {"balanced_accuracy": float(accuracy), "chance": 1 / num_patients, "patients": num_patients}


@one_openmp_thread
def compare(
    model: ClassifierMixin, features: np.ndarray, labels: np.ndarray, patients: np.ndarray, experiment: Experiment
) -> dict[str, dict[str, Any]]:
    """Return a model's cross-validated ROC AUC by each split, of patches of the same fold, and their paired difference.

    Args:
        features: float, (n, d).
        labels, patients: (n,).

    Returns:
        {random_split, patient_split: {value, low, high}, split_optimism: {value, low, high, p, p_floor}}.
    """
    settings = experiment.evaluate
    weights = intervals.patient_weights(patients, settings.bootstrap_samples, experiment.seed)
    splits = {
        "random_split": StratifiedKFold(FOLDS, shuffle=True, random_state=experiment.seed),
        "patient_split": StratifiedGroupKFold(FOLDS, shuffle=True, random_state=experiment.seed),
    }
    areas = {}
    for name, split in splits.items():
        folds = list(split.split(features, labels, patients if name == "patient_split" else None))
        probabilities = metrics.second_or_all(
            cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
        )
        fold_of_row = np.empty(len(labels), int)
        for number, (_, test) in enumerate(folds):
            fold_of_row[test] = number
        predictions = intervals.SeedPredictions({0: probabilities}, {0: 0.5}, fold_of_row)
        areas[name] = intervals.bootstrap_metrics(labels, predictions, weights)["roc_auc"]
    confidence = settings.confidence_level
    patients = intervals.patients_of_metric("roc_auc", labels, patients)
    estimates = {name: intervals.percentile_interval(area, patients, confidence) for name, area in areas.items()}
    optimism = intervals.paired_difference(areas["random_split"], areas["patient_split"], patients, confidence)
    return estimates | {"split_optimism": optimism}
