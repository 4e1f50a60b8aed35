"""The report's tables of the ablation, the learning curve, cross-validation, the split's optimism and the search."""

import pandas as pd

from bcgan import ledger
from bcgan.evaluate import images as by_image
from bcgan.evaluate.cross_validation import BEST_ACCURACY
from bcgan.evaluate.intervals import format_estimate
from bcgan.report.run import Run
from bcgan.report.style import ARM_NAMES, CLASSIFIER_NAMES, METRIC_NAMES, difference_title
from bcgan.report.tables import CURVE_METRICS, RESULT_METRICS, format_difference, format_differences, format_scores
from bcgan.report.wording import percent

MAX_TRIALS = 15  # of `bcgan tune` in a table
OPTIMISM = ("random_split", "patient_split", "split_optimism")
FEATURES = {"color_texture_gbdt": "Boosted trees on colour and texture",
            "discriminator_features": "Logistic regression on the discriminator's features"}  # fmt: skip


def tuning(run: Run) -> pd.DataFrame:
    """Return the trials of `bcgan tune`, the best first, at most MAX_TRIALS of them."""
    return pd.DataFrame([
        {"Trial": trial["number"], "ROC AUC, validation": _format_setting(trial["roc_auc"], ".4f")}
        | {name.replace("_", " ").capitalize(): _format_setting(value) for name, value in trial["settings"].items()}
        for trial in run.tuning["trials"][:MAX_TRIALS]
    ])  # fmt: skip


def _format_setting(value: float | int | str | None, number_format: str = ".3g") -> str:
    """Return a setting or a ROC AUC of a trial as text; `None` means that the trial diverged."""
    if value is None:
        return "diverged"
    return format(value, number_format) if isinstance(value, float) else str(value).replace("_", " ")


def ablation(run: Run) -> pd.DataFrame:
    """Return the metrics of every variant on validation patches, and its differences from the unchanged experiment."""
    return pd.DataFrame(map(_variant_row, run.ablation["variants"]))


def _variant_row(variant: dict) -> dict[str, str | int]:
    """Return what was changed, and how the variant scores and differs from the unchanged experiment."""
    choice = {"Factor": variant["factor"], "Choice": variant["variant"], "Seeds": variant["seeds"]}
    return choice | format_scores(variant["figures"]) | format_differences(variant["differences"])


def selected_variant(run: Run) -> pd.DataFrame:
    """Return the test metrics of the ablation's best variant, below those of the unchanged experiment.

    The best variant is the one that gains most on validation patches; the table is empty if none gains.
    """
    selected = run.ablation["selected"]
    if not selected:
        return pd.DataFrame()
    return pd.DataFrame([
        {"Factor": "baseline", "Choice": "", "Seeds": selected["seeds"]} | format_scores(selected["baseline"]),
        _variant_row(selected),
    ])  # fmt: skip


def learning_curve(run: Run) -> pd.DataFrame:
    """Return the metrics of every arm at every fraction of patients, and its difference from classic augmentation.

    An arm is a kind of patches that training adds to the real ones.
    """
    rows = {
        (cell["train_fraction"], cell["arm"]): {
            "Share of patients": f"{percent(cell['train_fraction'])}", "Arm": ARM_NAMES[cell["arm"]],
            "Patients": cell["patients"], "Seeds": cell["figures"]["roc_auc"]["seeds"],
            **{METRIC_NAMES[name]: format_estimate(cell["figures"][name]) for name in CURVE_METRICS},
        }
        for cell in run.learning_curve["cells"]
    }  # fmt: skip
    for difference in run.learning_curve["differences"]:
        rows[difference["train_fraction"], difference["arm"]][difference_title(difference["metric"])] = (
            format_difference(difference)
        )
    return pd.DataFrame(rows.values())


def learning_curve_gains(run: Run) -> list[dict] | None:
    """Return the differences from classic augmentation that are gains, at a p corrected for their number (Bonferroni).

    `None` if that cannot be said: there is one training of each arm, or too few patients for intervals.
    """
    differences = [difference for difference in run.learning_curve["differences"] if difference["low"] is not None]
    if not differences or run.learning_curve["cells"][0]["figures"]["roc_auc"]["seeds"] == 1:
        return None
    limit = (1 - run.experiment.evaluate.confidence_level) / len(differences)
    return [difference for difference in differences if difference["value"] > 0 and difference["p"] < limit]


