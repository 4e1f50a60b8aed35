"""Probabilities of every held-out patch, and what they are worth: the stage `evaluate`."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.artifacts import StageRun
from bcgan.classifiers import CLASSIFIERS
from bcgan.classify import calibration, context, pretraining
from bcgan.classify.scoring import probabilities
from bcgan.data.views import central
from bcgan.evaluate import derived, intervals, leaks, metrics, split_optimism
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.derived import classifiers, column
from bcgan.evaluate.intervals import describe
from bcgan.experiment import TRAINING, Experiment, subset
from bcgan.models import weights
from bcgan.preprocess.store import Store

PROBABILITIES = "probabilities.npy"  # of one network, in its cached artifact
MIN_SLIDE_PATCHES = 300  # patches of a slide from which on it is measured by itself
# Pairs that are compared besides every classifier with the proposed one.
FURTHER = (
    (derived.CONTEXT, derived.ENSEMBLE),
    *((name, spec.compared_with) for name, spec in CLASSIFIERS.items() if spec.compared_with),
)
CALIBRATED = ("ece", "brier", "loss")  # figures that calibration moves; given before and after


def evaluate(run: StageRun, store: Store) -> None:
    """Write probabilities.csv, metrics.json, comparisons.json, split_optimism.json and leak_audit.json.

    Thresholds, calibration and the context's weights come from the validation patients alone.
    """
    experiment, root, folder = run.experiment, run.root, run.folder
    held = np.flatnonzero(store.index["role"].to_numpy() != "train")
    table = store.index.loc[held, ["id", "patient", "x", "y", "label", "role"]].reset_index(drop=True)
    _predict(run, central(store.images[held], experiment.classify.crop_size), table)
    properties = derived.read_properties(root / "features")
    table[column(derived.COLOURS, 0)] = derived.colour_statistics(properties, store.rows("train"), held)
    base, fitted = derived.ensemble(table, experiment.members), None
    side = data.side(experiment.data)
    if experiment.evaluate.ensemble_models:
        table[column(derived.ENSEMBLE, 0)] = base
    if context.known(table[["x", "y"]].to_numpy()):
        table[column(derived.CONTEXT, 0)], fitted = derived.in_context(table, base, side)
    table.to_csv(folder / "probabilities.csv", index=False, float_format="%.9g")
    table = _read(folder)  # what is measured is what the report will read
    scored = {name: _scored(table, name) for name in classifiers(table)}
    results = {name: _figures(experiment, table, predictions) for name, predictions in scored.items()}
    if fitted:
        results[derived.CONTEXT]["context"] = fitted._asdict()
    runs.write_json(folder / "metrics.json", results)
    runs.write_json(folder / "comparisons.json", _comparisons(experiment, table, scored))
    runs.write_json(
        folder / "split_optimism.json", split_optimism.measure(experiment, store, properties, root / "features")
    )
    split = runs.read_json(root / "preprocess" / "split.json")
    elsewhere = leaks.fitted_elsewhere(table, results, experiment.members, side)
    pretraining_patients = pretraining.seen(root / "pretrain")
    audit = leaks.audit(
        store.index, store.images, split, bool(experiment.trained_on_unlisted), elsewhere, pretraining_patients
    )
    probed = split_optimism.patient_probe(properties, store.index, root / "features", experiment.seed)
    audit |= {"patient_probe": probed} if probed else {}
    runs.write_json(folder / "leak_audit.json", audit)
    _log(results, audit)


def load(folder: Path) -> tuple[pd.DataFrame, dict[str, dict]]:
    """The stage's probabilities; and metrics, comparisons, split_optimism and leak_audit by name."""
    names = ("metrics", "comparisons", "split_optimism", "leak_audit")
    return _read(folder), {name: runs.read_json(folder / f"{name}.json") for name in names}


def _read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "probabilities.csv", dtype={"id": str, "patient": str}, keep_default_na=False)


def _predict(run: StageRun, images: np.ndarray, table: pd.DataFrame) -> None:
    """Add a column of probabilities for each trained classifier and seed."""
    classify, views = run.experiment.classify, run.experiment.evaluate.tta_views
    names = [column(name, seed) for name in classify.models for seed in classify.seeds]
    settings = subset(run.experiment, (*TRAINING, "evaluate.tta_views", "classify.crop_size"))
    stored = {file: digest for file, digest in run.inputs.items() if file.startswith("preprocess/")}

    def build(name: str, folder: Path) -> None:
        network = weights.load_model(run.root / "classify" / f"{name}.keras")
        np.save(folder / PROBABILITIES, probabilities(network, images, views))

    with progress.bar(len(names) * len(images), "evaluate", "patch") as bar:
        for name in names:
            inputs = stored | {"network": run.inputs[f"classify/{name}.keras"]}
            table[name] = np.load(run.cache.get_or_build(name, settings, inputs, partial(build, name)) / PROBABILITIES)
            bar.update(len(images))


def _scored(table: pd.DataFrame, name: str) -> intervals.Scored:
    """All held-out probabilities of a classifier, and the thresholds that its validation patients choose."""
    chosen = (table["role"] == "validation").to_numpy()
    labels = table["label"].to_numpy()[chosen]
    scores = {seed: table[column(name, seed)].to_numpy(float) for seed in classifiers(table)[name]}
    rules = {seed: metrics.operating_points(labels, values[chosen]) for seed, values in scores.items()}
    return intervals.Scored(scores, {seed: rule["youden"] for seed, rule in rules.items()})


def _of(scored: intervals.Scored, rows: np.ndarray) -> intervals.Scored:
    return scored._replace(probabilities={seed: values[rows] for seed, values in scored.probabilities.items()})


