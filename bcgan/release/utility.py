"""The use of a release: networks that are trained on it alone and tested on real patients.

Each is compared with the same network, trained as long on as many real patches. Then the release as a starting point:
a network trained on it and tuned on a few real patients, beside one that starts from its initial weights.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bcgan import runs
from bcgan.artifacts import Cache
from bcgan.classify import reference_cnn
from bcgan.classify.scoring import predict_probabilities
from bcgan.classify.train import Patches, Recipe, TrainingData, select_patches, train
from bcgan.evaluate import intervals, metrics
from bcgan.evaluate.intervals import CalibratedPredictions, SeedPredictions
from bcgan.experiment import TRAINING, Experiment, subset
from bcgan.models import weights
from bcgan.models.classifier import build_for_run
from bcgan.preprocess import store
from bcgan.preprocess.store import Store
from bcgan.release import attacks
from bcgan.release.privacy import Check
from bcgan.settings import Classifier

PREDICTIONS = "predictions.npz"
MAX_LOSS = 0.05  # of ROC AUC by training on the release in place of real patches; more fails the audit
TUNING_STEPS, TUNING_EPOCHS = 25, 4  # of each epoch; the last one is kept, as a few patients leave none to choose by
COMPARED = ("roc_auc", "sensitivity", "specificity", "ece")


class Task(NamedTuple):
    """What the trainings of one release share.

    Attributes:
        experiment: The run's settings.
        root: The run's folder.
        store: The run's patches.
        cache: Where trainings are kept.
        inputs: SHA-256 of the run's files that they depend on, by name.
        release_digest: SHA-256 of the released patches; trainings on real patches do not depend on it.
        xla: Whether training steps are compiled by XLA.
    """

    experiment: Experiment
    root: Path
    store: Store
    cache: Cache
    inputs: dict[str, str]
    release_digest: str
    xla: bool


def measure(task: Task, synthetic: Patches) -> dict[str, Any]:
    """Train on the release and on real patches, and test on real patients.

    Returns:
        networks: {network: {patches, real_patches, released, real: {metric: {value, low, high}}, difference: {value,
            low, high, p, p_floor}}}. difference is that of the ROC AUC on test patients, released minus real, paired.
            ece is that of probabilities calibrated on validation patients; sensitivity and specificity are at the
            threshold of the largest Youden index there.
        tuning: {network, group, tested_patients, tested_patches, rows: [{patients, patches, from, roc_auc}]}, or `None`
            if too few patients were held out.
    """
    networks, starts = {}, []
    num_steps = max(1, len(synthetic.labels) // task.experiment.classify.batch_size)
    training = select_patches(task.store, task.store.role_indices("train"))
    real = reference_cnn.sample_matching(training, len(synthetic.labels), attacks.SEED)
    for name in task.experiment.release.networks:
        folders = {
            "released": _train_once(task, name, "released", synthetic, num_steps),
            "real": _train_once(task, name, "real", real, num_steps),
        }
        starts.append(folders["released"] / f"{name}-released.keras")
        networks[name] = _compare(task, folders) | {
            "patches": len(synthetic.labels), "real_patches": len(real.labels),
        }  # fmt: skip
    return {"networks": networks, "tuning": _tune(task, starts[0])}


def checks(measured: dict[str, Any]) -> list[Check]:
    """Return a check for each network: the loss of ROC AUC by training on the release in place of real patches."""
    results = []
    for name, network in measured["networks"].items():
        gain = network["difference"]
        loss = {key: None if gain[other] is None else -gain[other] for key, other in
                (("value", "value"), ("low", "high"), ("high", "low"))}  # fmt: skip
        passed = loss["value"] is not None and loss["value"] <= MAX_LOSS
        results.append(Check("loss_of_roc_auc", name, **loss, limit=MAX_LOSS, passed=passed))
    return results


def _train_once(task: Task, name: str, kind: str, patches: Patches, num_steps: int) -> Path:
    """Train a network on synthetic or real patches, or find it in the cache.

    Args:
        kind: `released` or `real`: the patches that it is trained on.
        num_steps: Of each epoch.

    Returns:
        The folder with <name>-<kind>.keras and PREDICTIONS: probabilities of the validation and of the test patches.
    """
    settings = _training_settings(task) | {
        "network": name, "kind": kind, "epochs": task.experiment.release.epochs, "steps": num_steps,
        "patches": len(patches.labels),
    }  # fmt: skip
    inputs = task.inputs | ({"release": task.release_digest} if kind == "released" else {})

    def build(folder: Path) -> None:
        """Train the network, and write it and its predictions into `folder`."""
        keras.utils.set_random_seed(task.experiment.seed)
        classifier = Classifier(epochs=task.experiment.release.epochs)
        network = _build(task, name, classifier)
        validation = select_patches(task.store, task.store.role_indices("validation"))
        recipe = _recipe(task, classifier, num_steps)
        path = folder / f"{name}-{kind}.keras"
        if not path.exists():
            train(network, TrainingData(patches, None, validation), recipe, path)
        evaluate, trained = task.experiment.evaluate, weights.load_model(path)
        by_role = {
            role: predict_probabilities(
                trained, store.load_role(task.store, role)[0], evaluate.tta_views, evaluate.test_crops
            )
            for role in ("validation", "test")
        }
        np.savez_compressed(folder / PREDICTIONS, **by_role)

    return task.cache.get_or_build(f"{name}-{kind}", settings, inputs, build)


def _training_settings(task: Task) -> dict[str, Any]:
    """Return the settings that every training and its predictions depend on."""
    names = (*TRAINING, "classify", "evaluate.tta_views", "evaluate.test_crops")
    return subset(task.experiment, names, ("classify.models", "classify.seeds"))


def _recipe(task: Task, classifier: Classifier, epoch_steps: int) -> Recipe:
    """Return how a network is trained; patients are not balanced, as synthetic patches have none."""
    settings = task.experiment.classify.model_copy(update={"patient_balance": 0.0})
    return Recipe(settings, classifier, task.experiment.seed, task.xla, epoch_steps)


def _build(task: Task, name: str, classifier: Classifier) -> keras.Model:
    """Build an untrained network."""
    size = task.experiment.classify.crop_size or task.experiment.data.size
    return build_for_run(name, task.root, size, classifier, task.experiment.num_classes)


def _compare(task: Task, folders: dict[str, Path]) -> dict[str, Any]:
    """Return {released, real: {metric of COMPARED: {value, low, high}}, difference} of two trainings on test patients.

    difference is that of the ROC AUC, released minus real: {value, low, high, p, p_floor}.
    """
    rows = {role: task.store.role_indices(role) for role in ("validation", "test")}
    labels = {role: task.store.index["label"].to_numpy()[indices] for role, indices in rows.items()}
    patients = task.store.index["patient"].to_numpy()[rows["test"]]
    limiting = partial(intervals.patients_of_metric, labels=labels["test"], patients=patients)
    resampled = intervals.patient_weights(patients, attacks.RESAMPLES, attacks.SEED)
    by_kind, results = {}, {}
    for kind, folder in folders.items():
        with np.load(folder / PREDICTIONS) as saved:
            probabilities = np.concatenate([saved["validation"], saved["test"]])
        threshold = metrics.select_threshold(labels["validation"], probabilities[: len(rows["validation"])])
        is_validation = np.arange(len(probabilities)) < len(rows["validation"])
        predictions = intervals.calibrate(
            SeedPredictions({0: probabilities}, {0: threshold}), is_validation, np.concatenate(list(labels.values()))
        )
        by_kind[kind] = _bootstrap(predictions, ~is_validation, labels["test"], resampled)
        results[kind] = {
            name: intervals.percentile_interval(values, limiting(name), attacks.CONFIDENCE_LEVEL)
            for name, values in by_kind[kind].items()
        }
    difference = intervals.paired_difference(
        by_kind["released"]["roc_auc"], by_kind["real"]["roc_auc"], limiting("roc_auc"), attacks.CONFIDENCE_LEVEL
    )
    return {**results, "difference": difference}


def _bootstrap(
    predictions: CalibratedPredictions,
    rows: np.ndarray,
    labels: np.ndarray,
    resampled: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return {metric of COMPARED: float, (1, 1 + resamples)} on test patches; column 0 is the observed metric.

    ece is that of calibrated probabilities. `rows` selects the test patches of `predictions`.
    """
    measure = partial(intervals.bootstrap_metrics, labels, weights=resampled)
    called, calibrated = measure(predictions.called().select(rows)), measure(predictions.calibrated.select(rows))
    return {name: (calibrated if name == "ece" else called)[name] for name in COMPARED}