def learning_curve_verdict(run: Run) -> str:
    """Return a sentence: whether any arm beats classic augmentation at any fraction of training patients."""
    gains = learning_curve_gains(run)
    if gains is None:
        return (
            "Whether any arm beats classic augmentation cannot be said: there is one training of each, or no "
            "difference has an interval."
        )
    differences = [difference for difference in run.learning_curve["differences"] if difference["low"] is not None]
    largest = max(differences, key=lambda difference: difference["value"])
    texts = [
        f"{ARM_NAMES[difference['arm']]} at {percent(difference['train_fraction'])} of the patients, "
        f"{METRIC_NAMES[difference['metric']]} {format_difference(difference)}"
        for difference in gains or [largest]
    ]
    if gains:
        return (
            f"{len(gains)} of {len(differences)} differences from classic augmentation are gains, even if p is "
            f"corrected for their number: {'; '.join(texts)}."
        )
    return (
        f"No arm is shown to beat classic augmentation: if p is corrected for the number of differences, none of "
        f"{len(differences)} is a gain; the largest is that of {texts[0]}."
    )


def learning_curve_fallback_text(run: Run) -> str:
    """Return a sentence on trainings of the learning curve without an accepted synthetic patch of a class, or ""."""
    cells = run.learning_curve["cells"] if run.learning_curve else []
    counts = {cell["train_fraction"]: cell["num_filter_fallbacks"] for cell in cells if cell["arm"] == "selected"}
    places = [f"{count} at {percent(fraction)} of the patients" for fraction, count in counts.items() if count]
    if not places:
        return ""
    return (
        f"Learning curve, {ARM_NAMES['selected']}: in some trainings ({', '.join(places)}) the quality filter accepted "
        "no synthetic patch of a class; the tenth of them that is nearest to real patches was added there."
    )


def split_optimism(run: Run) -> pd.DataFrame:
    """Return ROC AUC and accuracy by a random split of patches and by a split of patients, and their difference."""
    measured = [(FEATURES[name], "roc_auc", by_split) for name, by_split in run.split_optimism.items()]
    measured += [
        (CLASSIFIER_NAMES[name], metric, {key: by_split[key][metric] for key in OPTIMISM})
        for name, by_split in _cross_validated(run).items()
        for metric in ("roc_auc", "accuracy" if run.is_multiclass else BEST_ACCURACY)
    ]
    rows = [
        (name, METRIC_NAMES[metric], *(format_estimate(by_split[key]) for key in OPTIMISM))
        for name, metric, by_split in measured
    ]
    return pd.DataFrame(rows, columns=["Model", "Metric", "Random split", "Split by patient", "Optimism"])


def times(run: Run) -> pd.DataFrame:
    """Return the report's table of times: a row for each stage, and rows for its longest trainings."""
    return pd.DataFrame([
        {
            "Stage": entry.stage, "Training": entry.training, "Time": ledger.format_seconds(entry.seconds),
            "Seconds": entry.seconds, "Cores busy": entry.busy_cores,
            "Peak memory (MiB)": entry.peak_memory_mib,
        }
        for entry in run.times
    ])  # fmt: skip


def cross_validation(run: Run) -> pd.DataFrame:
    """Return cross-validated classifiers' metrics on all patients, a row each, and one with neighboring patches."""
    split_titles = {"patient_split": "", "neighbours": ", with neighbouring patches"}
    rows = [
        {"Classifier": CLASSIFIER_NAMES[name] + suffix, "Patients": results["patients"], "Patches": results["patches"]}
        | {
            METRIC_NAMES[metric]: format_estimate(results[split][metric.removesuffix("_calibrated")])
            for metric in (*RESULT_METRICS, BEST_ACCURACY, "ece_calibrated", *by_image.NAMES)  # folds are calibrated
            if metric.removesuffix("_calibrated") in results[split]
        }
        for name, results in _cross_validated(run).items()
        for split, suffix in split_titles.items()
        if split in results
    ]
    return pd.DataFrame(rows)


def _cross_validated(run: Run) -> dict[str, dict]:
    """Return the results of cross-validation by classifier; empty if it did not run."""
    return run.cross_validation["models"] if run.cross_validation else {}
