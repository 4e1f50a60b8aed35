"""Tables of the report: results, the paper's Tables 1 and 2 beside ours, audit, leak audit."""

import numpy as np
import pandas as pd

from bcgan.classifiers import CLASSIFIERS
from bcgan.data.records import CLASSES
from bcgan.evaluate.intervals import describe
from bcgan.models import table1
from bcgan.report.run import Run
from bcgan.report.style import ARM_NAMES, CLASSIFIER_NAMES, METRIC_NAMES, ROLE_NAMES, difference_in

# As printed in the paper's Table 2 and text, and what others published on IDC by patients.
PUBLISHED = (
    ("Proposed GAN and ResNet (the paper)", "not named", "none stated", "98 %", "", ""),
    ("ResNet (the paper's Table 2)", "MIAS, mammography", "none stated", "70 %", "", ""),
    ("CNN (the paper's Table 2)", "mini-dataset, mammography", "none stated", "95.71 %", "", ""),
    ("Janowczyk and Madabhushi 2016", "IDC", "by patient, official test list", "", "0.8468", "0.7648"),
    ("Cruz-Roa et al. 2014", "IDC", "by patient, official test list", "", "0.8423", "0.718"),
)
EXAMPLES = 3  # files of each fault
CURVE_METRICS = ("roc_auc", "balanced_accuracy")
COMPARED = (*CURVE_METRICS, "f1")
OPTIMISM = ("random_split", "patient_split", "split_optimism")
RESULT_METRICS = ("roc_auc", "pr_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1")
CALIBRATION_METRICS = ("brier", "brier_calibrated", "ece", "ece_calibrated")


def results(run: Run, role: str, metrics: tuple[str, ...] = RESULT_METRICS) -> pd.DataFrame:
    """One row a classifier, each figure with its interval; without those that are defined for none."""
    rows, sets = [], {name: run.metrics[name]["sets"][role] for name in run.names}
    metrics = tuple(
        metric for metric in metrics if any(figures[metric]["value"] is not None for figures in sets.values())
    )
    for name, figures in sets.items():
        numbers = {METRIC_NAMES[metric]: describe(figures[metric]) for metric in metrics}
        rows.append({"Classifier": CLASSIFIER_NAMES[name], **numbers})
    return pd.DataFrame(rows)


def table1_summary() -> tuple[pd.DataFrame, dict[str, int]]:
    """Table 1 row by row, and its totals."""
    table, totals = table1.compare()
    names = {
        "layer": "Layer", "kind": "Kind", "output": "Output", "parameters": "Parameters",
        "paper_output": "Output (paper)", "paper_parameters": "Parameters (paper)", "verdict": "Verdict",
    }  # fmt: skip
    return table.rename(columns=names), totals


def table2_comparison(run: Run) -> pd.DataFrame:
    """Table 2: the published numbers, and ours beside them."""
    columns = ["Method", "Data", "Protocol", "Accuracy", "Balanced accuracy", "F1"]
    ours = []
    for name in run.names:
        figures = run.metrics[name]["sets"]["test"]
        numbers = (describe(figures[metric]) for metric in ("accuracy", "balanced_accuracy", "f1"))
        ours.append((f"{CLASSIFIER_NAMES[name]}, this run", run.experiment.data.name, run.protocol(), *numbers))
    return pd.DataFrame([*PUBLISHED, *ours], columns=columns)


def counts(run: Run) -> pd.DataFrame:
    """Patients, patches and malignant patches of every role."""
    rows = [
        (ROLE_NAMES[role].capitalize(), count["patients"], count["patches"], count["positives"])
        for role in ROLE_NAMES
        if (count := run.split["counts"].get(role))
    ]
    return pd.DataFrame(rows, columns=["Role", "Patients", "Patches", "Malignant"])


def audit(run: Run) -> pd.DataFrame:
    """Faults that the audit found, how many, what was done, and the first files that have them."""
    rows = [
        (name.replace("_", " ").capitalize(), fault["count"], fault["policy"], ", ".join(having(run.faulty, name)))
        for name, fault in run.audit["faults"].items()
    ]
    return pd.DataFrame(rows, columns=["Fault", "Files", "Policy", "For example"])


def having(faulty: pd.DataFrame, fault: str) -> list[str]:
    """Ids of the first EXAMPLES files that have a fault."""
    return faulty.loc[faulty["faults"].str.split().map(lambda names: fault in names).astype(bool), "id"].tolist()[
        :EXAMPLES
    ]