def _tune(task: Task, start: Path) -> dict[str, Any] | None:
    """Tune the first network on a few real patients, from the release and from initial weights, and test it on others.

    If there are enough unlisted patients, it is tuned on some of them and tested on the others. Otherwise it is tuned
    on validation patients and tested on test patients.

    Args:
        start: The network that was trained on the release.

    Returns:
        As `tuning` in `measure`.
    """
    settings, name = task.experiment.release, task.experiment.release.networks[0]
    index, max_patients = task.store.index, max(settings.tuning_patients)
    group = "unlisted" if _count_patients(task, "unlisted") >= max_patients + intervals.MIN_PATIENTS else "validation"
    if _count_patients(task, group) < max_patients:
        return None
    order = np.random.default_rng(attacks.SEED).permutation(np.unique(index["patient"][index["role"] == group]))
    is_tested = (index["role"] == "test") if group == "validation" else (index["role"] == group)
    tested = np.flatnonzero(is_tested & ~index["patient"].isin(order[:max_patients]))
    rows = []
    for count in settings.tuning_patients:
        tuning_rows = np.flatnonzero((index["role"] == group) & index["patient"].isin(order[:count]))
        patches = select_patches(task.store, tuning_rows)
        if len(np.unique(patches.labels)) < task.experiment.num_classes:
            continue  # a network cannot learn a class that these patients do not have
        for kind in ("released", "initial"):
            probabilities = _tune_once(task, name, start if kind == "released" else None, patches, tested)
            labels, patients = (index[column].to_numpy()[tested] for column in ("label", "patient"))
            estimate = intervals.metrics_with_intervals(
                labels, SeedPredictions({0: probabilities}, {0: 0.5}), patients, attacks.RESAMPLES,
                attacks.CONFIDENCE_LEVEL, attacks.SEED,
            )["roc_auc"]  # fmt: skip
            rows.append({"patients": int(count), "patches": len(tuning_rows), "from": kind, "roc_auc": estimate})
    return {"network": name, "group": group, "tested_patients": int(index["patient"].iloc[tested].nunique()),
            "tested_patches": len(tested), "rows": rows}  # fmt: skip


