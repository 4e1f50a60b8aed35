"""Probabilities of every held-out patch, and what they are worth: the stage `evaluate`."""

from pathlib import Path

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.classify import calibration, context, pretraining
from bcgan.classify.scoring import probabilities
from bcgan.data.views import central
from bcgan.evaluate import derived, inflation, intervals, leaks, metrics
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.derived import classifiers, column
from bcgan.evaluate.intervals import describe
from bcgan.experiment import TRAINING, Experiment
from bcgan.models import weights
from bcgan.preprocess.store import Store

MIN_SLIDE_PATCHES = 300  # patches of a slide from which on it is measured by itself
# What neighbours add to the same without them, and teachers and self-supervision to the same network.
FURTHER = ((derived.CONTEXT, derived.ENSEMBLE), ("student", "efficientnet_lite"), ("simclr", "efficientnet_lite"))
CALIBRATED = ("ece", "brier", "loss")  # figures that calibration moves; given before and after


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Write probabilities.csv, metrics.json, comparisons.json, inflation.json and leak_audit.json.

    Thresholds, calibration and the neighbours' weights come from the validation patients; no figure of another set is
    looked at.
    """
    held = np.flatnonzero(store.index["role"].to_numpy() != "train")
    table = store.index.loc[held, ["id", "patient", "x", "y", "label", "role"]].reset_index(drop=True)
    cached = kept_columns(experiment, table, folder)
    _score(experiment, central(store.images[held], experiment.classify.crop), table, root / "classify", cached)
    properties = derived.read_properties(root / "features")
    table[column(derived.COLOURS, 0)] = derived.colour_statistics(properties, store.rows("train"), held)
    base, fitted = derived.ensemble(table, experiment.members), None
    side = data.side(experiment.data)
    if experiment.evaluate.ensemble:
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
    runs.write_json(folder / "inflation.json", inflation.measure(experiment, store, properties, root / "features"))
    split = runs.read_json(root / "preprocess" / "split.json")
    elsewhere = leaks.fitted_elsewhere(table, results, experiment.members, side)
    pretraining_patients = pretraining.seen(root / "pretrain")
    audit = leaks.audit(store.index, store.images, split, bool(experiment.unlabelled), elsewhere, pretraining_patients)
    probed = inflation.patient_probe(properties, store.index, root / "features", experiment.seed)
    audit |= {"patient_probe": probed} if probed else {}
    runs.write_json(folder / "leak_audit.json", audit)
    _log(results, audit)


def load(folder: Path) -> tuple[pd.DataFrame, dict[str, dict]]:
    """The stage's probabilities; and metrics, comparisons, inflation and leak_audit by name."""
    names = ("metrics", "comparisons", "inflation", "leak_audit")
    return _read(folder), {name: runs.read_json(folder / f"{name}.json") for name in names}


def _read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "probabilities.csv", dtype={"id": str, "patient": str}, keep_default_na=False)


def kept_columns(experiment: Experiment, table: pd.DataFrame, folder: Path) -> dict[str, np.ndarray]:
    """{column: probabilities} that this stage found before, of networks that have not changed since, for the same
    patches and settings. None where the stage is made afresh."""
    before, inputs = runs.aside(folder), runs.unfinished(folder, "inputs") or {}
    try:
        manifest, path = runs.read_json(before / runs.MANIFEST), before / "probabilities.csv"
        is_intact = manifest["outputs"][path.name] == runs.hash_file(path)
        earlier = pd.read_csv(path, dtype={"id": str})
        settings, read = manifest["settings"], manifest["inputs"]
        now = experiment.model_dump(mode="json", include={*TRAINING, "classify", "evaluate"})
        same = all(settings[name] == now[name] for name in TRAINING) and all(
            settings[part][name] == now[part][name] for part, name in (("evaluate", "views"), ("classify", "crop"))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    unchanged = {file for file, digest in inputs.items() if read.get(file) == digest}
    stored = {file for file in inputs if file.startswith("preprocess/")}
    if not (is_intact and same and stored <= unchanged and earlier["id"].equals(table["id"])):
        return {}
    names = [name for name in _columns(experiment) if f"classify/{name}.keras" in unchanged and name in earlier]
    return {} if runs.unfinished(folder, "afresh") else {n: earlier[n].to_numpy(np.float32) for n in names}


def _columns(experiment: Experiment) -> list[str]:
    return [column(name, seed) for name in experiment.classify.models for seed in experiment.classify.seeds]


def _score(
    experiment: Experiment, images: np.ndarray, table: pd.DataFrame, models: Path, cached: dict[str, np.ndarray]
) -> None:
    names = _columns(experiment)
    with progress.bar((len(names) - len(cached)) * len(images), "evaluate", "patch") as bar:
        for name in names:
            if name in cached:
                table[name] = cached[name]
                continue
            network = weights.load_model(models / f"{name}.keras")
            table[name] = probabilities(network, images, experiment.evaluate.views)
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
    """{thresholds, calibration, operating_points, slides, sets: {role: {metric: {value, low, high, seeds}}}} of one
    classifier.

    Figures named <metric>_calibrated and patient_<metric> are those of the calibrated probabilities.
    """
    settings, labels, patients = experiment.evaluate, table["label"].to_numpy(), table["patient"].to_numpy()
    level = (settings.resamples, settings.confidence, experiment.seed)
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
        "slides": _slides(table, scored),
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
    drawn, rng = intervals.patient_weights(patients, settings.resamples, experiment.seed), np.random.default_rng(0)
    resampled = {
        name: intervals.resampled(labels, _of(predictions, test), drawn, rng) for name, predictions in scored.items()
    }
    first = experiment.proposed
    pairs = [(name, first) for name in resampled if name != first]
    further = (*FURTHER, (derived.ENSEMBLE, experiment.members[0]))
    pairs += [pair for pair in further if first not in pair and resampled.keys() >= set(pair)]
    return [
        {
            "classifier": name, "against": reference, "metric": metric,
            **intervals.difference(
                resampled[name][metric], resampled[reference][metric], patients, settings.confidence
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
            "evaluate: %-17s test ROC AUC %s, balanced accuracy %s",
            name, *(describe(test[metric]) for metric in ("roc_auc", "balanced_accuracy")),
        )  # fmt: skip
