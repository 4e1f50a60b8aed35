"""Cross-validation of whole trainings, by patients and, to compare, with patches dealt at random: the stage `folds`.

Every patient is tested once, by a network that met none of that patient's patches. Probabilities are calibrated fold by
fold on the fold's validation patients, so that folds can be pooled, and so is the threshold of each.
The random split says by how much a protocol that ignores patients flatters the same network.
"""

from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.classify import calibration, context, pretraining
from bcgan.classify.kept import read_by
from bcgan.classify.train import Patches
from bcgan.data import splits
from bcgan.errors import InputError
from bcgan.evaluate import derived, intervals, metrics, trials
from bcgan.experiment import Classifier, Experiment
from bcgan.models.classifier import of_run
from bcgan.preprocess.store import Store

SPLITS = ("patient_split", "random_split")
NEIGHBOURS = "neighbours"


def evaluate(experiment: Experiment, store: Store, folder: Path, xla: bool) -> None:
    """Write <network>-<split>-fold<k>.npz, training by training, then folds.json.

    A training that is there is not repeated, so that a kill costs one, and one network more its own trainings.

    Raises:
        InputError: fewer patients than folds, a fold that lacks a class, or a network that has met its patients before.
    """
    settings, count = experiment.folds, experiment.data.folds
    known_patients = pretraining.seen(folder.parent / "pretrain") & set(store.index["patient"])
    if known_patients and "simclr" in settings.networks:
        raise InputError(
            f"folds.networks: simclr has met {len(known_patients)} of these patients (first: {min(known_patients)}) "
            "before it is trained and would be tested on them. Leave it out."
        )
    planned = [(name, split, fold) for name in settings.networks for split in SPLITS for fold in range(count)]
    with progress.bar(len(planned), "folds", "training") as bar:
        for name, split, fold in planned:
            path = folder / f"{name}-{split}-fold{fold}.npz"
            key = _key(experiment, folder, name, split, fold)
            trials.once(path, folder, key, partial(_run, experiment, store, name, split, fold, path, xla, key))
            bar.update()
    results = {
        name: summarise(
            experiment,
            {
                split: [runs.read_arrays(folder / f"{name}-{split}-fold{k}.npz") for k in range(count)]
                for split in SPLITS
            },
            store.index,
        )
        for name in settings.networks
    }
    runs.write_json(folder / "folds.json", {"folds": count, "epochs": settings.epochs, "networks": results})


def roles(experiment: Experiment, index: pd.DataFrame, split: str, fold: int) -> np.ndarray:
    """A role for every patch of the store: fold `fold` tests, the next one validates, the others train.

    Args:
        split: string. patient_split, or random_split, where every patch is a patient of its own.
    """
    fold_settings = experiment.data.model_copy(update={"protocol": "kfold", "fold": fold})
    dealt = index if split == "patient_split" else index.assign(patient=index["id"])
    try:
        return splits.assign_roles(dealt, fold_settings, experiment.seed).to_numpy()
    except InputError as error:
        raise InputError(f"folds: {split}, fold {fold + 1} of {fold_settings.folds}: {error}") from error


def summarise(
    experiment: Experiment, by_split: dict[str, list[dict[str, np.ndarray]]], index: pd.DataFrame
) -> dict[str, Any]:
    """{patches, patients, <split>: {metric: {value, low, high}}, inflation: {metric: {value, low, high, p}}}, and
    neighbours beside the splits where places are known: whole patients, each patch among its neighbours.

    Args:
        by_split: {split: a dictionary a fold: test_rows, validation_rows, and the probabilities test and validation}.
        index: table. The store's.
    """
    settings, resampled = experiment.evaluate, {}
    labels, patients = index["label"].to_numpy(), index["patient"].to_numpy()
    if context.known(index[["x", "y"]].to_numpy()):
        side = data.side(experiment.data)
        by_split = by_split | {NEIGHBOURS: [_in_context(fold, index, side) for fold in by_split[SPLITS[0]]]}
    for split, trained in by_split.items():
        tested = []
        for fold in trained:
            chosen = labels[fold["validation_rows"]]
            fitted = calibration.fit(fold["validation"], chosen)
            threshold = metrics.operating_points(chosen, calibration.apply(fitted, fold["validation"]))["youden"]
            scores = calibration.apply(fitted, fold["test"])
            tested.append(np.stack([fold["test_rows"], scores, np.full(len(scores), threshold)]))
        table = np.concatenate(tested, 1)
        rows, scores, thresholds = table[:, table[0].argsort()]  # both splits' patches in the same order
        rows = rows.astype(int)
        drawn = intervals.patient_weights(patients[rows], settings.resamples, experiment.seed)
        scored = intervals.Scored({0: scores}, {0: thresholds})
        resampled[split] = intervals.resampled(labels[rows], scored, drawn, np.random.default_rng(experiment.seed))
    first, second = (resampled[split] for split in SPLITS)
    return {
        "patches": len(rows),
        "patients": len(np.unique(patients[rows])),
        **{
            split: {
                name: intervals.interval(values, patients[rows], settings.confidence) for name, values in fold.items()
            }
            for split, fold in resampled.items()
        },
        "inflation": {
            name: intervals.difference(second[name], first[name], patients[rows], settings.confidence) for name in first
        },
    }


def _in_context(fold: dict[str, np.ndarray], index: pd.DataFrame, side: int) -> dict[str, np.ndarray]:
    """The fold with its probabilities in the light of the neighbours, whose weights its validation patients give."""
    roles = [role for role in ("validation", "test") for _ in fold[role]]
    table = index.iloc[np.concatenate([fold["validation_rows"], fold["test_rows"]])].assign(role=roles)
    near, _ = derived.in_context(table, np.concatenate([fold["validation"], fold["test"]]), side)
    count = len(fold["validation"])
    return fold | {"validation": near[:count], "test": near[count:]}


def _key(experiment: Experiment, folder: Path, name: str, split: str, fold: int) -> str:
    classifier_settings = _classifier_settings(experiment, name)
    trial, inputs = (
        (classifier_settings.model_dump(mode="json"), name, split, fold),
        read_by(name, classifier_settings, folder),
    )
    return trials.key(folder, experiment, ("data", "classify"), *trial, inputs=inputs)


def _classifier_settings(experiment: Experiment, name: str) -> Classifier:
    classifier_settings = experiment.classify.models.get(name, Classifier())
    return classifier_settings.model_copy(update={"epochs": experiment.folds.epochs, "synthetic": 0.0})


def _run(
    experiment: Experiment, store: Store, name: str, split: str, fold: int, path: Path, xla: bool, key: str
) -> None:
    settings, dealt = experiment.classify, roles(experiment, store.index, split, fold)
    labels = store.index["label"].to_numpy()
    rows = {role: np.flatnonzero(dealt == role) for role in splits.LISTED}
    patch_sets = {
        role: Patches(store.images[classifier_settings], labels[classifier_settings])
        for role, classifier_settings in rows.items()
    }
    classifier_settings, views = _classifier_settings(experiment, name), experiment.evaluate.views
    keras.utils.set_random_seed(experiment.seed)
    network = of_run(name, path.parent.parent, settings.crop or experiment.data.size, classifier_settings)
    extra_arrays = {f"{role}_rows": rows[role] for role in ("test", "validation")}
    real = patch_sets.pop("train")
    trials.run(
        path,
        network,
        real,
        None,
        patch_sets,
        settings,
        classifier_settings,
        views,
        experiment.seed,
        xla,
        key,
        extra_arrays,
    )
