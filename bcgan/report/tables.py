"""The report's tables: results, the paper's Tables 1 and 2 compared with ours, audit, leak audit."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan.classes import capitalize, class_noun
from bcgan.classifiers import CLASSIFIERS
from bcgan.evaluate.derived import CONTEXT, ENSEMBLE
from bcgan.evaluate.intervals import format_estimate
from bcgan.models import table1
from bcgan.report.other_settings import difference_text, list_other_settings
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, METRIC_NAMES, ROLE_NAMES, difference_title
from bcgan.report.wording import EXTRA_MAPS, count_text, format_mean_count, join_words
from bcgan.settings import Classifier

# As printed in the paper's Table 2 and text, and what others published on IDC by patients.
PUBLISHED = (
    ("Proposed GAN and ResNet (the paper)", "not named", "none stated", "98 %", "", ""),
    ("ResNet (the paper's Table 2)", "MIAS, mammography", "none stated", "70 %", "", ""),
    ("CNN (the paper's Table 2)", "mini-dataset, mammography", "none stated", "95.71 %", "", ""),
    ("Janowczyk and Madabhushi 2016", "IDC", "by patient, official test list", "", "0.8468", "0.7648"),
    ("Cruz-Roa et al. 2014", "IDC", "by patient, official test list", "", "0.8423", "0.718"),
)
EXAMPLES_PER_FAULT = 3
SMALLEST_P = 1e-4  # that is written as a number
CURVE_METRICS = ("roc_auc", "balanced_accuracy")
COMPARISON_METRICS = (*CURVE_METRICS, "f1")
RESULT_METRICS = ("roc_auc", "pr_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1")
CLASS_METRICS = ("roc_auc", "pr_auc", "sensitivity", "specificity", "f1")
CALIBRATION_METRICS = ("brier", "brier_calibrated", "ece", "ece_calibrated")


def results(run: Run, role: str, metrics: tuple[str, ...] = RESULT_METRICS) -> pd.DataFrame:
    """Return a table with a row for each classifier and a column for each metric, of texts "value (low to high)".

    Args:
        role: The patients that are scored, such as "test" or "validation".
        metrics: Names of metrics. Those that no classifier has are left out.
    """
    by_classifier = {name: run.metrics[name]["sets"][role] for name in run.classifier_names}
    defined = [
        metric for metric in metrics if any(scores[metric]["value"] is not None for scores in by_classifier.values())
    ]
    return pd.DataFrame([
        {"Classifier": CLASSIFIER_NAMES[name]}
        | {run.metric_names[metric]: format_estimate(scores[metric]) for metric in defined}
        for name, scores in by_classifier.items()
    ])  # fmt: skip


def per_class(run: Run, names: list[str]) -> pd.DataFrame:
    """Return a row for each of some classifiers and each class, against the rest, with metrics on the test patches."""
    return pd.DataFrame([
        {
            "Classifier": CLASSIFIER_NAMES[name], "Class": text, "Patches": count,
            **{METRIC_NAMES[metric]: format_estimate(run.metrics[name]["by_class"]["test"][class_name][metric])
               for metric in CLASS_METRICS},
        }
        for name in names
        for class_name, text, count in zip(run.class_names, run.class_texts, run.class_counts("test"), strict=True)
    ])  # fmt: skip


def table1_summary() -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the paper's Table 1, row by row, compared with our network, and the totals."""
    table, totals = table1.compare()
    names = {
        "layer": "Layer", "kind": "Kind", "output": "Output", "parameters": "Parameters",
        "paper_output": "Output (paper)", "paper_parameters": "Parameters (paper)", "verdict": "Verdict",
    }  # fmt: skip
    return table.rename(columns=names), totals


def table2_comparison(run: Run) -> pd.DataFrame:
    """Return the paper's Table 2: published results, then those of this run on test patients."""
    columns = ["Method", "Data", "Protocol", "Accuracy", "Balanced accuracy", "F1", "Accuracy, threshold for accuracy"]
    run_rows = []
    for name in run.classifier_names:
        scores = run.metrics[name]["sets"]["test"]
        numbers = [format_estimate(scores[metric]) for metric in ("accuracy", "balanced_accuracy", "f1")]
        at_best_accuracy = run.metrics[name]["operating_points"].get("accuracy")  # of two classes
        numbers.append(f"{at_best_accuracy['accuracy']:.3f}" if at_best_accuracy else "")
        run_rows.append(
            (f"{CLASSIFIER_NAMES[name]}, this run", run.experiment.data.name, run.protocol_text(), *numbers)
        )
    table = pd.DataFrame([*((*row, "") for row in PUBLISHED), *run_rows], columns=columns)
    return table.drop(columns=columns[-1]) if run.is_multiclass else table


