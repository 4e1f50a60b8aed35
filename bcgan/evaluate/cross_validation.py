"""The stage `cross_validation`: train classifiers over folds of patients and, to compare, over folds of patches.

Every patient is tested once, by a network that was not trained on that patient's patches. Each fold's probabilities are
calibrated, and its threshold selected, on the fold's validation patients, so that calls and errors of all folds can be
pooled. Areas under curves compare patches of the same fold only: calibrations of folds differ by chance, which would
reorder patches of different folds. The random split shows by how much a protocol that ignores patients overestimates
the same network.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.artifacts import StageRun
from bcgan.classes import ClassPairs
from bcgan.classifiers import with_simclr
from bcgan.classify import calibration, context, pretraining
from bcgan.classify.train import Recipe, select_patches
from bcgan.classify.trainings import inputs_read_by
from bcgan.data import splits
from bcgan.errors import InputError
from bcgan.evaluate import derived, images, intervals, metrics, trials
from bcgan.experiment import Experiment
from bcgan.models.classifier import build_for_run
from bcgan.preprocess.store import Store
from bcgan.settings import Classifier

SPLITS = ("patient_split", "random_split")
NEIGHBORS = "neighbours"  # key of the patient split's results with spatial context
BEST_ACCURACY = "accuracy_at_accuracy_threshold"  # whose threshold has the largest accuracy on validation patches


def evaluate(run: StageRun, store: Store, xla: bool) -> None:
    """Train every model on every fold of both splits; write cross_validation.json and probabilities.csv.

    The table has the patient split's calibrated probabilities, each of a network that was not trained on the patient,
    and the threshold of the patch's fold.

    Args:
        xla: Whether training steps are compiled by XLA.

    Raises:
        InputError: If there are fewer patients than folds, a fold lacks a class, or a model was pretrained on its
            patients.
    """
    experiment, settings = run.experiment, run.experiment.cross_validation
    num_folds = experiment.data.num_folds
    pretraining_patients = pretraining.pretraining_patients(run.root / "pretrain") & set(store.index["patient"])
    pretrained = with_simclr({name: experiment.all_models[name] for name in settings.models})
    if pretraining_patients and pretrained:
        raise InputError(
            f"cross_validation.models: {pretrained[0]} was pretrained on "
            f"{len(pretraining_patients)} of these patients (first: {min(pretraining_patients)}) and would be tested "
            "on them. Leave it out."
        )
    folds: dict[str, dict[str, list]] = {name: {split: [] for split in SPLITS} for name in settings.models}
    with progress.bar(len(settings.models) * len(SPLITS) * num_folds, "cross_validation", "training") as bar:
        for name in settings.models:
            model = _classifier_settings(experiment, name)
            key_settings = trials.trial_settings(experiment, ("data", "classify"))
            key_settings |= {"classifier": model.training_settings()}
            inputs = inputs_read_by(name, model, run.inputs)
            for split in SPLITS:
                for fold in range(num_folds):
                    arrays = trials.get_predictions(
                        run, f"{name}-{split}-fold{fold}", [key_settings, name, split, fold], inputs,
                        partial(_build, run, store, (name, split, fold), xla),
                    )  # fmt: skip
                    folds[name][split].append(arrays)
                    bar.update()
    results = {name: summarize(experiment, by_split, store.index) for name, by_split in folds.items()}
    table = make_table({name: by_split[SPLITS[0]] for name, by_split in folds.items()}, experiment, store.index)
    table.to_csv(run.folder / "probabilities.csv", index=False)
    runs.write_json(
        run.folder / "cross_validation.json", {"num_folds": num_folds, "epochs": settings.epochs, "models": results}
    )


def assign_fold_roles(experiment: Experiment, index: pd.DataFrame, split: str, fold: int) -> np.ndarray:
    """Return the role of every patch of the store in one fold, text, (n,).

    `fold` is the test set, the next fold the validation set, the others train. Held-out patches from sources other than
    `data.eval_sources` get the suffix `_other`.

    Args:
        split: `patient_split`, or `random_split`, which treats every patch as a patient.
    """
    fold_settings = experiment.data.replace(protocol="kfold", test_fold=fold)
    split_index = index if split == "patient_split" else index.assign(patient=index["id"])
    try:
        return splits.assign_roles(split_index, fold_settings, experiment.seed).to_numpy()
    except InputError as error:
        raise InputError(f"cross_validation: {split}, fold {fold + 1} of {fold_settings.num_folds}: {error}") from error


def make_table(
    folds: dict[str, list[dict[str, np.ndarray]]], experiment: Experiment, index: pd.DataFrame
) -> pd.DataFrame:
    """Return the predictions of all folds as one table, which `paired.compare_runs` reads.

    Args:
        folds: {classifier: folds of the patient split, as `summarize` takes them}.
        index: The store's.

    Returns:
        A row for each patch: id, image, source, patient, x, y, label, role (always test), calibrated probabilities of
        each classifier, fold and, with two classes, the threshold of the patch's fold.
    """
    labels, table = index["label"].to_numpy(), pd.DataFrame()
    for name, classifier_folds in folds.items():
        pooled = _pool_folds(classifier_folds, labels)
        if table.empty:
            columns = ["id", "image", "source", "patient", "x", "y", "label"]
            table = index.loc[pooled.rows, columns].reset_index(drop=True).assign(role="test", fold=pooled.folds)
        derived.set_probabilities(table, name, 0, pooled.scores, experiment.data.class_names)
        if experiment.num_classes == 2:
            table[derived.threshold_column(name)] = pooled.thresholds
    return table


def summarize(
    experiment: Experiment, by_split: dict[str, list[dict[str, np.ndarray]]], index: pd.DataFrame
) -> dict[str, Any]:
    """Return one classifier's part of cross_validation.json: the metrics of the pooled folds, by split.

    Args:
        by_split: {split: [{test_rows, validation_rows, test, validation} of each fold]}. The rows are indices into the
            store; test and validation are probabilities, (n,) or (n, classes).
        index: The store's.

    Returns:
        {patches, patients, <split>: {metric: {value, low, high}}, split_optimism: {metric: {value, low, high, p,
        p_floor}}}. Optimism is the random split minus the patient split. Metrics are at the threshold of the largest
        Youden index, except BEST_ACCURACY, which only two classes have. If coordinates are known, NEIGHBORS is one more
        split: the patient split refined by spatial context. Images are measured in splits that keep them whole.
    """
    settings, bootstrapped, image_results = experiment.evaluate, {}, {}
    labels, patients = index["label"].to_numpy(), index["patient"].to_numpy()
    if context.has_coordinates(index[["x", "y"]].to_numpy()) and not experiment.data.tile:
        patch_px = data.coordinate_patch_px(experiment.data, index)
        refine = partial(_refine_by_context, index=index, patch_px=patch_px, classes=experiment.data.classes)
        by_split = by_split | {NEIGHBORS: [refine(fold) for fold in by_split[SPLITS[0]]]}
    for split, folds in by_split.items():
        pooled = _pool_folds(folds, labels)
        rows = pooled.rows
        weights = intervals.patient_weights(patients[rows], settings.bootstrap_samples, experiment.seed)
        bootstrapped[split] = intervals.bootstrap_metrics(labels[rows], pooled.predictions(), weights)
        if experiment.num_classes == 2:
            is_correct = (pooled.scores >= _pool_folds(folds, labels, "accuracy").thresholds) == labels[rows]
            resampled = weights @ is_correct / weights.sum(1)
            bootstrapped[split][BEST_ACCURACY] = np.concatenate([[is_correct.mean()], resampled])[None]
        if experiment.data.results_by_image and split != SPLITS[1]:
            by_image = _pool_folds(folds, labels, image_of_row=index["image"].to_numpy())
            image_results[split] = images.measure(
                labels[by_image.rows], by_image.predictions(), patients[by_image.rows], experiment.bootstrap
            )
    # `rows` is of the last split; every split tests the same patches.
    tested_patients, confidence = patients[rows], settings.confidence_level
    limiting = partial(intervals.patients_of_metric, labels=labels[rows], patients=tested_patients)
    results: dict[str, Any] = {"patches": len(rows), "patients": len(np.unique(tested_patients))}
    for split, by_metric in bootstrapped.items():
        results[split] = {
            name: intervals.percentile_interval(values, limiting(name), confidence)
            for name, values in by_metric.items()
        } | image_results.get(split, {})
    by_patient, random = (bootstrapped[split] for split in SPLITS)
    results["split_optimism"] = {
        name: intervals.paired_difference(random[name], by_patient[name], limiting(name), confidence)
        for name in by_patient
    }
    return results


class PooledFolds(NamedTuple):
    """The test patches, or test images, of all folds as one set, sorted by row."""

    rows: np.ndarray  # in the store; of an image, that of its first patch
    scores: np.ndarray  # calibrated probabilities, (n,) or (n, classes)
    thresholds: np.ndarray  # (n,), NaN with more than two classes
    folds: np.ndarray  # (n,)

    def predictions(self) -> intervals.SeedPredictions:
        """Return them as the predictions of one training."""
        return intervals.SeedPredictions({0: self.scores}, {0: self.thresholds}, self.folds)


def _pool_folds(
    folds: list[dict[str, np.ndarray]], labels: np.ndarray, rule: str = "youden", image_of_row: np.ndarray | None = None
) -> PooledFolds:
    """Pool the folds of one split; calibration and threshold are fitted on the validation patches of each fold.

    Args:
        folds: Of one split, as in `summarize`.
        labels: integers. Of every patch of the store.
        rule: That selects the threshold, of `bcgan.evaluate.metrics.operating_points`.
        image_of_row: Text, of every patch of the store. Probabilities are then averaged over the patches of each image,
            and the threshold is that of a fold's validation images. Defaults to `None`.
    """
    parts = []
    for number, fold in enumerate(folds):
        fitted = calibration.fit(fold["validation"], labels[fold["validation_rows"]])
        (validation_rows, validation), (rows, scores) = (
            _average_by_image(fold[f"{role}_rows"], calibration.apply(fitted, fold[role]), image_of_row)
            for role in ("validation", "test")
        )
        threshold = metrics.select_threshold(labels[validation_rows], validation, rule)
        thresholds = np.full(len(rows), np.nan if threshold is None else threshold)
        parts.append((rows, scores, thresholds, np.full(len(rows), number)))
    columns = [np.concatenate(values) for values in zip(*parts, strict=True)]
    order = columns[0].argsort()
    return PooledFolds(*(values[order] for values in columns))


def _average_by_image(
    rows: np.ndarray, scores: np.ndarray, image_of_row: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores as they are, or, if `image_of_row` is given, each image's first row and mean score."""
    if image_of_row is None:
        return rows, scores
    first, means = images.average_by_image(image_of_row[rows], {0: scores})
    return rows[first], means[0]