def _figures(experiment: Experiment, table: pd.DataFrame, scored: intervals.Scored) -> dict:
    """Return {thresholds, calibration, operating_points, whole_slide_metrics, sets} of one classifier, where sets is
    {role: {metric: {value, low, high, seeds}}}.

    Figures named <metric>_calibrated and patient_<metric> are those of the calibrated probabilities.
    """
    settings, labels, patients = experiment.evaluate, table["label"].to_numpy(), table["patient"].to_numpy()
    level = (settings.bootstrap_samples, settings.confidence_level, experiment.seed)
    chosen = (table["role"] == "validation").to_numpy()
    fitted = {seed: calibration.fit(values[chosen], labels[chosen]) for seed, values in scored.probabilities.items()}
    calibrated = scored._replace(
        probabilities={seed: calibration.apply(fitted[seed], values) for seed, values in scored.probabilities.items()}
    )
    sets = {}
    for role in sorted(table["role"].unique()):
        rows = (table["role"] == role).to_numpy()
        sets[role] = intervals.with_intervals(labels[rows], _of(scored, rows), patients[rows], *level)
        after = intervals.with_intervals(labels[rows], _of(calibrated, rows), patients[rows], *level)
        sets[role] |= {f"{name}_calibrated": after[name] for name in CALIBRATED}
        sets[role] |= by_patient.measure(labels[rows], _of(calibrated, rows).probabilities, patients[rows], *level)
    return {
        "thresholds": {str(seed): value for seed, value in scored.thresholds.items()},
        "calibration": {str(seed): values._asdict() for seed, values in fitted.items()},
        "operating_points": _operating_points(table, scored),
        "whole_slide_metrics": _slides(table, scored),
        "sets": sets,
    }


def _operating_points(table: pd.DataFrame, scored: intervals.Scored) -> dict[str, dict[str, float]]:
    """{rule: {threshold, sensitivity, specificity, balanced_accuracy, f1}} on the test patients, means over seeds."""
    labels, roles = table["label"].to_numpy(), table["role"].to_numpy()
    chosen, test = roles == "validation", roles == "test"
    unit_weights, points = np.ones((1, int(test.sum()))), {}
    for scores in scored.probabilities.values():
        for rule, threshold in metrics.operating_points(labels[chosen], scores[chosen]).items():
            measured = metrics.measure(labels[test], scores[test], threshold, unit_weights)
            numbers = {name: float(measured[name][0]) for name in metrics.AT_THRESHOLD}
            points.setdefault(rule, []).append({"threshold": threshold, **numbers})
    return {rule: pd.DataFrame(rows).mean().to_dict() for rule, rows in points.items()}


def _slides(table: pd.DataFrame, scored: intervals.Scored) -> dict[str, dict[str, float]]:
    """{slide: {patches, malignant, roc_auc, balanced_accuracy}} of every test slide with MIN_SLIDE_PATCHES patches
    and both classes: means over seeds, and no interval, for it is one patient."""
    labels, by_slide = table["label"].to_numpy(), {}
    for slide, rows in table.groupby(derived.slides_of(table)).indices.items():
        slide_labels = labels[rows]
        if not slide.startswith("test/") or len(rows) < MIN_SLIDE_PATCHES or slide_labels.min() == slide_labels.max():
            continue
        measured = [
            metrics.measure(slide_labels, values[rows], scored.thresholds[seed], np.ones((1, len(rows))))
            for seed, values in scored.probabilities.items()
        ]
        means = {
            name: float(np.mean([values[name][0] for values in measured])) for name in ("roc_auc", "balanced_accuracy")
        }
        by_slide[slide.removeprefix("test/")] = {"patches": len(rows), "malignant": int(slide_labels.sum()), **means}
    return by_slide


def _comparisons(experiment: Experiment, table: pd.DataFrame, scored: dict[str, intervals.Scored]) -> list[dict]:
    """Every classifier against the proposed one, those of FURTHER, and the ensemble against its first member, on the
    same test patches and resamples: [{classifier, against, metric, value, low, high, p}]."""
    test, settings = (table["role"] == "test").to_numpy(), experiment.evaluate
    labels, patients = table["label"].to_numpy()[test], table["patient"].to_numpy()[test]
    drawn, rng = (
        intervals.patient_weights(patients, settings.bootstrap_samples, experiment.seed),
        np.random.default_rng(0),
    )
    resampled = {
        name: intervals.resampled(labels, _of(predictions, test), drawn, rng) for name, predictions in scored.items()
    }
    first = experiment.proposed
    pairs = [(name, first) for name in resampled if name != first]
    further = (*FURTHER, (derived.ENSEMBLE, experiment.members[0]))
    pairs += [pair for pair in further if first not in pair and resampled.keys() >= set(pair)]
    return [
        {
            "classifier": name, "reference": reference, "metric": metric,
            **intervals.difference(
                resampled[name][metric], resampled[reference][metric], patients, settings.confidence_level
            ),
        }
        for name, reference in pairs
        for metric in ("roc_auc", "balanced_accuracy", "f1")
    ]  # fmt: skip


def _log(results: dict, audit: dict) -> None:
    for check in audit["checks"].values():
        if not check["passed"]:
            progress.log.warning("evaluate: leak: %d %s", check["count"], check["meaning"])
    for name, figures in results.items():
        test = figures["sets"]["test"]
        progress.log.info(
            "evaluate: %-24s test ROC AUC %s, balanced accuracy %s",
            name, *(describe(test[metric]) for metric in ("roc_auc", "balanced_accuracy")),
        )  # fmt: skip