def counts(run: Run) -> pd.DataFrame:
    """Return a row for each role: patients, patches, and patches of the second class, or of each of more than two."""
    labels = run.contrasted_labels
    rows = [
        (ROLE_NAMES[role].capitalize(), count["patients"], count["patches"], *(run.class_counts(role)[labels.start :]))
        for role in ROLE_NAMES
        if (count := run.split["counts"].get(role))
    ]
    classes = [capitalize(run.class_texts[label]) for label in labels]
    return pd.DataFrame(rows, columns=["Role", "Patients", "Patches", *classes])


def audit(run: Run) -> pd.DataFrame:
    """Return the faults that the audit found: number of files, policy, and the first files with the fault."""
    return pd.DataFrame([
        {
            "Fault": name.replace("_", " ").capitalize(), "Files": fault["count"], "Policy": fault["policy"],
            "For example": ", ".join(examples_with_fault(run.faulty_files, name)),
        }
        for name, fault in run.audit["faults"].items()
    ])  # fmt: skip


def examples_with_fault(faulty: pd.DataFrame, fault: str) -> list[str]:
    """Return the ids of the first EXAMPLES_PER_FAULT files that have a fault."""
    has_fault = faulty["faults"].str.split().map(lambda names: fault in names).astype(bool)
    return faulty.loc[has_fault, "id"].tolist()[:EXAMPLES_PER_FAULT]


def comparisons(run: Run) -> pd.DataFrame:
    """Return each classifier's differences from a reference on the same test patches, with intervals and p values."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for comparison in run.comparisons:
        row = rows.setdefault((comparison["reference"], comparison["classifier"]), {})
        row[METRIC_NAMES[comparison["metric"]]] = format_difference(comparison)
    ordered = [
        {"Classifier": CLASSIFIER_NAMES[name], "Reference": CLASSIFIER_NAMES[reference], **rows[reference, name]}
        for reference in dict.fromkeys(pair[0] for pair in rows)
        for name in run.classifier_names
        if (reference, name) in rows
    ]
    columns = ("Classifier", "Reference", *(METRIC_NAMES[metric] for metric in COMPARISON_METRICS))
    return pd.DataFrame(ordered, columns=columns)


class Component(NamedTuple):
    """What a part of a network adds to another network."""

    name: str  # of the classifier that has it, or of the ablation's variant
    title: str
    base: str  # what it is added to
    role: str  # of the patients that it is measured on
    differences: dict[str, dict]  # by metric: {value, low, high, p, p_floor}
    other_settings: str  # in which the two networks differ as well, such as `epochs 2 for 3`; empty if in none
    trainings: str  # of the network that has it and of the other, such as `3 and 1`
    is_trained_once: bool  # one of the two, so that the intervals do not cover how trainings differ


def list_components(run: Run) -> list[Component]:
    """Return what each component adds: first variants of the ablation, then classifiers that extend another one."""
    differences = differences_by_pair(run)
    proposed = run.experiment.classify.models.get("gan_resnet")
    extensions = [
        *([(_added_by_proposed(proposed), "gan_resnet", "resnet_table1")] if proposed else []),
        *((spec.adds, name, spec.compared_with) for name, spec in CLASSIFIERS.items() if spec.compared_with),
        ("An ensemble", "ensemble", run.experiment.ensemble_members[0]),
        ("Neighbouring patches", "ensemble_spatial_context", "ensemble"),
    ]
    compared = [
        Component(
            name,
            title,
            CLASSIFIER_NAMES[base],
            "test",
            differences[name, base],
            ", ".join(list_other_settings(run, name, base)),
            *_describe_trainings(run, name, base),
        )
        for title, name, base in extensions
        if (name, base) in differences
    ]
    return _ablated_components(run) + compared


def _describe_trainings(run: Run, name: str, base: str) -> tuple[str, bool]:
    """Return the fields `trainings` and `is_trained_once` of a component of two classifiers."""
    if (name, base) == (CONTEXT, ENSEMBLE):
        return "the same", False
    is_trained_once = run.is_trained_once(name) or run.is_trained_once(base)
    return f"{run.trainings_text(name)} and {run.trainings_text(base)}", is_trained_once


def components(run: Run) -> pd.DataFrame:
    """Return `list_components` as a table.

    Columns: Component, Added to, Also differs in (other settings), Trainings (how many), Patients (their role), and one
    for each metric.
    """
    rows = []
    for part in list_components(run):
        row = {
            "Component": part.title, "Added to": part.base, "Also differs in": part.other_settings,
            "Trainings": part.trainings, "Patients": part.role,
        }  # fmt: skip
        for metric in COMPARISON_METRICS:
            row[difference_title(metric)] = format_difference(part.differences[metric])
        rows.append(row)
    return pd.DataFrame(rows)


def _added_by_proposed(settings: Classifier) -> str:
    """Return a phrase for what the proposed network adds to Table 1's network."""
    additions = ["the discriminator's maps"]
    if settings.extra_features != "none":
        additions.append(EXTRA_MAPS[settings.extra_features])
    additions += ["synthetic patches"] if settings.uses_synthetic else []
    return capitalize(join_words(additions))


