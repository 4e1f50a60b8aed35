"""The stage `learning_curve`: what synthetic patches add when there are few training patients.

A cell is a fraction of the training patients, an arm and a seed. The seed draws the patients. The GAN, the translators
and the reference CNN of a cell are trained on the patches of those patients alone. Two things come from outside: the
validation patients, which select the weights in every arm, and ImageNet, on whose frozen features the projected
discriminators work (`gan.projected_discriminator_weight`); the arms without synthetic patches use neither GAN nor
ImageNet. All arms of a fraction and seed train the same network for as many steps, and are compared patch by patch on
the same test patients.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.artifacts import StageRun
from bcgan.classify import reference_cnn
from bcgan.classify.train import Patches, Recipe
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.evaluate import intervals, trials
from bcgan.experiment import SET_BY_STAGE, TRAINING, Experiment, subset
from bcgan.gan import quality_filter, translation
from bcgan.gan.train import sample
from bcgan.gan.train import train as train_gan
from bcgan.models import weights
from bcgan.models.classifier import classifier
from bcgan.preprocess.store import GAN_SIZE, Store, of_role
from bcgan.settings import Classifier, Classify

NETWORK = "resnet_table1"
BASELINE = "classic"
READS = ("learning_curve", "gan", "translate", "features")  # settings that a cell depends on
LEAST_PER_CLASS = 2  # patches; fewer draw no patients, and no GAN


class Cell(NamedTuple):
    share: float
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.share:g}-{self.arm}-seed{self.seed}"


def evaluate(run: StageRun, store: Store, xla: bool) -> None:
    """Train every cell, and write learning_curve.csv and learning_curve.json."""
    experiment, settings = run.experiment, run.experiment.learning_curve
    cells = [Cell(s, a, k) for s in settings.train_fractions for k in settings.seeds for a in settings.arms]
    held = {role: Patches(*of_role(store, role)) for role in ("validation", "test")}
    common, results = trials.settings_of(experiment, READS), {}
    with progress.bar(len(cells), "learning_curve", "cell") as bar:
        for cell in cells:
            build = partial(_build, run, store, held, cell, xla)
            results[cell] = trials.predictions(run, cell.name, [common, *cell], run.inputs, build)
            bar.update()
    patients = store.index["patient"].to_numpy()[store.rows("test")]
    summary = summarise(experiment, results, {role: patches.labels for role, patches in held.items()}, patients)
    rows = [{key: row[key] for key in row if key != "figures"} | row["figures"] for row in summary["cells"]]
    pd.json_normalize(rows).to_csv(run.folder / "learning_curve.csv", index=False, float_format="%.6g")
    runs.write_json(run.folder / "learning_curve.json", summary)


def draw_patients(patients: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows of a share of the patients, at least one; drawn again until both classes have LEAST_PER_CLASS patches.

    Smaller shares are part of larger ones of the same seed, where the first draw holds both classes.

    Raises:
        InputError: no draw in a hundred holds both classes.
    """
    names = np.unique(patients)
    count = max(1, round(share * len(names)))
    for attempt in range(100):
        drawn = np.random.default_rng((seed, attempt)).permutation(names)[:count]
        rows = np.flatnonzero(np.isin(patients, drawn))
        if np.bincount(labels[rows], minlength=2).min() >= LEAST_PER_CLASS:
            return rows
    raise InputError(
        f"learning_curve.train_fractions: {share:g} of {len(names)} training patients is {count}, and no draw of so "
        f"few has {LEAST_PER_CLASS} patches of each class. Set a larger fraction."
    )


def summarise(
    experiment: Experiment,
    results: dict[Cell, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray],
    patients: np.ndarray,
) -> dict[str, Any]:
    """Return {network, ci_over, cells, differences}.

    ci_over: what the intervals are over. cells: [{train_fraction, arm, patients, patches, num_filter_fallbacks,
    figures: {metric: {value, low, high, seeds}}}]. differences: [{train_fraction, arm, reference, metric, value, low,
    high}], paired patch by patch and resample by resample.
    """
    settings = experiment.learning_curve
    level = experiment.evaluate
    drawn = intervals.patient_weights(patients, level.bootstrap_samples, experiment.seed)
    cells, differences = [], []
    for share in settings.train_fractions:
        resampled = {}
        for arm in settings.arms:
            trained = {seed: results[Cell(share, arm, seed)] for seed in settings.seeds}
            scored = intervals.of_trainings(trained, labels["validation"])
            # The same draws for every arm: a seed means the same training patients.
            resampled[arm] = intervals.resampled(labels["test"], scored, drawn, np.random.default_rng(experiment.seed))
            figures = {
                name: intervals.interval(values, patients, level.confidence_level) | {"seeds": len(settings.seeds)}
                for name, values in resampled[arm].items()
            }
            cells.append({
                "train_fraction": share, "arm": arm, "patients": int(trained[settings.seeds[0]]["patients"]),
                "patches": float(np.mean([training["patches"] for training in trained.values()])),
                "num_filter_fallbacks": int(sum(training["short"] for training in trained.values())),
                "figures": figures,
            })  # fmt: skip
        for arm in settings.arms:
            for metric in ("roc_auc", "balanced_accuracy") if arm != BASELINE and BASELINE in resampled else ():
                gain = intervals.difference(
                    resampled[arm][metric], resampled[BASELINE][metric], patients, level.confidence_level
                )
                differences.append(
                    {"train_fraction": share, "arm": arm, "reference": BASELINE, "metric": metric, **gain}
                )
    return {"network": NETWORK, "ci_over": "test patients and draws", "cells": cells, "differences": differences}


