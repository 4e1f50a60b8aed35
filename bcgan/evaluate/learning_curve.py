"""The stage `learning_curve`: what synthetic patches add when there are few training patients.

A cell is a fraction of the training patients, an arm and a seed. The seed draws the patients. The GAN and the
reference CNN of a cell are trained on the patches of those patients alone. Two things come from outside: the
validation patients, which select the weights in every arm, and ImageNet, on whose frozen features the projected
discriminator works (`gan.projected_discriminator_weight`); the arms without synthetic patches use neither GAN nor
ImageNet. All arms of a fraction and seed train the same network for as many steps, and are compared patch by patch on
the same test patients.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.artifacts import StageRun
from bcgan.classes import count_classes
from bcgan.classify import reference_cnn
from bcgan.classify.train import Patches, Recipe
from bcgan.errors import InputError
from bcgan.evaluate import intervals, trials
from bcgan.experiment import SET_BY_STAGE, TRAINING, Experiment, subset
from bcgan.gan import quality_filter
from bcgan.gan.train import sample
from bcgan.gan.train import train as train_gan
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.preprocess.store import Store, load_role
from bcgan.settings import Classifier, Classify

NETWORK = "resnet_table1"
BASELINE = "classic"
READ_SETTINGS = ("learning_curve", "gan", "features")  # that a cell depends on
MIN_PATCHES_PER_CLASS = 2  # in a draw of patients; a GAN cannot be trained with fewer


class Cell(NamedTuple):
    """A training of the learning curve."""

    fraction: float  # of the training patients
    arm: str  # what is added to real patches: nothing (real), augmentation (classic), or synthetic patches as well
    seed: int  # draws the patients

    @property
    def name(self) -> str:
        """Return the cell's name in the cache and in messages."""
        return f"{self.fraction:g}-{self.arm}-seed{self.seed}"


class CellContext(NamedTuple):
    """What the networks of a cell are trained on."""

    run: StageRun
    cell: Cell
    real: Patches  # training patches of the drawn patients
    validation: Patches
    xla: bool


def evaluate(run: StageRun, store: Store, xla: bool) -> None:
    """Train every cell (patients, arm and seed), and write learning_curve.csv and learning_curve.json."""
    experiment, settings = run.experiment, run.experiment.learning_curve
    choices = itertools.product(settings.train_fractions, settings.seeds, settings.arms)
    cells = [Cell(fraction, arm, seed) for fraction, seed, arm in choices]
    held_out = {role: Patches(*load_role(store, role)) for role in ("validation", "test")}
    common, results = trials.trial_settings(experiment, READ_SETTINGS), {}
    with progress.bar(len(cells), "learning_curve", "cell") as bar:
        for cell in cells:
            build = partial(_build, run, store, held_out, cell, xla)
            results[cell] = trials.get_predictions(run, cell.name, [common, *cell], run.inputs, build)
            bar.update()
    patients = store.index["patient"].to_numpy()[store.role_indices("test")]
    labels = {role: patches.labels for role, patches in held_out.items()}
    summary = summarize(experiment, results, labels, patients)
    rows = [
        {key: value for key, value in cell.items() if key != "figures"} | cell["figures"] for cell in summary["cells"]
    ]
    pd.json_normalize(rows).to_csv(run.folder / "learning_curve.csv", index=False, float_format="%.6g")
    runs.write_json(run.folder / "learning_curve.json", summary)