def _refine_by_context(
    fold: dict[str, np.ndarray], index: pd.DataFrame, patch_px: int, classes: ClassPairs
) -> dict[str, np.ndarray]:
    """Return a fold, as in `summarize`, with probabilities refined by context, fitted on its validation patients."""
    num_validation, num_test = len(fold["validation"]), len(fold["test"])
    rows = np.concatenate([fold["validation_rows"], fold["test_rows"]])
    table = index.iloc[rows].assign(role=["validation"] * num_validation + ["test"] * num_test)
    base = np.concatenate([fold["validation"], fold["test"]])
    refined, _ = derived.refine_by_context(table, base, patch_px, classes)
    return fold | {"validation": refined[:num_validation], "test": refined[num_validation:]}


def _classifier_settings(experiment: Experiment, name: str) -> Classifier:
    """Return a classifier's settings with the stage's epochs, without synthetic patches: the GAN saw all folds."""
    classifier_settings = experiment.classify.models.get(name, Classifier())
    return classifier_settings.replace(epochs=experiment.cross_validation.epochs, synthetic_fraction=0.0)


def _build(run: StageRun, store: Store, trial: tuple[str, str, int], xla: bool, folder: Path) -> None:
    """Train a classifier on a fold of a split, and write predictions.npz into `folder`.

    It has the probabilities of the fold's validation and test patches, and their rows in the store.

    Args:
        trial: Classifier, split (patient_split or random_split) and fold.
        xla: Whether training steps are compiled by XLA.
    """
    name, split, fold = trial
    experiment, model = run.experiment, _classifier_settings(run.experiment, name)
    roles = assign_fold_roles(experiment, store.index, split, fold)
    rows_by_role = {role: np.flatnonzero(roles == role) for role in splits.LIST_ROLES}
    patch_sets = {role: select_patches(store, rows) for role, rows in rows_by_role.items()}
    keras.utils.set_random_seed(experiment.seed)
    size = experiment.classify.crop_size or experiment.data.size
    network = build_for_run(name, run.root, size, model, experiment.num_classes)
    arrays = {f"{role}_rows": rows_by_role[role] for role in ("test", "validation")}
    real = patch_sets.pop("train")
    recipe = Recipe(experiment.classify, model, experiment.seed, xla)
    trials.train_trial(trials.Trial(network, real, None, patch_sets, recipe, arrays), experiment.evaluate, folder)