def differences_by_pair(run: Run) -> dict[tuple[str, str], dict[str, dict]]:
    """Return {(classifier, reference): {metric: difference}}, each comparison in both directions.

    A difference is {value, low, high, p, p_floor} on test patches, classifier minus reference.
    """
    differences: dict[tuple[str, str], dict[str, dict]] = {}
    for comparison in run.comparisons:
        name, reference, metric = (comparison[key] for key in ("classifier", "reference", "metric"))
        negated = {key: _negate(comparison[end]) for key, end in (("value", "value"), ("low", "high"), ("high", "low"))}
        differences.setdefault((name, reference), {})[metric] = comparison
        differences.setdefault((reference, name), {})[metric] = comparison | negated
    return differences


def _ablated_components(run: Run) -> list[Component]:
    """Return the variants of the ablation that change a classifier in more than its learning rate."""
    if not run.ablation:
        return []
    base = f"{CLASSIFIER_NAMES[run.ablation['model']]}, {count_text(run.ablation['epochs'], 'epoch')}"
    changes, base_seeds = run.experiment.ablation.variants, run.ablation["variants"][0]["seeds"]
    return [
        Component(
            variant["variant"],
            f"{variant['factor'][0].upper()}{variant['factor'][1:]}: {variant['variant']}",
            base,
            "validation",
            variant["differences"],
            _learning_rate_change(run, changes[variant["factor"]][variant["variant"]]),
            f"{variant['seeds']} and {base_seeds}",
            min(variant["seeds"], base_seeds) == 1,
        )
        for variant in run.ablation["variants"]
        if variant["differences"]
        and any(
            key.startswith("classify.models.") and not key.endswith(".learning_rate")
            for key in changes[variant["factor"]][variant["variant"]]
        )
    ]


def _learning_rate_change(run: Run, changes: dict[str, Any]) -> str:
    """Return the learning rate that a variant of the ablation sets, if it is not that of the ablated classifier.

    Args:
        changes: The variant's settings by their paths.
    """
    ablated = run.experiment.classify.models.get(run.ablation["model"])
    rates = [value for key, value in changes.items() if key.endswith(".learning_rate")]
    rates += [Classifier(**value).learning_rate for value in changes.values() if isinstance(value, dict)]
    if not ablated or not rates or rates[0] == ablated.learning_rate:
        return ""
    return difference_text("learning_rate", rates[0], ablated.learning_rate)


def _negate(value: float | None) -> float | None:
    """Return -value, or `None` for `None`."""
    return None if value is None else -value


def format_difference(estimate: dict) -> str:
    """Return a difference with its interval and, if there is one, its p value."""
    text, p, floor = format_estimate(estimate), estimate["p"], estimate.get("p_floor")
    if p is None:
        return text
    if floor is None and p < SMALLEST_P:
        return f"{text}, p < {SMALLEST_P:g}"
    return f"{text}, p < {_round_up(floor):g}" if floor is not None and p <= floor else f"{text}, p = {p:.2g}"


def _round_up(value: float) -> float:
    """Return a positive number rounded up to two significant digits."""
    scale = 10 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(round(value / scale, 6)) * scale


def format_scores(figures: dict[str, dict]) -> dict[str, str]:
    """Return {title of a metric: text} of COMPARISON_METRICS, such as `0.928 (0.901 to 0.950)`."""
    return {METRIC_NAMES[metric]: format_estimate(figures[metric]) for metric in COMPARISON_METRICS}


def format_differences(differences: dict[str, dict] | None) -> dict[str, str]:
    """Return {title: text} of differences with their intervals and p values; empty without any."""
    return {difference_title(metric): format_difference(value) for metric, value in (differences or {}).items()}


def slides(run: Run) -> pd.DataFrame:
    """Return "ROC AUC / balanced accuracy" of each classifier on each complete test slide, means over seeds."""
    rows: dict[str, dict[str, str]] = {}
    for name in run.classifier_names:
        for slide, scores in run.metrics[name].get("whole_slide_metrics", {}).items():
            row = rows.setdefault(
                slide,
                {
                    "Slide": slide, "Patches": f"{scores['patches']:,}",
                    capitalize(run.class_texts[1]): f"{scores['malignant']:,}",
                },
            )  # fmt: skip
            row[CLASSIFIER_NAMES[name]] = f"{scores['roc_auc']:.3f} / {scores['balanced_accuracy']:.3f}"
    return pd.DataFrame(rows.values())


