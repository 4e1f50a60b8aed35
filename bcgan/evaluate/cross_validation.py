"""Cross-validation of whole trainings, by patients and, to compare, by patches: the stage `cross_validation`.

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
from bcgan.artifacts import StageRun
from bcgan.classifiers import with_simclr
from bcgan.classify import calibration, context, pretraining
from bcgan.classify.train import Patches, Recipe
from bcgan.classify.trainings import inputs_read_by
from bcgan.data import splits
from bcgan.errors import InputError
from bcgan.evaluate import derived, intervals, metrics, trials
from bcgan.experiment import Experiment
from bcgan.models.classifier import of_run
from bcgan.preprocess.store import Store
from bcgan.settings import Classifier

SPLITS = ("patient_split", "random_split")
NEIGHBOURS = "neighbours"


def evaluate(run: StageRun, store: Store, xla: bool) -> None:
    """Train every model on every fold of both splits, and write cross_validation.json.

    Raises:
        InputError: If there are fewer patients than folds, a fold lacks a class, or a model was pretrained on its
            patients.
    """
    experiment, settings = run.experiment, run.experiment.cross_validation
    count = experiment.data.num_folds
    known_patients = pretraining.seen(run.root / "pretrain") & set(store.index["patient"])
    if known_patients and with_simclr(settings.models):
        raise InputError(
            f"cross_validation.models: {with_simclr(settings.models)[0]} was pretrained on {len(known_patients)} of "
            f"these patients (first: {min(known_patients)}) and would be tested on them. Leave it out."
        )
    folds: dict[str, dict[str, list]] = {name: {split: [] for split in SPLITS} for name in settings.models}
    with progress.bar(len(settings.models) * len(SPLITS) * count, "cross_validation", "training") as bar:
        for name in settings.models:
            model = _classifier_settings(experiment, name)
            common = trials.settings_of(experiment, ("data", "classify")) | {
                "classifier": model.model_dump(mode="json")
            }
            inputs = inputs_read_by(name, model, run.inputs)
            for split in SPLITS:
                for fold in range(count):
                    arrays = trials.predictions(
                        run, f"{name}-{split}-fold{fold}", [common, name, split, fold], inputs,
                        partial(_build, run, store, (name, split, fold), xla),
                    )  # fmt: skip
                    folds[name][split].append(arrays)
                    bar.update()
    results = {name: summarise(experiment, by_split, store.index) for name, by_split in folds.items()}
    runs.write_json(
        run.folder / "cross_validation.json", {"num_folds": count, "epochs": settings.epochs, "models": results}
    )


def roles(experiment: Experiment, index: pd.DataFrame, split: str, fold: int) -> np.ndarray:
    """A role for every patch of the store: fold `fold` tests, the next one validates, the others train.

    Args:
        split: string. patient_split, or random_split, where every patch is a patient of its own.
    """
    fold_settings = experiment.data.replace(protocol="kfold", test_fold=fold)
    dealt = index if split == "patient_split" else index.assign(patient=index["id"])
    try:
        return splits.assign_roles(dealt, fold_settings, experiment.seed).to_numpy()
    except InputError as error:
        raise InputError(f"cross_validation: {split}, fold {fold + 1} of {fold_settings.num_folds}: {error}") from error


def summarise(
    experiment: Experiment, by_split: dict[str, list[dict[str, np.ndarray]]], index: pd.DataFrame
) -> dict[str, Any]:
    """{patches, patients, <split>: {metric: {value, low, high}}, split_optimism: {metric: {value, low, high, p}}}, and
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
        drawn = intervals.patient_weights(patients[rows], settings.bootstrap_samples, experiment.seed)
        scored = intervals.Scored({0: scores}, {0: thresholds})
        resampled[split] = intervals.resampled(labels[rows], scored, drawn, np.random.default_rng(experiment.seed))
    first, second = (resampled[split] for split in SPLITS)
    return {
        "patches": len(rows),
        "patients": len(np.unique(patients[rows])),
        **{
            split: {
                name: intervals.interval(values, patients[rows], settings.confidence_level)
                for name, values in fold.items()
            }
            for split, fold in resampled.items()
        },
        "split_optimism": {
            name: intervals.difference(second[name], first[name], patients[rows], settings.confidence_level)
            for name in first
        },
    }


def _in_context(fold: dict[str, np.ndarray], index: pd.DataFrame, side: int) -> dict[str, np.ndarray]:
    """Return the fold with probabilities refined by spatial context, fitted on its validation patients."""
    roles = [role for role in ("validation", "test") for _ in fold[role]]
    table = index.iloc[np.concatenate([fold["validation_rows"], fold["test_rows"]])].assign(role=roles)
    near, _ = derived.in_context(table, np.concatenate([fold["validation"], fold["test"]]), side)
    count = len(fold["validation"])
    return fold | {"validation": near[:count], "test": near[count:]}


def _classifier_settings(experiment: Experiment, name: str) -> Classifier:
    classifier_settings = experiment.classify.models.get(name, Classifier())
    return classifier_settings.replace(epochs=experiment.cross_validation.epochs, synthetic_fraction=0.0)


def _build(run: StageRun, store: Store, trial: tuple[str, str, int], xla: bool, folder: Path) -> None:
    """Train a model on a fold and write its predictions."""
    name, split, fold = trial
    experiment, model = run.experiment, _classifier_settings(run.experiment, name)
    labels, fold_roles = store.index["label"].to_numpy(), roles(experiment, store.index, split, fold)
    rows = {role: np.flatnonzero(fold_roles == role) for role in splits.LISTED}
    patch_sets = {role: Patches(store.images[of_role], labels[of_role]) for role, of_role in rows.items()}
    keras.utils.set_random_seed(experiment.seed)
    network = of_run(name, run.root, experiment.classify.crop_size or experiment.data.size, model)
    arrays = {f"{role}_rows": rows[role] for role in ("test", "validation")}
    real = patch_sets.pop("train")
    recipe = Recipe(experiment.classify, model, experiment.seed, xla)
    trials.train_trial(
        trials.Trial(network, real, None, patch_sets, recipe, arrays), experiment.evaluate.tta_views, folder
    )
