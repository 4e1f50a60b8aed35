"""Probabilities of every held-out patch, and what they are worth: the stage `evaluate`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.classify.train import scorer
from bcgan.data import batches
from bcgan.evaluate import intervals, leaks, metrics
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.preprocess.store import Store


def evaluate(experiment: Experiment, store: Store, split: dict, models: Path, folder: Path) -> None:
    """Write probabilities.csv, metrics.json and leak_audit.json.

    Thresholds come from the validation patients, one a trained network; no figure of another set is looked at.

    Args:
        models: Path. The folder of the classify stage: `<name>-seed<k>.keras`.
    """
    held = np.flatnonzero(store.index["role"].to_numpy() != "train")
    table = store.index.loc[held, ["id", "patient", "x", "y", "label", "role"]].reset_index(drop=True)
    images = batches.central(store.images[held], experiment.classify.crop)
    names, seeds = list(experiment.classify.models), experiment.classify.seeds
    with progress.bar(len(names) * len(seeds) * len(held), "evaluate", "patch") as bar:
        for name in names:
            for seed in seeds:
                network = weights.load_model(models / f"{name}-seed{seed}.keras")
                table[column(name, seed)] = probabilities(network, images, experiment.evaluate.views)
                bar.update(len(held))
    table.to_csv(folder / "probabilities.csv", index=False, float_format="%.9g")
    found = {name: _figures(experiment, table, name) for name in names}
    runs.write_json(folder / "metrics.json", found)
    audit = leaks.audit(store.index, split)
    runs.write_json(folder / "leak_audit.json", audit)
    for check in audit["checks"].values():
        if not check["passed"]:
            progress.log.warning("evaluate: leak: %d %s", check["count"], check["meaning"])
    for name, figures in found.items():
        test = figures["sets"]["test"]
        progress.log.info(
            "evaluate: %-14s test ROC AUC %s, balanced accuracy %s",
            name, *(describe(test[metric]) for metric in ("roc_auc", "balanced_accuracy")),
        )  # fmt: skip


def column(name: str, seed: int) -> str:
    return f"{name}-seed{seed}"


def probabilities(network, images: np.ndarray, views: int) -> np.ndarray:
    """Mean probability of malignancy over the first `views` orientations; uint8 (n, side, side, 3) to (n,)."""
    score = scorer(network)
    return np.mean([score(np.ascontiguousarray(batches.view(images, view))) for view in range(views)], axis=0)


def describe(figure: dict) -> str:
    """`0.928 (0.901 to 0.950)`."""
    if figure["value"] is None:
        return "not defined"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def load(folder: Path) -> tuple[pd.DataFrame, dict, dict]:
    """The stage's probabilities, metrics and leak audit."""
    table = pd.read_csv(folder / "probabilities.csv", dtype={"id": str, "patient": str}, keep_default_na=False)
    return table, *(json.loads((folder / name).read_text("utf-8")) for name in ("metrics.json", "leak_audit.json"))


def _figures(experiment: Experiment, table: pd.DataFrame, name: str) -> dict:
    """{thresholds: {seed: threshold}, sets: {role: {metric: {value, low, high, seeds}}}} of one network."""
    settings, seeds = experiment.evaluate, experiment.classify.seeds
    chosen = table[table["role"] == "validation"]
    thresholds = {
        seed: metrics.youden_threshold(chosen["label"].to_numpy(), chosen[column(name, seed)].to_numpy())
        for seed in seeds
    }
    sets = {}
    for role, rows in table.groupby("role"):
        scores = {seed: rows[column(name, seed)].to_numpy(float) for seed in seeds}
        sets[role] = intervals.with_intervals(
            rows["label"].to_numpy(), scores, thresholds, rows["patient"].to_numpy(),
            settings.resamples, settings.confidence, experiment.seed,
        )  # fmt: skip
    return {"thresholds": {str(seed): value for seed, value in thresholds.items()}, "sets": sets}