def _build(run: StageRun, store: Store, held: dict[str, Patches], cell: Cell, xla: bool, folder: Path) -> None:
    """Train a cell and write its predictions."""
    settings = run.experiment.learning_curve
    patients = store.index["patient"].to_numpy()[store.rows("train")]
    images, labels = of_role(store, "train")
    rows = draw_patients(patients, labels, cell.share, cell.seed)
    real = Patches(images[rows], labels[rows])
    extra, short = _extra(run, real, held["validation"], cell, xla)
    model = Classifier(
        epochs=settings.num_validations, synthetic_fraction=settings.synthetic_fraction if extra else 0.0
    )
    keras.utils.set_random_seed(cell.seed)
    epoch_steps = max(1, settings.train_steps // settings.num_validations)
    recipe = Recipe(Classify(), model, cell.seed, xla, epoch_steps, augment=cell.arm != "real")
    arrays = {"patients": len(np.unique(patients[rows])), "patches": len(rows), "short": short}
    trial = trials.Trial(classifier(NETWORK, GAN_SIZE), real, extra, held, recipe, arrays)
    trials.train_trial(trial, run.experiment.evaluate.tta_views, folder)


def _extra(run: StageRun, real: Patches, validation: Patches, cell: Cell, xla: bool) -> tuple[Patches | None, bool]:
    """Return the patches that an arm adds, and whether the quality filter accepted none of a class.

    In that case the tenth of that class nearest to real patches is taken. Networks are cached for the arms that share
    them.
    """
    if cell.arm in ("real", BASELINE):
        return None, False
    experiment, settings = run.experiment, run.experiment.learning_curve

    def cached(kind: str, part: str, steps: int, build: Callable[[Path], None]) -> Path:
        common = subset(experiment, (*TRAINING, part), SET_BY_STAGE)
        name = f"{cell.share:g}-{kind}-seed{cell.seed}"
        return run.cache.get_or_build(name, [common, cell.share, cell.seed, steps], run.inputs, build)

    def train_translators(folder: Path) -> None:
        keras.utils.set_random_seed(cell.seed)
        translate = experiment.translate.replace(steps=settings.translate_steps)
        translation.train(real.images, real.labels, translate, cell.seed, folder, xla)

    def train_generator(folder: Path) -> None:
        keras.utils.set_random_seed(cell.seed)
        gan = experiment.gan.replace(steps=settings.gan_steps, projected_discriminator_3x3_steps=0)
        train_gan(real.images, real.labels, gan, cell.seed, folder, xla)

    if cell.arm == "translation":
        folder = cached("translation", "translate", settings.translate_steps, train_translators)
        networks = [weights.load_model(folder / f"to_{name}.keras") for name in CLASSES]
        synthetic = [translation.translate(networks[1 - k], real.images[real.labels == k]) for k in (0, 1)]
        labels = np.repeat([1, 0], [len(images) for images in synthetic])
        return Patches(np.concatenate(synthetic), labels), False
    folder = cached("gan", "gan", settings.gan_steps, train_generator)
    labels = np.arange(settings.num_synthetic, dtype=np.int32) % 2
    images = sample(weights.load_model(folder / "generator.keras"), labels, cell.seed)
    if cell.arm == "gan":
        return Patches(images, labels), False
    limits = experiment.features.quality_filter
    steps, file = min(limits.steps, settings.train_steps), "reference_cnn.keras"

    def train_reference_cnn(folder: Path) -> None:
        reference_cnn.load_or_train(real, validation, steps, cell.seed, folder / file, xla)

    folder = cached("reference_cnn", "features", steps, train_reference_cnn)
    reference = weights.load_model(folder / file)
    fitted_filter = reference_cnn.fit_quality_filter(reference, real, limits)
    filtered = reference_cnn.apply_quality_filter(reference, fitted_filter, images, labels)
    kept, short = np.array(filtered["filter_result"] == quality_filter.RESULTS[0]), False
    for label in (0, 1):
        if not kept[labels == label].any():  # a GAN of one patient's patches may please nobody
            progress.log.warning(
                "learning_curve: %s: nothing selected of class %d; its nearest tenth is taken", cell.name, label
            )
            class_rows = np.flatnonzero(labels == label)
            nearest = filtered["distance"].to_numpy()[class_rows].argsort()[: max(1, len(class_rows) // 10)]
            kept[class_rows[nearest]] = short = True
    return Patches(images[kept], labels[kept]), short