REFERENCES = {
    "real_vs_real_same_patients": "same patients",
    "benign_only": "benign alone",
    "random_pixels": "random pixels",
}
BOUNDS = ("value", "floor", "ceiling")
GAN_NAMES = {
    "kid": "KID", "kid_efficientnet_lite2": "KID on EfficientNet-Lite2, ImageNet", "fid": "FID",
    "fid_efficientnet_lite2": "FID on EfficientNet-Lite2, ImageNet",
    "precision": "Precision", "recall": "Recall", "density": "Density",
    "coverage": "Coverage", "class_fidelity": "Class fidelity (balanced accuracy)",
    "tstr_roc_auc": "Trained on synthetic, tested on real (ROC AUC)",
    "memorization_rate": "Memorization rate, by features", "memorization_rate_pixels": "Memorization rate, by pixels",
}  # fmt: skip


BETTER = {"kid": "lower", "kid_efficientnet_lite2": "lower", "fid": "lower", "fid_efficientnet_lite2": "lower",
          "memorization_rate": "as real ones",
          "memorization_rate_pixels": "as real ones"}  # the others: higher  # fmt: skip
TRAINED = ("class_fidelity", "tstr_roc_auc")  # whose ceiling is of real patches; that of distances is of bad ones


def gan_scores(run: Run) -> pd.DataFrame:
    """Every score of the synthetic patches beside what real ones have, and the worst case."""
    rows = []
    for name, title in GAN_NAMES.items():
        score = run.gan_scores[name]
        value, *bounds = ("not defined" if score[key] is None else f"{score[key]:.4g}" for key in BOUNDS)
        real, worst = reversed(bounds) if name in TRAINED else bounds
        if score["low"] is not None:
            value += f" ({score['low']:.4g} to {score['high']:.4g})"
        references = ", ".join(
            f"{REFERENCES[key]} {score[key]:.3g}" for key in REFERENCES if score.get(key) is not None
        )
        rows.append((title, BETTER.get(name, "higher"), value, real, worst, references, score["samples"]))
    synthetic, real = (f"{np.mean(two):.3f}" for two in run.layout_sameness().values())
    rows.append((
        "Correlation of the layouts of two patches of a class", "as real ones", synthetic, real, "1", "",
        len(run.synthetic["labels"]),
    ))  # fmt: skip
    columns = ["Score", "Better is", "Synthetic", "Real patches", "Worst case", "For comparison", "Samples"]
    return pd.DataFrame(rows, columns=columns)


def quality_filter(run: Run) -> pd.DataFrame:
    """Return how many synthetic patches the quality filter accepted, and why it rejected the others."""
    counts = run.synthetic_properties.groupby("label")["filter_result"].value_counts().unstack(fill_value=0)
    names = {
        "accepted": "Accepted",
        "low_confidence": "Rejected: class not recognised",
        "out_of_distribution": "Rejected: far from real patches",
    }
    rows = [
        (name.capitalize(), *(int(counts.at[label, result]) if result in counts else 0 for result in names))
        for label, name in enumerate(CLASSES)
        if label in counts.index
    ]
    return pd.DataFrame(rows, columns=["Class", *names.values()])


