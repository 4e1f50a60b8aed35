"""`bcgan probe`: how well features that somebody else computed tell the classes apart, by patients.

The features of a pathology encoder are measured as the report measures the discriminator's: by a logistic regression,
and by the nearest neighbors.
"""

from typing import Any

import numpy as np

from bcgan.data.patients import check_spellings
from bcgan.errors import InputError
from bcgan.evaluate import intervals, metrics
from bcgan.evaluate.embeddings import Embeddings
from bcgan.evaluate.paired import BootstrapSettings
from bcgan.evaluate.probes import ROLES, fit_and_score_probe, resample_patients

NUM_NEIGHBORS = 20
NUM_FOLDS = 5


def probe(embeddings: Embeddings, seeds: tuple[int, ...], settings: BootstrapSettings) -> dict[str, Any]:
    """Measure features by a logistic regression and by nearest neighbors.

    With roles, test patients are tested; training patients are resampled for each seed, as in the report. Without,
    every patient is tested once, in NUM_FOLDS folds of patients: the next fold selects the penalty. Folds select
    different ones, so that the ROC AUC compares patches of the same fold only.

    Returns:
        {dimensions, patches, patients, tested_patients, linear: {roc_auc, balanced_accuracy}, neighbors: {roc_auc}}.
        The metrics are {value, low, high, seeds}.

    Raises:
        InputError: If labels or patients are unknown, or there are too few of them.
    """
    labels, patients = embeddings.labels, embeddings.patients
    if labels is None or patients is None:
        missing = "labels" if labels is None else "patients"
        raise InputError(
            f"The features come without {missing}. Add the array `{missing}`, or say where to find them: --run for a "
            "run's patches, --labels for slides."
        )
    check_spellings(patients.tolist(), "The features", "Rename one of them in the file or the table of labels.")
    classes = np.unique(labels)
    if len(classes) < 2 or classes.tolist() != list(range(len(classes))):
        raise InputError(
            f"The labels are {', '.join(map(str, classes))}. Number the classes 0, 1 and so on; two or more are needed."
        )
    if (embeddings.features.std(0) == 0).all():
        raise InputError(f"The features of all {len(labels)} patches are the same. Compute them again.")
    with_roles = embeddings.roles is not None
    scores, tested, folds = _probe_roles(embeddings, seeds) if with_roles else _probe_folds(embeddings)
    results = {
        "dimensions": embeddings.features.shape[1], "patches": len(labels), "patients": len(np.unique(patients)),
        "tested_patients": len(np.unique(patients[tested])),
    }  # fmt: skip
    for name, by_seed in scores.items():
        predictions = intervals.SeedPredictions(by_seed, dict.fromkeys(by_seed, 0.5), folds)
        estimates = intervals.metrics_with_intervals(labels[tested], predictions, patients[tested], *settings)
        # Votes have no threshold that balances the classes.
        measured = ("roc_auc", "balanced_accuracy") if name == "linear" else ("roc_auc",)
        results[name] = {metric: estimates[metric] for metric in measured}
    return results


def _probe_roles(
    embeddings: Embeddings, seeds: tuple[int, ...]
) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray, None]:
    """Fit the probes on training patches and test them on test patches.

    The logistic regression is fitted for each seed on patients drawn with replacement; validation patches select its
    penalty. Nearest neighbors are found once, among all training patches, as seed 0.

    Returns:
        {probe: {seed: probabilities}} of the m test patches, of the second of two classes, (m,), or of each class,
        (m, classes); their row numbers, (m,); and that there are no folds.
    """
    features, labels = embeddings.features, embeddings.labels
    rows = {role: np.flatnonzero(embeddings.roles == role) for role in ROLES}
    for role in ROLES:
        _check_classes(labels, rows[role], f"The {role} patches")
    linear = {}
    for seed in seeds:
        train = resample_patients(embeddings.patients, labels, rows["train"], seed)
        linear[seed] = fit_and_score_probe(features, labels, train, rows["validation"], rows["test"])
    neighbors = {0: _vote(features, labels, rows["train"], rows["test"])}
    return {"linear": linear, "neighbors": neighbors}, rows["test"], None


def _probe_folds(embeddings: Embeddings) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray, np.ndarray]:
    """Cross-validate the probes over NUM_FOLDS folds of patients.

    Returns:
        {probe: {0: probabilities, (n,) or (n, classes)}} of all patches; their row numbers and their folds, (n,).
    """
    from sklearn.model_selection import StratifiedGroupKFold

    features, labels, patients = embeddings.features, embeddings.labels, embeddings.patients
    for label in np.unique(labels):
        count = len(np.unique(patients[labels == label]))
        if count < NUM_FOLDS:
            raise InputError(
                f"Label {label} occurs in {count} patients. {NUM_FOLDS} or more are needed for folds of patients."
            )
    order = np.lexsort((np.arange(len(labels)), patients))  # the folds do not depend on the order of the files
    folds = np.empty(len(labels), int)
    splitter = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=0)
    for fold, (_, test) in enumerate(splitter.split(features[order], labels[order], patients[order])):
        folds[order[test]] = fold
    shape = (len(labels),) if labels.max() == 1 else (len(labels), labels.max() + 1)
    linear, neighbors = np.zeros(shape), np.zeros(shape)
    for fold in range(NUM_FOLDS):
        test, validation = (np.flatnonzero(folds == (fold + step) % NUM_FOLDS) for step in (0, 1))
        train = np.flatnonzero((folds != fold) & (folds != (fold + 1) % NUM_FOLDS))
        for rows, title in ((train, "The training patients"), (validation, "The validation patients")):
            _check_classes(labels, rows, f"{title} of a fold")
        linear[test] = fit_and_score_probe(features, labels, train, validation, test)
        neighbors[test] = _vote(features, labels, train, test)
    return {"linear": {0: linear}, "neighbors": {0: neighbors}}, np.arange(len(labels)), folds


def _check_classes(labels: np.ndarray, rows: np.ndarray, title: str) -> None:
    """Raise InputError if some rows lack a class; `title` names them in the error."""
    if missing := sorted(set(labels.tolist()) - set(labels[rows].tolist())):
        raise InputError(f"{title} have none of label {missing[0]}. Give features of more patients with it.")


def _vote(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return test patches' probabilities by their nearest training patches in cosine distance, weighted by 1/distance.

    Args:
        features: float64, (n, d).
        train, test: Row numbers.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    # Divided by the largest number first, whose square might overflow.
    count, directions = min(NUM_NEIGHBORS, len(train)), normalize(features / np.abs(features).max())
    model = KNeighborsClassifier(count, weights="distance", metric="cosine").fit(directions[train], labels[train])
    return metrics.second_or_all(model.predict_proba(directions[test]))
