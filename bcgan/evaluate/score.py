"""The classifiers' part of the stage `evaluate`: probabilities of every held-out patch, and their metrics."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.artifacts import StageRun
from bcgan.classes import ClassPairs
from bcgan.classifiers import CLASSIFIERS, with_simclr
from bcgan.classify import context, pretraining
from bcgan.classify.scoring import predict_probabilities
from bcgan.data import splits
from bcgan.data.slide_names import slide_names, slide_titles
from bcgan.evaluate import borders, derived, intervals, leaks, metrics, split_optimism
from bcgan.evaluate import images as by_image
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.derived import column_name, get_probabilities, seeds_by_classifier
from bcgan.evaluate.intervals import format_estimate
from bcgan.experiment import TRAINING, Experiment, subset
from bcgan.models import weights
from bcgan.preprocess.store import Store

PROBABILITIES = "probabilities.npy"  # of one network, in its cached artifact
MIN_SLIDE_PATCHES = 300  # of a slide that is measured by itself
# Pairs (classifier, reference) that are compared, besides every classifier with the proposed one.
EXTRA_COMPARISONS = (
    (derived.CONTEXT, derived.ENSEMBLE),
    *((name, spec.compared_with) for name, spec in CLASSIFIERS.items() if spec.compared_with),
)
CALIBRATED_METRICS = ("ece", "brier", "loss")  # those that calibration changes; also reported after it


def evaluate(run: StageRun, store: Store) -> None:
    """Write probabilities.csv, metrics.json, comparisons.json, split_optimism.json and leak_audit.json.

    Thresholds, calibration and the weights of the spatial context are fitted on the validation patients only.
    """
    experiment, root, folder = run.experiment, run.root, run.folder
    properties = derived.read_properties(root / "features")
    table, context_weights = _predict_held_out(run, store, properties)
    table.to_csv(folder / "probabilities.csv", index=False, float_format="%.9g")
    table = read_probabilities(folder)  # rounded, as the report reads them
    predictions = calibrate_classifiers(table)
    results = {name: _measure_classifier(experiment, table, predictions[name]) for name in predictions}
    if context_weights:
        results[derived.CONTEXT]["context"] = context_weights._asdict()
    runs.write_json(folder / "metrics.json", results)
    runs.write_json(folder / "comparisons.json", _compare_classifiers(experiment, table, predictions))
    optimism = split_optimism.measure(experiment, store, properties, root / "features")
    runs.write_json(folder / "split_optimism.json", optimism)
    audit = leaks.audit(
        store.index,
        store.images,
        split=runs.read_json(root / "preprocess" / "split.json"),
        unlabelled=_is_trained_on_unlisted(run, store.index),
        num_misfitted=leaks.count_not_fitted_on_validation(
            table,
            results,
            experiment.ensemble_members,
            data.coordinate_patch_px(experiment.data, store.index),
            experiment.data.classes,
        ),
        pretraining_patients=pretraining.pretraining_patients(root / "pretrain"),
    )
    patient_probe = split_optimism.patient_probe(properties, store.index, root / "features", experiment.seed)
    audit |= {"patient_probe": patient_probe} if patient_probe else {}
    runs.write_json(folder / "leak_audit.json", audit)
    _log_results(results, audit)


def load(folder: Path) -> tuple[pd.DataFrame, dict[str, dict]]:
    """Read what `evaluate` wrote: the probabilities, and {metrics, comparisons, split_optimism, leak_audit}."""
    names = ("metrics", "comparisons", "split_optimism", "leak_audit")
    return read_probabilities(folder), {name: runs.read_json(folder / f"{name}.json") for name in names}


def _predict_held_out(
    run: StageRun, store: Store, properties: pd.DataFrame
) -> tuple[pd.DataFrame, context.Context | None]:
    """Predict every patch that is not a training patch by every classifier.

    Returns:
        The table of probabilities.csv: id, image, source, patient, x, y, label, role, at_border if borders are known,
        and each classifier's probabilities by seed, as `derived.set_probabilities` names the columns. Also the weights
        of the spatial context, `None` if coordinates are unknown.
    """
    experiment, context_weights = run.experiment, None
    held_out = np.flatnonzero(store.index["role"].to_numpy() != "train")
    columns = ["id", "image", "source", "patient", "x", "y", "label", "role"]
    table = store.index.loc[held_out, columns].reset_index(drop=True)
    class_names = experiment.data.class_names
    _predict(run, store.images.select(held_out), table)
    color_texture = derived.predict_from_color_texture(properties, store.role_indices("train"), held_out)
    derived.set_probabilities(table, derived.COLOR_TEXTURE, 0, color_texture, class_names)
    base = derived.ensemble_probabilities(table, experiment.ensemble_members)
    if experiment.evaluate.ensemble_models:
        derived.set_probabilities(table, derived.ENSEMBLE, 0, base, class_names)
    if context.has_coordinates(table[["x", "y"]].to_numpy()) and not experiment.data.tile:
        patch_px = data.coordinate_patch_px(experiment.data, store.index)
        if experiment.data.name != "histology_phantom":  # whose classes are drawn patch by patch: it has no regions
            at_border = borders.find_border_patches(
                store.index[["x", "y"]].to_numpy(), store.index["label"].to_numpy(),
                slide_names(store.index, experiment.data.classes), patch_px,
            )  # fmt: skip
            table[borders.COLUMN] = at_border[held_out].astype(int)
        refined, context_weights = derived.refine_by_context(table, base, patch_px, experiment.data.classes)
        derived.set_probabilities(table, derived.CONTEXT, 0, refined, class_names)
    return table, context_weights


def _is_trained_on_unlisted(run: StageRun, index: pd.DataFrame) -> bool:
    """Return whether a classifier was pretrained on unlabelled patches of unlisted patients."""
    pretrained_on = pretraining.pretraining_patients(run.root / "pretrain") & splits.unlisted_patients(index)
    return bool(pretrained_on and with_simclr(run.experiment.classify.models))


def read_probabilities(folder: Path) -> pd.DataFrame:
    """Read probabilities.csv; ids and patients that look like numbers or NA stay text."""
    return pd.read_csv(
        folder / "probabilities.csv", dtype=dict.fromkeys(("id", "image", "source", "patient"), str),
        keep_default_na=False,
    )  # fmt: skip


def _predict(run: StageRun, images: np.ndarray, table: pd.DataFrame) -> None:
    """Add the probabilities of each trained classifier and seed to `table`, whose rows are those of `images`."""
    classify, settings = run.experiment.classify, run.experiment.evaluate
    trainings = classify.list_trainings()
    key = subset(run.experiment, (*TRAINING, "evaluate.tta_views", "evaluate.test_crops", "classify.crop_size"))
    store_digests = {file: digest for file, digest in run.inputs.items() if file.startswith("preprocess/")}

    def build(name: str, folder: Path) -> None:
        """Predict the patches with a trained network, and write the probabilities into `folder`."""
        network = weights.load_model(run.root / "classify" / f"{name}.keras")
        probabilities = predict_probabilities(network, images, settings.tta_views, settings.test_crops)
        np.save(folder / PROBABILITIES, probabilities)

    with progress.bar(len(trainings) * len(images), "evaluate", "patch") as bar:
        for name, seed in trainings:
            column = column_name(name, seed)
            inputs = store_digests | {"network": run.inputs[f"classify/{column}.keras"]}
            folder = run.cache.get_or_build(column, key, inputs, partial(build, column))
            values = np.load(folder / PROBABILITIES)
            derived.set_probabilities(table, name, seed, values, run.experiment.data.class_names)
            bar.update(len(images))


def calibrate_classifiers(table: pd.DataFrame) -> dict[str, intervals.CalibratedPredictions]:
    """Select thresholds and calibrate on the validation patches: {classifier: predictions before and after}.

    Thresholds are those of the largest Youden index; `None` with more than two classes.

    Args:
        table: A row for each held-out patch: label, role, and the classifiers' probabilities by seed.
    """
    labels, validation = table["label"].to_numpy(), (table["role"] == "validation").to_numpy()
    by_classifier = {}
    for name, seeds in seeds_by_classifier(table).items():
        scores = {seed: get_probabilities(table, name, seed) for seed in seeds}
        thresholds = {
            seed: metrics.select_threshold(labels[validation], values[validation]) for seed, values in scores.items()
        }
        predictions = intervals.SeedPredictions(scores, thresholds)
        by_classifier[name] = intervals.calibrate(predictions, validation, labels)
    return by_classifier


def _measure_classifier(
    experiment: Experiment, table: pd.DataFrame, predictions: intervals.CalibratedPredictions
) -> dict:
    """Return one classifier's part of metrics.json.

    Returns:
        thresholds, calibration: By seed. Thresholds are `None` with more than two classes.
        operating_points, whole_slide_metrics, borders, by_source: As the functions of these parts return them; the
            first two are empty with more than two classes, borders is `None` without coordinates.
        sets: {role: {metric: {value, low, high, seeds}}}. <metric>_calibrated and patient_<metric> are of calibrated
            probabilities; with more than two classes all are, but for ece, brier and loss.
        by_class: With more than two classes only, {role: {class: {metric: ...}}}, each class against the rest.
    """
    labels, patients, bootstrap = table["label"].to_numpy(), table["patient"].to_numpy(), experiment.bootstrap
    original, calibrated = predictions.original, predictions.calibrated
    is_binary, class_names = experiment.num_classes == 2, experiment.data.class_names
    sets, by_class = {}, {}
    for role in sorted(table["role"].unique()):
        rows = (table["role"] == role).to_numpy()
        before, after = (
            intervals.metrics_with_intervals(labels[rows], scored.select(rows), patients[rows], *bootstrap)
            for scored in (original, calibrated)
        )
        if not is_binary:  # the most probable class is that after calibration
            before = after | {name: before[name] for name in CALIBRATED_METRICS}
        sets[role] = before | {f"{name}_calibrated": after[name] for name in CALIBRATED_METRICS}
        sets[role] |= by_patient.patient_metrics(
            labels[rows], calibrated.select(rows).probabilities, patients[rows], *bootstrap
        )
        if experiment.data.results_by_image:
            sets[role] |= by_image.image_metrics(table, calibrated.probabilities, role, *bootstrap)
        if not is_binary:
            by_class[role] = {
                name: intervals.metrics_with_intervals(
                    (labels[rows] == label).astype(int),
                    calibrated.select(rows).against_rest(label),
                    patients[rows],
                    *bootstrap,
                )
                for label, name in enumerate(class_names)
            }
    test = (table["role"] == "test").to_numpy()
    at_borders = None  # without coordinates
    if borders.COLUMN in table:
        at_border = table[borders.COLUMN].to_numpy(bool)
        at_borders = borders.measure(
            labels[test], predictions.called().select(test), patients[test], at_border[test], bootstrap
        )
    return {
        "thresholds": {str(seed): value for seed, value in original.thresholds.items()},
        "calibration": {str(seed): values._asdict() for seed, values in predictions.calibrations.items()},
        "operating_points": _measure_operating_points(table, original) if is_binary else {},
        "whole_slide_metrics": _measure_whole_slides(table, original, experiment.data.classes) if is_binary else {},
        "borders": at_borders,
        "by_source": _measure_sources(table, predictions.called(), bootstrap),
        "sets": sets,
    } | ({} if is_binary else {"by_class": by_class})


def _measure_operating_points(
    table: pd.DataFrame, predictions: intervals.SeedPredictions
) -> dict[str, dict[str, float]]:
    """Return {rule: {threshold, <each of THRESHOLD_METRICS>}} on the test patches, means over the seeds."""
    labels, roles = table["label"].to_numpy(), table["role"].to_numpy()
    validation, test = roles == "validation", roles == "test"
    unit_weights, points = np.ones((1, int(test.sum()))), {}
    for scores in predictions.probabilities.values():
        for rule, threshold in metrics.operating_points(labels[validation], scores[validation]).items():
            measured = metrics.compute_metrics(labels[test], scores[test], threshold, unit_weights)
            numbers = {name: float(measured[name][0]) for name in metrics.THRESHOLD_METRICS}
            points.setdefault(rule, []).append({"threshold": threshold, **numbers})
    return {rule: pd.DataFrame(rows).mean().to_dict() for rule, rows in points.items()}


def _measure_sources(
    table: pd.DataFrame, predictions: intervals.SeedPredictions, bootstrap: tuple[int, float, int]
) -> dict[str, dict]:
    """Return {source: {patches, patients, <each of COMPARED_METRICS>: {value, low, high, seeds}}} of the test patches.

    A source is a folder or archive of images. A result on two of them is not comparable with a result on one. Empty if
    all test patches are from one source.

    Args:
        table: A row for each held-out patch: source, role, label and patient.
        predictions: Of one classifier, for the rows of `table`.
        bootstrap: Number of resamples, confidence of the intervals in (0, 1), and random seed.
    """
    sources = table["source"].where(table["role"] == "test")
    names = sorted(sources.dropna().unique())
    labels, patients, by_source = table["label"].to_numpy(), table["patient"].to_numpy(), {}
    for name in names if len(names) > 1 else ():
        rows = (sources == name).to_numpy()
        measured = intervals.metrics_with_intervals(labels[rows], predictions.select(rows), patients[rows], *bootstrap)
        counts = {"patches": int(rows.sum()), "patients": len(np.unique(patients[rows]))}
        by_source[name] = counts | {metric: measured[metric] for metric in intervals.COMPARED_METRICS}
    return by_source


def _measure_whole_slides(
    table: pd.DataFrame, predictions: intervals.SeedPredictions, classes: ClassPairs
) -> dict[str, dict[str, float]]:
    """Measure every test slide with MIN_SLIDE_PATCHES patches and both classes: means over seeds.

    There are no intervals, since a slide is of one patient.

    Returns:
        {slide: {patches, malignant, roc_auc, balanced_accuracy}}; malignant is the number of patches of the second
        class. Slides are named as `slide_titles` does.
    """
    labels, by_slide = table["label"].to_numpy(), {}
    is_test = (table["role"].str.removesuffix("_other") == "test").to_numpy()  # sources of a slide are merged
    slides = pd.DataFrame({"row": np.arange(len(table)), "slide": slide_names(table, classes)})[is_test]
    titles = slide_titles(slides["slide"])
    for title, group in slides.groupby(slides["slide"].map(titles)):
        rows = group["row"].to_numpy()
        slide_labels = labels[rows]
        if len(rows) < MIN_SLIDE_PATCHES or slide_labels.min() == slide_labels.max():
            continue
        measured = [
            metrics.compute_metrics(slide_labels, values[rows], predictions.thresholds[seed], np.ones((1, len(rows))))
            for seed, values in predictions.probabilities.items()
        ]
        means = {
            name: float(np.mean([values[name][0] for values in measured])) for name in ("roc_auc", "balanced_accuracy")
        }
        by_slide[title] = {"patches": len(rows), "malignant": int(slide_labels.sum()), **means}
    return by_slide


def _compare_classifiers(
    experiment: Experiment, table: pd.DataFrame, predictions: dict[str, intervals.CalibratedPredictions]
) -> list[dict]:
    """Compare classifiers on the same test patches and resamples.

    The pairs are every classifier with the proposed one, EXTRA_COMPARISONS, and the ensemble with its first member.

    Args:
        table: A row for each held-out patch: role, label and patient.
        predictions: By classifier, for the rows of `table`.

    Returns:
        [{classifier, reference, metric, value, low, high, p, p_floor}].
    """
    settings, test = experiment.evaluate, (table["role"] == "test").to_numpy()
    labels, patients = table["label"].to_numpy()[test], table["patient"].to_numpy()[test]
    resample_weights = intervals.patient_weights(patients, settings.bootstrap_samples, experiment.seed)
    bootstrapped = {
        name: intervals.bootstrap_metrics(labels, calibrated.called().select(test), resample_weights)
        for name, calibrated in predictions.items()
    }
    proposed = experiment.proposed
    pairs = [(name, proposed) for name in bootstrapped if name != proposed]
    extra_pairs = (*EXTRA_COMPARISONS, (derived.ENSEMBLE, experiment.ensemble_members[0]))
    pairs += [pair for pair in extra_pairs if proposed not in pair and bootstrapped.keys() >= set(pair)]
    return [
        {"classifier": name, "reference": reference, **difference}
        for name, reference in pairs
        for difference in intervals.compare_metrics(
            bootstrapped[name], bootstrapped[reference], labels, patients, settings.confidence_level,
            CLASSIFIERS.keys() >= {name, reference},
        )
    ]  # fmt: skip


def _log_results(results: dict, audit: dict) -> None:
    """Log failed leak checks, and every classifier's test ROC AUC and balanced accuracy."""
    for check in audit["checks"].values():
        if not check["passed"]:
            progress.log.warning("evaluate: leak: %d %s", check["count"], check["meaning"])
    for name, classifier_metrics in results.items():
        test = classifier_metrics["sets"]["test"]
        progress.log.info(
            "evaluate: %-24s test ROC AUC %s, balanced accuracy %s",
            name, *(format_estimate(test[metric]) for metric in ("roc_auc", "balanced_accuracy")),
        )  # fmt: skip