def draw_patients(patients: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the row numbers of the patches of a random fraction of the patients, at least one patient.

    It draws again until every class has MIN_PATCHES_PER_CLASS patches. With the same seed, a smaller fraction is a
    subset of a larger one, if the first draw of each has every class.

    Args:
        patients, labels: (n,). Of each patch.

    Raises:
        InputError: If none of a hundred draws has every class.
    """
    names, num_classes = np.unique(patients), count_classes(labels)
    count = max(1, round(fraction * len(names)))
    for attempt in range(100):
        drawn_patients = np.random.default_rng((seed, attempt)).permutation(names)[:count]
        rows = np.flatnonzero(np.isin(patients, drawn_patients))
        if np.bincount(labels[rows], minlength=num_classes).min() >= MIN_PATCHES_PER_CLASS:
            return rows
    raise InputError(
        f"learning_curve.train_fractions: {fraction:g} of {len(names)} training patients is {count}, and no draw of so "
        f"few has {MIN_PATCHES_PER_CLASS} patches of each class. Set a larger fraction."
    )


def summarize(
    experiment: Experiment,
    results: dict[Cell, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray],
    patients: np.ndarray,
) -> dict[str, Any]:
    """Return the content of learning_curve.json.

    Args:
        results: By cell: probabilities `validation` and `test`, and the scalars patients, patches, and short, whether
            the quality filter accepted no patch of a class.
        labels: By role, of the validation and test patches.
        patients: (n,). The patient of each test patch.

    Returns:
        network: The classifier of all cells.
        cells: [{train_fraction, arm, patients, patches, num_filter_fallbacks, figures: {metric: {value, low, high,
            seeds}}}]. patches is a mean over the seeds, num_filter_fallbacks the number of seeds with `short`.
        differences: [{train_fraction, arm, reference, metric, value, low, high, p, p_floor}], arm minus reference,
            paired patch by patch and resample by resample.
    """
    settings, confidence = experiment.learning_curve, experiment.evaluate.confidence_level
    limiting = partial(intervals.patients_of_metric, labels=labels["test"], patients=patients)
    patient_weights = intervals.patient_weights(patients, experiment.evaluate.bootstrap_samples, experiment.seed)
    cells, differences = [], []
    for fraction in settings.train_fractions:
        by_arm = {}
        for arm in settings.arms:
            by_seed = {seed: results[Cell(fraction, arm, seed)] for seed in settings.seeds}
            predictions = intervals.predictions_of_trials(by_seed, labels["validation"])
            by_arm[arm] = intervals.bootstrap_metrics(labels["test"], predictions, patient_weights)
            figures = {
                name: intervals.percentile_interval(values, limiting(name), confidence, intervals.limits_of(name))
                | {"seeds": len(settings.seeds)}
                for name, values in by_arm[arm].items()
            }
            cells.append({
                "train_fraction": fraction, "arm": arm, "patients": int(by_seed[settings.seeds[0]]["patients"]),
                "patches": float(np.mean([arrays["patches"] for arrays in by_seed.values()])),
                "num_filter_fallbacks": int(sum(arrays["short"] for arrays in by_seed.values())),
                "figures": figures,
            })  # fmt: skip
        compared = [arm for arm in settings.arms if arm != BASELINE] if BASELINE in by_arm else []
        for arm in compared:
            for metric in ("roc_auc", "balanced_accuracy"):
                gain = intervals.paired_difference(  # a seed stands for the same training patients in every arm
                    by_arm[arm][metric], by_arm[BASELINE][metric], limiting(metric), confidence, same_seeds=True
                )
                differences.append(
                    {"train_fraction": fraction, "arm": arm, "reference": BASELINE, "metric": metric, **gain}
                )
    return {"network": NETWORK, "cells": cells, "differences": differences}


def _build(run: StageRun, store: Store, held_out: dict[str, Patches], cell: Cell, xla: bool, folder: Path) -> None:
    """Train a cell, and write what `summarize` takes of it into `folder`; `held_out` is by role."""
    settings = run.experiment.learning_curve
    patients = store.index["patient"].to_numpy()[store.role_indices("train")]
    images, labels = load_role(store, "train")
    rows = draw_patients(patients, labels, cell.fraction, cell.seed)
    real = Patches(images.select(rows), labels[rows])
    extra, used_fallback = _make_extra_patches(CellContext(run, cell, real, held_out["validation"], xla))
    model = Classifier(
        epochs=settings.num_validations, synthetic_fraction=settings.synthetic_fraction if extra else 0.0
    )
    keras.utils.set_random_seed(cell.seed)
    epoch_steps = max(1, settings.train_steps // settings.num_validations)
    recipe = Recipe(Classify(), model, cell.seed, xla, epoch_steps, augment=cell.arm != "real")
    arrays = {"patients": len(np.unique(patients[rows])), "patches": len(rows), "short": used_fallback}
    network = build_classifier(NETWORK, images.shape[1], num_classes=run.experiment.num_classes)
    trial = trials.Trial(network, real, extra, held_out, recipe, arrays)
    trials.train_trial(trial, run.experiment.evaluate, folder)


def _make_extra_patches(context: CellContext) -> tuple[Patches | None, bool]:
    """Return the synthetic patches that an arm adds, and whether the quality filter accepted none of a class.

    In that case, the tenth of that class that is nearest to real patches is used instead. Arms without synthetic
    patches have `None`.
    """
    arm = context.cell.arm
    if arm in ("real", BASELINE):
        return None, False
    generated = _generate_patches(context)
    return (generated, False) if arm == "gan" else _filter_patches(context, generated)


def _generate_patches(context: CellContext) -> Patches:
    """Return `learning_curve.num_synthetic` patches, as many of each class, by a GAN trained on the cell's patches."""
    settings, real, seed = context.run.experiment.learning_curve, context.real, context.cell.seed

    def train_generator(folder: Path) -> None:
        """Train the GAN, and write generator.keras and its other files into `folder`."""
        keras.utils.set_random_seed(seed)
        # No last phase with 3x3 heads: the experiment's may be longer than `gan_steps`.
        gan = context.run.experiment.gan.replace(steps=settings.gan_steps, projected_discriminator_3x3_steps=0)
        train_gan(real.images, real.labels, gan, seed, folder, context.xla, context.run.experiment.data.class_names)

    folder = _get_or_train(context, "gan", "gan", settings.gan_steps, train_generator)
    labels = np.arange(settings.num_synthetic, dtype=np.int32) % context.run.experiment.num_classes
    return Patches(sample(weights.load_model(folder / "generator.keras"), labels, seed), labels)


def _filter_patches(context: CellContext, generated: Patches) -> tuple[Patches, bool]:
    """Return the patches that the quality filter accepts, and whether it accepted none of a class.

    The filter is fitted on the cell's real patches. See `_make_extra_patches` for a class without an accepted patch.
    """
    settings, cell = context.run.experiment.features.quality_filter, context.cell
    steps = min(settings.steps, context.run.experiment.learning_curve.train_steps)
    file_name = "reference_cnn.keras"

    def train_reference_cnn(folder: Path) -> None:
        """Train the reference CNN and write it."""
        reference_cnn.load_or_train(context.real, context.validation, steps, cell.seed, folder / file_name, context.xla)

    folder = _get_or_train(context, "reference_cnn", "features", steps, train_reference_cnn)
    network = weights.load_model(folder / file_name)
    fitted_filter = reference_cnn.fit_quality_filter(network, context.real, settings)
    images, labels = generated.images, generated.labels
    filtered = reference_cnn.make_filter_fn(network, fitted_filter)(images, labels)
    is_selected = np.array(filtered["filter_result"] == quality_filter.RESULTS[0])
    used_fallback = False
    for label in range(context.run.experiment.num_classes):
        if not is_selected[labels == label].any():  # possible with a GAN trained on a single patient
            progress.log.warning(
                "learning_curve: %s: nothing selected of class %d; its nearest tenth is taken", cell.name, label
            )
            class_rows = np.flatnonzero(labels == label)
            nearest = filtered["distance"].to_numpy()[class_rows].argsort()[: max(1, len(class_rows) // 10)]
            is_selected[class_rows[nearest]] = True
            used_fallback = True
    return Patches(images[is_selected], labels[is_selected]), used_fallback


def _get_or_train(
    context: CellContext, kind: str, settings_part: str, steps: int, build: Callable[[Path], None]
) -> Path:
    """Return the folder of a network that several arms share, and train it if it is not cached.

    Args:
        kind: Of network, for its name in the cache.
        settings_part: The part of the experiment's settings that it depends on, such as `gan`.
        build: Trains it and writes it into the given folder.
    """
    cell = context.cell
    experiment = context.run.experiment
    common = subset(experiment, (*TRAINING, settings_part), SET_BY_STAGE)
    common |= {"class_names": experiment.data.class_names} if experiment.data.classes else {}
    name = f"{cell.fraction:g}-{kind}-seed{cell.seed}"
    return context.run.cache.get_or_build(name, [common, cell.fraction, cell.seed, steps], context.run.inputs, build)