def borders(run: Run) -> pd.DataFrame:
    """Return each classifier's errors at borders of annotated regions, and its ROC AUC without the patches there."""
    rows = []
    for name in run.classifier_names:
        measured = run.metrics[name]["borders"]
        rows.append((
            CLASSIFIER_NAMES[name], f"{measured['errors']:,.0f}",
            f"{measured['border_errors'] / max(measured['errors'], 1):.0%}",
            f"{measured['border_patches'] / measured['patches']:.0%}",
            format_estimate(run.metrics[name]["sets"]["test"]["roc_auc"]),
            format_estimate(measured["roc_auc_off_border"]),
        ))  # fmt: skip
    columns = ["Classifier", "Errors", "of them at a border", "Patches at a border", "ROC AUC", "ROC AUC without them"]
    return pd.DataFrame(rows, columns=columns)


def sources(run: Run) -> pd.DataFrame:
    """Return the results of each classifier on the test patches of each folder or archive; empty with only one."""
    return pd.DataFrame([
        {
            "Classifier": CLASSIFIER_NAMES[name], "Test patches of": source, "Patients": measured["patients"],
            "Patches": measured["patches"], **format_scores(measured),
        }
        for name in run.classifier_names
        for source, measured in run.metrics[name]["by_source"].items()
    ])  # fmt: skip


RULES = {"youden": "Youden's index", "sensitivity_95": "Sensitivity of 0.95", "f1": "F1", "accuracy": "Accuracy"}


def operating_points(run: Run) -> pd.DataFrame:
    """Return the results on test patients at the threshold that each rule selects on validation patients (two classes).

    The last columns are numbers of patches, means over the seeds: found, missed, spared and called wrongly.
    """
    rows, test = [], run.role_counts("test")
    first, second = run.class_texts
    for name in run.classifier_names:
        for rule, title in RULES.items():
            point = run.metrics[name]["operating_points"][rule]
            numbers = {METRIC_NAMES.get(key, key.capitalize()): f"{value:.3f}" for key, value in point.items()}
            true_positives = point["sensitivity"] * test["positives"]
            true_negatives = point["specificity"] * (test["patches"] - test["positives"])
            confusion = {
                f"{capitalize(second)} found": format_mean_count(true_positives),
                "missed": format_mean_count(test["positives"] - true_positives),
                f"{capitalize(first)} spared": format_mean_count(true_negatives),
                f"called {second}": format_mean_count(test["patches"] - test["positives"] - true_negatives),
            }  # fmt: skip
            rows.append({"Classifier": CLASSIFIER_NAMES[name], "Chosen for": title, **numbers, **confusion})
    return pd.DataFrame(rows)


def largest_errors(run: Run, count: int = 10) -> pd.DataFrame:
    """Return the `count` test patches of each class with the proposed classifier's largest errors, one a patient.

    The last column is the probability of the second of two classes, or that of the true one of more classes; before
    that, with more classes, is what the patch is called.
    """
    name, table = run.classifier_names[0], run.test_predictions
    probabilities = run.true_probabilities(name, table) if run.is_multiclass else run.mean_probabilities(name, table)
    certain = 1 if run.is_multiclass else table["label"]  # the probability without an error
    errors = np.abs(probabilities - certain)
    table = table.assign(called=run.mean_calls(name, table), probability=probabilities, distance=errors)
    table = table[table["called"] != table["label"]]
    table = table.sort_values("distance", ascending=False).groupby(["label", "patient"], sort=False).head(1)
    table = table.groupby("label").head(count).sort_values(["label", "distance"], ascending=[True, False])
    texts = np.array(run.class_texts)
    called = {"Called": texts[table["called"]]} if run.is_multiclass else {}
    of = "the label" if run.is_multiclass else class_noun(run.class_names[1])
    return pd.DataFrame({
        "Patch": table["id"], "Patient": table["patient"], "Label": texts[table["label"]], **called,
        f"Probability of {of}": table["probability"].round(4),
    })  # fmt: skip


def leaks(run: Run) -> pd.DataFrame:
    """Return the leak audit's checks and their results."""
    checks = run.leak_audit["checks"].values()
    rows = [("passed" if check["passed"] else "FAILED", check["count"], check["meaning"]) for check in checks]
    return pd.DataFrame(rows, columns=["Verdict", "Found", "What is counted"])