def comparisons(run: Run) -> pd.DataFrame:
    """Each classifier's difference from another, on the same test patches, with its interval and p."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for comparison in run.comparisons:
        rows.setdefault((comparison["reference"], comparison["classifier"]), {})[METRIC_NAMES[comparison["metric"]]] = (
            _tested(comparison)
        )
    ordered = [
        {"Classifier": CLASSIFIER_NAMES[name], "Reference": CLASSIFIER_NAMES[reference], **rows[reference, name]}
        for reference in dict.fromkeys(pair[0] for pair in rows)
        for name in run.names
        if (reference, name) in rows
    ]
    columns = ("Classifier", "Reference", *(METRIC_NAMES[metric] for metric in COMPARED))
    return pd.DataFrame(ordered, columns=columns)


def components(run: Run) -> pd.DataFrame:
    """What each part of the whole adds to what stands without it: those of the ablation one by one, in its short
    trainings, then each classifier that extends another one."""
    pairs: dict[tuple[str, str], dict[str, dict]] = {}
    for comparison in run.comparisons:
        pairs.setdefault((comparison["classifier"], comparison["reference"]), {})[comparison["metric"]] = comparison
        turned = {
            "value": _minus(comparison["value"]),
            "low": _minus(comparison["high"]),
            "high": _minus(comparison["low"]),
            "p": comparison["p"],
        }
        pairs.setdefault((comparison["reference"], comparison["classifier"]), {})[comparison["metric"]] = turned
    compared = [
        (title, CLASSIFIER_NAMES[without], pairs[name, without])
        for title, name, without in (
            *((spec.adds, name, spec.compared_with) for name, spec in CLASSIFIERS.items() if spec.compared_with),
            ("An ensemble", "ensemble", run.experiment.members[0]),
            ("Neighbouring patches", "ensemble_spatial_context", "ensemble"),
        )
        if (name, without) in pairs
    ]
    return pd.DataFrame([
        {"Component": title, "Added to": without}
        | {difference_in(metric): _tested(differences[metric]) for metric in COMPARED}
        for title, without, differences in [*_ablated_components(run), *compared]
    ])  # fmt: skip


def _ablated_components(run: Run) -> list[tuple[str, str, dict]]:
    """The ablation's levels that change what a network is made of or learns from, not how it is trained."""
    if not run.ablation:
        return []
    base = f"{CLASSIFIER_NAMES[run.ablation['model']]}, {run.ablation['epochs']} epochs"
    changes = run.experiment.ablation.variants
    return [
        (f"{variant['factor'][0].upper()}{variant['factor'][1:]}: {variant['variant']}", base, variant["differences"])
        for variant in run.ablation["variants"]
        if variant["differences"]
        and any(
            key.startswith("classify.models.") and not key.endswith(".learning_rate")
            for key in changes[variant["factor"]][variant["variant"]]
        )
    ]


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _tested(estimate: dict) -> str:
    """A difference, its interval and its p."""
    return describe(estimate) if estimate["p"] is None else f"{describe(estimate)}, p = {estimate['p']:.2g}"


def ablation(run: Run) -> pd.DataFrame:
    """What each choice of the ablation gives, and its difference from the experiment as it is."""
    rows = []
    for variant in run.ablation["variants"]:
        figures = {METRIC_NAMES[metric]: describe(variant["figures"][metric]) for metric in COMPARED}
        gains = variant["differences"] or {}
        differences = {difference_in(metric): _tested(gain) for metric, gain in gains.items()}
        choice = {"Factor": variant["factor"], "Choice": variant["variant"], "Seeds": variant["seeds"]}
        rows.append(choice | figures | differences)
    return pd.DataFrame(rows)


def learning_curve(run: Run) -> pd.DataFrame:
    """Every arm at every share of the training patients, and its difference from classic augmentation."""
    rows = {
        (cell["train_fraction"], cell["arm"]): {
            "Share of patients": f"{cell['train_fraction']:.0%}", "Arm": ARM_NAMES[cell["arm"]],
            "Patients": cell["patients"], "Seeds": cell["figures"]["roc_auc"]["seeds"],
            **{METRIC_NAMES[name]: describe(cell["figures"][name]) for name in CURVE_METRICS},
        }
        for cell in run.learning_curve["cells"]
    }  # fmt: skip
    for difference in run.learning_curve["differences"]:
        rows[difference["train_fraction"], difference["arm"]][difference_in(difference["metric"])] = _tested(difference)
    return pd.DataFrame(rows.values())


def learning_curve_verdict(run: Run) -> str:
    """Whether any arm beats classic augmentation at any share, in a sentence."""
    differences = [difference for difference in run.learning_curve["differences"] if difference["low"] is not None]
    if not differences:
        return "Whether any arm beats classic augmentation cannot be said: no difference has an interval."
    better = [difference for difference in differences if difference["low"] > 0]
    best = max(differences, key=lambda difference: difference["value"])
    texts = [
        f"{ARM_NAMES[difference['arm']]} at {difference['train_fraction']:.0%} of the patients, "
        f"{METRIC_NAMES[difference['metric']]} {_tested(difference)}"
        for difference in better or [best]
    ]
    if better:
        listed = "; ".join(texts)
        return f"Of {len(differences)} differences from classic augmentation {len(better)} lie above 0: {listed}."
    return (
        f"No arm beats classic augmentation at any share: of {len(differences)} differences none has an interval above "
        f"0; the largest is that of {texts[0]}."
    )


