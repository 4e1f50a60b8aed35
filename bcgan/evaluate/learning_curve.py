"""What synthetic patches are worth where patients are few: the stage `learning_curve`.

A cell is a share of the training patients, an arm and a seed. The seed draws the patients, and the GAN, the translator
and the referee of a cell train on the patches of those patients alone. Two things more have a say: the validation
patients, on whom every arm chooses its weights and the referee its own, and ImageNet, whose frozen features judge the
GAN and the translations (`gan.critic`) while the arms without them get nothing of the kind. All arms of a share and
seed train the same network for as many steps and are compared patch by patch on the same test patients.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.classify import referee
from bcgan.classify.train import Patches
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.evaluate import intervals, trials
from bcgan.experiment import Classifier, Classify, Experiment
from bcgan.gan import translation
from bcgan.gan.train import sample
from bcgan.gan.train import train as train_gan
from bcgan.models import weights
from bcgan.models.classifier import classifier
from bcgan.preprocess.store import GAN_SIZE, Store, of_role

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


def evaluate(experiment: Experiment, store: Store, folder: Path, xla: bool) -> None:
    """Write <cell>.npz (probabilities of validation and test patches), cell by cell, then learning_curve.csv and .json.

    A cell that is there is not trained again, so that a kill costs one training, and a share more its own cells.
    """
    settings = experiment.learning_curve
    cells = [Cell(s, a, k) for s in settings.shares for k in settings.seeds for a in settings.arms]
    held = {role: Patches(*of_role(store, role)) for role in ("validation", "test")}
    with progress.bar(len(cells), "learning_curve", "cell") as bar:
        for cell in cells:
            path, key = folder / f"{cell.name}.npz", trials.key(folder, experiment, READS, *cell)
            train = partial(_run, experiment, store, held, cell, folder, path, xla, key)
            trials.once(path, folder, key, train)
            bar.update()
    cells_done = {cell: runs.read_arrays(folder / f"{cell.name}.npz") for cell in cells}
    patients = store.index["patient"].to_numpy()[store.rows("test")]
    summary = summarise(experiment, cells_done, {role: side.labels for role, side in held.items()}, patients)
    rows = [{key: row[key] for key in row if key != "figures"} | row["figures"] for row in summary["cells"]]
    pd.json_normalize(rows).to_csv(folder / "learning_curve.csv", index=False, float_format="%.6g")
    runs.write_json(folder / "learning_curve.json", summary)


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
        f"learning_curve.shares: {share:g} of {len(names)} training patients is {count}, and no draw of so few has "
        f"{LEAST_PER_CLASS} patches of each class. Ask for a larger share."
    )


def summarise(
    experiment: Experiment,
    results: dict[Cell, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray],
    patients: np.ndarray,
) -> dict[str, Any]:
    """{drawn: what the intervals are over, cells: [{share, arm, patients, patches, figures: {metric: {value, low, high,
    seeds}}}], differences: [{share, arm, against, metric, value, low, high}]}; differences are paired, patch by patch
    and resample by resample."""
    settings = experiment.learning_curve
    level = experiment.evaluate
    drawn = intervals.patient_weights(patients, level.resamples, experiment.seed)
    cells, differences = [], []
    for share in settings.shares:
        resampled = {}
        for arm in settings.arms:
            trained = {seed: results[Cell(share, arm, seed)] for seed in settings.seeds}
            scored = intervals.of_trainings(trained, labels["validation"])
            # The same draws for every arm: a seed means the same training patients.
            resampled[arm] = intervals.resampled(labels["test"], scored, drawn, np.random.default_rng(experiment.seed))
            figures = {
                name: intervals.interval(values, patients, level.confidence) | {"seeds": len(settings.seeds)}
                for name, values in resampled[arm].items()
            }
            cells.append({
                "share": share, "arm": arm, "patients": int(trained[settings.seeds[0]]["patients"]),
                "patches": float(np.mean([training["patches"] for training in trained.values()])),
                "short_of_selected": int(sum(training["short"] for training in trained.values())), "figures": figures,
            })  # fmt: skip
        for arm in settings.arms:
            for metric in ("roc_auc", "balanced_accuracy") if arm != BASELINE and BASELINE in resampled else ():
                gain = intervals.difference(
                    resampled[arm][metric], resampled[BASELINE][metric], patients, level.confidence
                )
                differences.append({"share": share, "arm": arm, "against": BASELINE, "metric": metric, **gain})
    return {"network": NETWORK, "drawn": "test patients and draws", "cells": cells, "differences": differences}


def _run(
    experiment: Experiment,
    store: Store,
    held: dict[str, Patches],
    cell: Cell,
    folder: Path,
    path: Path,
    xla: bool,
    key: str,
) -> None:
    settings = experiment.learning_curve
    patients = store.index["patient"].to_numpy()[store.rows("train")]
    images, labels = of_role(store, "train")
    rows = draw_patients(patients, labels, cell.share, cell.seed)
    real = Patches(images[rows], labels[rows])
    extra, short = _extra(experiment, real, held["validation"], cell, folder, xla)
    classifier_settings = Classifier(epochs=settings.checks, synthetic=settings.synthetic if extra else 0.0)
    keras.utils.set_random_seed(cell.seed)
    count = len(np.unique(patients[rows]))
    trials.run(
        path, classifier(NETWORK, GAN_SIZE), real, extra, held, Classify(), classifier_settings,
        experiment.evaluate.views, cell.seed, xla, key, {"patients": count, "patches": len(rows), "short": short},
        epoch_steps=max(1, settings.steps // settings.checks), augment=cell.arm != "real",
    )  # fmt: skip


def _extra(
    experiment: Experiment, real: Patches, validation: Patches, cell: Cell, folder: Path, xla: bool
) -> tuple[Patches | None, bool]:
    """What an arm adds to the real patches, and whether the referee let nothing of a class through, so that its nearest
    tenth was taken. Networks are kept for the arms that share them."""
    if cell.arm in ("real", BASELINE):
        return None, False
    settings = experiment.learning_curve
    kind, reads, steps = (
        ("translation", "translate", settings.translate_steps)
        if cell.arm == "translation"
        else ("gan", "gan", settings.gan_steps)
    )

    def kept_path(kind: str, reads: str, steps: int) -> Path:
        key = trials.key(folder, experiment, (reads,), cell.share, kind, cell.seed, steps)
        return trials.kept_in(folder) / f"{cell.share:g}-{kind}-seed{cell.seed}-{key[: trials.KEY]}"

    place = kept_path(kind, reads, steps)
    place.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(cell.seed)
    if kind == "translation":
        if not (place / "to_malignant.keras").exists():
            variant_settings = experiment.translate.model_copy(update={"steps": steps})
            translation.train(real.images, real.labels, variant_settings, cell.seed, place, xla)
        networks = [weights.load_model(place / f"to_{name}.keras") for name in CLASSES]
        synthetic = [translation.translate(networks[1 - k], real.images[real.labels == k]) for k in (0, 1)]
        labels = np.repeat([1, 0], [len(side) for side in synthetic])
        return Patches(np.concatenate(synthetic), labels), False
    if not (place / "discriminator.keras").exists():
        variant_settings = experiment.gan.model_copy(update={"steps": steps, "late": 0})
        train_gan(real.images, real.labels, variant_settings, cell.seed, place, xla)
    labels = np.arange(settings.made, dtype=np.int32) % 2
    images = sample(weights.load_model(place / "generator.keras"), labels, cell.seed)
    if cell.arm == "gan":
        return Patches(images, labels), False
    limits = experiment.features.referee
    steps = min(limits.steps, settings.steps)
    path = Path(f"{kept_path('referee', 'features', steps)}.keras")
    reference = referee.trained(real, validation, steps, cell.seed, path, xla)
    chosen = referee.selector(reference, real, limits)
    verdicts = referee.select(reference, chosen, images, labels)
    kept, short = np.array(verdicts["verdict"] == "selected"), False
    for label in (0, 1):
        if not kept[labels == label].any():  # a GAN of one patient's patches may please nobody
            progress.log.warning(
                "learning_curve: %s: nothing selected of class %d; its nearest tenth is taken", cell.name, label
            )
            class_rows = np.flatnonzero(labels == label)
            nearest = verdicts["distance"].to_numpy()[class_rows].argsort()[: max(1, len(class_rows) // 10)]
            kept[class_rows[nearest]] = short = True
    return Patches(images[kept], labels[kept]), short