def _count_patients(task: Task, role: str) -> int:
    """Return the number of a role's patients."""
    return int(task.store.index["patient"][task.store.index["role"] == role].nunique())


def _tune_once(task: Task, name: str, start: Path | None, patches: Patches, tested: np.ndarray) -> np.ndarray:
    """Train on a few real patients, and return the probabilities of the tested patches, (n,) or (n, classes).

    Args:
        start: The network that training starts from. `None` means initial weights.
        tested: integers, (n,). Rows of the store.
    """
    settings = _training_settings(task) | {
        "network": name, "from": "released" if start else "initial", "start": start and runs.hash_file(start),
        "patients": sorted(set(patches.patients)), "steps": TUNING_STEPS * TUNING_EPOCHS,
        "tested": hashlib.sha256(tested.tobytes()).hexdigest(),
    }  # fmt: skip
    label = f"{name}-tuned-{len(settings['patients'])}-{settings['from']}"

    def build(folder: Path) -> None:
        """Train the network, and write its predictions into `folder`."""
        keras.utils.set_random_seed(task.experiment.seed)
        classifier = Classifier(epochs=TUNING_EPOCHS)
        network = _build(task, name, classifier)
        if start:
            network.set_weights(weights.load_model(start).get_weights())
        path = folder / f"{label}.keras"
        if not path.exists():
            train(network, TrainingData(patches), _recipe(task, classifier, TUNING_STEPS), path)
        evaluate = task.experiment.evaluate
        probabilities = predict_probabilities(
            weights.load_model(path), task.store.images.select(tested), evaluate.tta_views,
            evaluate.test_crops,
        )  # fmt: skip
        np.savez_compressed(folder / PREDICTIONS, tested=probabilities)

    with np.load(task.cache.get_or_build(label, settings, task.inputs, build) / PREDICTIONS) as saved:
        return saved["tested"]