def slides(run: Run) -> pd.DataFrame:
    """Test slides that are there as a whole, each by itself: ROC AUC and balanced accuracy, means over seeds."""
    rows: dict[str, dict[str, str]] = {}
    for name in run.names:
        for slide, scores in run.metrics[name].get("whole_slide_metrics", {}).items():
            row = rows.setdefault(
                slide, {"Slide": slide, "Patches": f"{scores['patches']:,}", "Malignant": f"{scores['malignant']:,}"}
            )
            row[CLASSIFIER_NAMES[name]] = f"{scores['roc_auc']:.3f} / {scores['balanced_accuracy']:.3f}"
    return pd.DataFrame(rows.values())


RULES = {"youden": "Youden's index", "sensitivity_95": "Sensitivity of 0.95", "f1": "F1"}


def operating_points(run: Run) -> pd.DataFrame:
    """What each rule, applied to validation patients, gives on the test patients, with the confusion it makes."""
    rows, test = [], run.count("test")
    for name in run.names:
        for rule, title in RULES.items():
            point = run.metrics[name]["operating_points"][rule]
            numbers = {METRIC_NAMES.get(key, key.capitalize()): f"{value:.3f}" for key, value in point.items()}
            detected = point["sensitivity"] * test["positives"]
            spared = point["specificity"] * (test["patches"] - test["positives"])
            confusion = {
                "Malignant found": f"{detected:,.0f}", "missed": f"{test['positives'] - detected:,.0f}",
                "Benign spared": f"{spared:,.0f}",
                "called malignant": f"{test['patches'] - test['positives'] - spared:,.0f}",
            }  # fmt: skip
            rows.append({"Classifier": CLASSIFIER_NAMES[name], "Chosen for": title, **numbers, **confusion})
    return pd.DataFrame(rows)


FEATURES = {"color_texture_gbdt": "Boosted trees on colour and texture",
            "discriminator_features": "Logistic regression on the discriminator's features"}  # fmt: skip


def split_optimism(run: Run) -> pd.DataFrame:
    """ROC AUC by a random split and by patients, and what the random split adds."""
    by_name = {FEATURES[name]: by_split for name, by_split in run.split_optimism.items()}
    for name, by_split in _folds(run).items():
        by_name[CLASSIFIER_NAMES[name]] = {key: by_split[key]["roc_auc"] for key in OPTIMISM}
    rows = [(name, *(describe(by_split[key]) for key in OPTIMISM)) for name, by_split in by_name.items()]
    return pd.DataFrame(rows, columns=["Model", "Random split", "Split by patient", "Optimism"])


def cross_validation(run: Run) -> pd.DataFrame:
    """Whole trainings cross-validated by patients, every figure of all patients pooled."""
    ways = {"patient_split": "", "neighbours": ", with neighbouring patches"}
    rows = [
        {"Classifier": CLASSIFIER_NAMES[name] + suffix, "Patients": results["patients"], "Patches": results["patches"]}
        | {
            METRIC_NAMES[metric]: describe(results[way][metric.removesuffix("_calibrated")])
            for metric in (*RESULT_METRICS, "ece_calibrated")  # every fold's probabilities are calibrated
        }
        for name, results in _folds(run).items()
        for way, suffix in ways.items()
        if way in results
    ]
    return pd.DataFrame(rows)


def _folds(run: Run) -> dict[str, dict]:
    return run.cross_validation["models"] if run.cross_validation else {}


def largest_errors(run: Run, number: int = 10) -> pd.DataFrame:
    """Test patches that the proposed classifier is most wrong about, `number` of each class, one a patient."""
    name, table = run.names[0], run.test
    probabilities = run.mean(name, table)
    wrong = (probabilities >= run.threshold(name)) != (table["label"] == 1)
    table = table.assign(probability=probabilities, distance=(probabilities - table["label"]).abs())[wrong]
    table = table.sort_values("distance", ascending=False).groupby(["label", "patient"], sort=False).head(1)
    table = table.groupby("label").head(number).sort_values(["label", "distance"], ascending=[True, False])
    return pd.DataFrame({
        "Patch": table["id"], "Patient": table["patient"], "Label": np.array(CLASSES)[table["label"]],
        "Probability of malignancy": table["probability"].round(4),
    })  # fmt: skip


def leaks(run: Run) -> pd.DataFrame:
    """The leak audit's checks."""
    checks = run.leak_audit["checks"].values()
    rows = [("passed" if check["passed"] else "FAILED", check["count"], check["meaning"]) for check in checks]
    return pd.DataFrame(rows, columns=["Verdict", "Found", "What is counted"])
