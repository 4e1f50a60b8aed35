"""Pictures of the classifiers on the test patients: curves, ROC, precision-recall, reliability, confusion, patients."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from bcgan.classify.calibration import Calibration, apply
from bcgan.data.records import CLASSES
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.intervals import describe, patient_weights
from bcgan.evaluate.metrics import operating_points
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLOURS,
    CLASSIFIER_NAMES,
    INK,
    METRIC_NAMES,
    MUTED,
    Drawn,
    difference_in,
    signed,
)

YOUDEN = "youden"
CURVE_POINTS = 201  # places along x at which the seeds are averaged
BANDS = 300  # resamples whose curves are drawn together as a band


def accuracy_loss(run: Run) -> Drawn:
    """Fig. 10: accuracy and loss over the epochs, training (dashed) and validation (solid)."""
    names = run.trained
    figure, grid = plt.subplots(2, len(names), figsize=(2.6 * len(names) + 0.6, 4.8), sharey="row", squeeze=False)
    for position, name in enumerate(names):
        mean = run.logs[run.logs["classifier"] == name].groupby("epoch").mean(numeric_only=True)
        for row, metric in enumerate(("accuracy", "loss")):
            axes = grid[row, position]
            colour = CLASSIFIER_COLOURS[name]
            axes.plot(mean.index + 1, mean[metric], ls="--", color=colour, label="training")
            axes.plot(mean.index + 1, mean[f"validation_{metric}"], "o-", ms=3, color=colour, label="validation")
            axes.xaxis.get_major_locator().set_params(integer=True)
        grid[0, position].set_title(CLASSIFIER_NAMES[name], fontsize=10)
        grid[1, position].set_xlabel("Epoch")
    grid[0, 0].set_ylabel("Accuracy at 0.5")
    grid[1, 0].set_ylabel("Loss (nats)")
    grid[0, 0].legend(loc="lower right")
    sns.despine(figure)
    settings = run.experiment.classify
    caption = (
        f"Accuracy and loss by epoch, mean over {run.seeds()}. Training (dashed): {run.said('train')}, augmented, "
        f"weights of that step, loss {settings.loss.replace('_', ' ')}; validation (solid): averaged weights, plain "
        f"cross-entropy, {run.said('validation')}."
    )
    return Drawn(figure, run.logs, "Accuracy and loss", caption)


def confusion(run: Run) -> Drawn:
    """Confusion matrices: the proposed classifier's at every threshold that validation chose, the others' at one."""
    test = run.test
    first, *other_names = run.names
    panels = [(first, rule) for rule in tables.RULES] + [(name, YOUDEN) for name in other_names]
    across = len(tables.RULES)
    down = -(-len(panels) // across)
    figure, grid = plt.subplots(down, across, figsize=(2.5 * across + 0.5, 3.05 * down), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    rows = []
    for axes, (name, rule) in zip(grid.flat, panels, strict=False):
        thresholds = _thresholds(run, name, rule)
        counts = np.mean(
            [
                confusion_matrix(test["label"], test[column] >= thresholds[seed])
                for seed, column in run.columns(name).items()
            ],
            axis=0,
        )
        shares = counts / counts.sum(1, keepdims=True)
        notes = np.array([[f"{share:.0%}\n{count:,.0f}" for share, count in zip(*pair, strict=True)]
                          for pair in zip(shares, counts, strict=True)])  # fmt: skip
        sns.heatmap(
            shares, annot=notes, fmt="", annot_kws={"color": INK}, cmap="Greys", vmin=0, vmax=2, cbar=False, ax=axes,
            square=True,
            xticklabels=CLASSES, yticklabels=CLASSES if axes in grid[:, 0] else False, linewidths=1,
        )  # fmt: skip
        threshold = np.mean(list(thresholds.values()))
        axes.set_title(f"{CLASSIFIER_NAMES[name]}\n{tables.RULES[rule]}, {threshold:.2f}", fontsize=8.5)
        axes.set_xlabel("Called")
        axes.tick_params(length=0)
        for truth, called in np.ndindex(2, 2):
            rows.append({
                "classifier": name, "rule": rule, "threshold": threshold, "true": CLASSES[truth],
                "called": CLASSES[called], "patches": counts[truth, called], "share": shares[truth, called],
            })  # fmt: skip
    for axes in grid[:, 0]:
        axes.set_ylabel("True")
    caption = (
        f"Confusion of {run.said('test')}; share of the true class, and patches (mean over {run.seeds()}). Upper row: "
        f"{CLASSIFIER_NAMES[first]} at the thresholds that give validation patients the largest Youden index, a "
        "sensitivity of at least 0.95, and the largest F1; below: the others at that with the largest Youden index. "
        "Above each matrix its rule and threshold, all other rules in the table of operating points."
    )
    return Drawn(figure, pd.DataFrame(rows), "Confusion matrices", caption)


def _thresholds(run: Run, name: str, rule: str) -> dict[int, float]:
    """{seed: threshold} that a rule chooses on the validation patients."""
    chosen = run.probabilities[run.probabilities["role"] == "validation"]
    labels = chosen["label"].to_numpy()
    return {
        seed: operating_points(labels, chosen[column].to_numpy())[rule] for seed, column in run.columns(name).items()
    }


def roc(run: Run) -> Drawn:
    """ROC curves of the test patients, one line per classifier."""
    return _curves(
        run, "roc_auc", roc_curve, ("1 - specificity", "Sensitivity"), "ROC curves",
        "ROC curves; the diagonal is chance.",
    )  # fmt: skip


def precision_recall(run: Run) -> Drawn:
    """Precision-recall curves of the test patients, one line per classifier."""

    def curve(labels, scores, sample_weight=None):
        precision, recall, _ = precision_recall_curve(labels, scores, sample_weight=sample_weight)
        has_recall = recall > 0  # without a true call there is no precision to speak of: 0 or, by convention, 1
        return recall[has_recall][::-1], precision[has_recall][::-1], _

    share = run.count("test")["positives"] / run.count("test")["patches"]
    return _curves(
        run, "pr_auc", curve, ("Recall (sensitivity)", "Precision"), "Precision-recall curves",
        f"Precision-recall curves; the dotted line is the share of malignant patches, {share:.2f}: chance.",
    )  # fmt: skip


def reliability(run: Run) -> Drawn:
    """Observed share of malignant patches against the probability, in ten bins of equal patches; as the networks say,
    and after scaling."""
    test = run.test
    figure, grid = plt.subplots(1, 2, figsize=(8.4, 5.9), sharey=True)
    rows = []
    for axes, (kind, title) in zip(grid, {"ece": "As it is", "ece_calibrated": "After scaling"}.items(), strict=True):
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
        for name in run.names:
            scores = run.mean(name, test)
            if kind == "ece_calibrated":
                scores = np.mean([_calibrated(run, name, seed, test) for seed in run.columns(name)], axis=0)
            observed, predicted = calibration_curve(test["label"], scores, n_bins=10, strategy="quantile")
            errors = [describe(run.metrics[name]["sets"]["test"][measure]) for measure in ("ece", "ece_calibrated")]
            axes.plot(
                predicted, observed, "o-", ms=3.5, color=CLASSIFIER_COLOURS[name], zorder=_above(run, name),
                label=f"{CLASSIFIER_NAMES[name]}: {errors[0]}, {errors[1]}" if axes is grid[0] else None,
            )  # fmt: skip
            points = zip(predicted, observed, strict=True)
            rows += [{"probabilities": title, "classifier": name, "predicted": p, "observed": o} for p, o in points]
        axes.set(xlabel="Mean probability of malignancy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=title)
    grid[0].set_ylabel("Observed share malignant")
    _legend_below(figure, "Expected calibration error, as it is and after scaling")
    sns.despine(figure)
    caption = (
        "Reliability, ten bins of equal size, as the networks say and after temperature and shift from the validation "
        f"patients: {run.said('test')}. Dotted: perfect. The error is over ten equally wide bins, with "
        f"{run.experiment.evaluate.confidence_level:.0%} intervals by {run.bootstrap()}; resampling raises it, so "
        "that a small one may lie below its interval."
    )
    return Drawn(figure, pd.DataFrame(rows), "Reliability", caption)


def per_patient(run: Run) -> Drawn:
    """Accuracy of each test patient's patches, a dot a patient."""
    test = run.test
    rows = []
    for name in run.names:
        for seed, column in run.columns(name).items():
            called = test[column] >= run.metrics[name]["thresholds"][str(seed)]
            right = (called == test["label"]).groupby(test["patient"]).agg(["mean", "size"])
            rows += [(name, seed, patient, mean, size) for patient, mean, size in right.itertuples()]
    table = pd.DataFrame(rows, columns=["classifier", "seed", "patient", "accuracy", "patches"])
    mean = table.groupby(["classifier", "patient"], as_index=False)["accuracy"].mean()
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(run.names) + 1.2))
    spread = np.random.default_rng(0)
    for place, name in enumerate(run.names):
        values = mean.loc[mean["classifier"] == name, "accuracy"]
        heights = place + spread.uniform(-0.22, 0.22, len(values))
        axes.scatter(values, heights, s=22, alpha=0.6, lw=0, color=CLASSIFIER_COLOURS[name])
    axes.invert_yaxis()
    axes.set_yticks(range(len(run.names)), [CLASSIFIER_NAMES[name] for name in run.names])
    axes.axvspan(0.95, 0.988, color=MUTED, alpha=0.2, lw=0)
    axes.set(
        xlabel="Accuracy over a patient's patches",
        ylabel="",
        xlim=(min(0.4, mean["accuracy"].min()) - 0.02, 1.02),
    )
    axes.annotate("stated by\nthe paper", (0.969, 1.01), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                  fontsize=8, color=MUTED)  # fmt: skip
    sns.despine(figure)
    worst = ", ".join(
        f"{CLASSIFIER_NAMES[name]} {values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"
        for name in run.names
        for values in (mean.loc[mean["classifier"] == name, "accuracy"],)
    )
    caption = (
        f"A dot a patient ({run.said('test')}), up and down at random, so that fewer dots cover each other: "
        f"accuracy at the validation threshold. Mean (minimum to maximum): {worst}. "
        "Grey: the 95.0 to 98.8 % that the paper states without a protocol."
    )
    return Drawn(figure, table, "Patient by patient", caption)


def patient_shares(run: Run) -> Drawn:
    """How much of each test patient's tissue is malignant, estimated against annotated."""
    name = "ensemble" if "ensemble" in run.metrics else run.names[0]
    test = run.test
    estimates = []
    for seed in run.columns(name):
        true, estimated, patches = by_patient.shares(
            test["label"].to_numpy(), _calibrated(run, name, seed, test), test["patient"].to_numpy()
        )
        estimates.append(estimated)
    table = pd.DataFrame({
        "patient": np.unique(test["patient"]), "patches": patches, "annotated": true,
        "estimated": np.mean(estimates, axis=0),
    })  # fmt: skip
    figure, axes = plt.subplots(figsize=(4.8, 4.4))
    axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
    axes.scatter(table["annotated"], table["estimated"], s=table["patches"].clip(10, 120), alpha=0.6, lw=0,
                 color=CLASSIFIER_COLOURS[name])  # fmt: skip
    most = min(1.02, max(table["annotated"].max(), table["estimated"].max()) + 0.05)
    axes.set(xlabel="Share of malignant patches, annotated", ylabel="Estimated", xlim=(-0.02, most), ylim=(-0.02, most))
    axes.set_aspect("equal")
    sns.despine(figure)
    test_metrics = run.metrics[name]["sets"]["test"]
    caption = (
        f"A dot a test patient ({len(table)}), larger with more patches: the mean calibrated probability by "
        f"{CLASSIFIER_NAMES[name]}, against the share of the patient's patches that are annotated as malignant. Mean "
        f"error {describe(test_metrics['patient_fraction_mae'])}, correlation "
        f"{describe(test_metrics['patient_fraction_pearson'])}; "
        f"intervals by {run.bootstrap()}. {run.said('test').capitalize()}."
    )
    return Drawn(figure, table, "How much of the tissue is malignant", caption)


def decision_curve(run: Run) -> Drawn:
    """Net benefit of acting on the calibrated probability, against acting on all patches and on none (Vickers 2006)."""
    test = run.test
    malignant = test["label"].to_numpy() == 1
    thresholds = np.linspace(0.01, 0.9, 90)
    odds = thresholds / (1 - thresholds)
    everyone = malignant.mean() - (1 - malignant.mean()) * odds
    figure, axes = plt.subplots(figsize=(6.2, 4.8))
    axes.plot(thresholds, everyone, color=MUTED, ls="--", lw=1, label="Call every patch malignant")
    axes.axhline(0, color=MUTED, ls=":", lw=1, label="Call none")
    rows = [{"classifier": "all", "threshold": t, "net_benefit": b} for t, b in zip(thresholds, everyone, strict=True)]
    for name in run.names:
        benefits = []
        for seed in run.columns(name):
            called = _calibrated(run, name, seed, test)[:, None] >= thresholds
            benefits.append((called & malignant[:, None]).mean(0) - (called & ~malignant[:, None]).mean(0) * odds)
        benefit = np.mean(benefits, axis=0)
        axes.plot(
            thresholds, benefit, color=CLASSIFIER_COLOURS[name], label=CLASSIFIER_NAMES[name], zorder=_above(run, name)
        )
        rows += [
            {"classifier": name, "threshold": t, "net_benefit": b} for t, b in zip(thresholds, benefit, strict=True)
        ]
    lowest = min(row["net_benefit"] for row in rows if row["classifier"] != "all")
    axes.set(xlabel="Probability above which a patch is called malignant", ylabel="Net benefit (true calls a patch)",
             xlim=(0, 0.9), ylim=(min(-0.03, lowest - 0.005), malignant.mean() * 1.05))  # fmt: skip
    _legend_below(figure)
    sns.despine(figure)
    caption = (
        f"Decision curves: {run.said('test')}; probabilities calibrated on validation patients. A false call counts as "
        "much against a true one as the odds of the threshold say."
    )
    return Drawn(figure, pd.DataFrame(rows), "Decision curves", caption)


def comparisons(run: Run) -> Drawn:
    """Every classifier against the proposed one, on the same patches: differences with intervals."""
    table = pd.DataFrame(run.comparisons)
    table = table[table["reference"] == table["reference"].iloc[0]]
    compared = [name for name in run.names if name in set(table["classifier"])]
    kinds = list(table["metric"].unique())
    figure, grid = plt.subplots(1, len(kinds), figsize=(2.7 * len(kinds) + 1.5, 0.42 * len(compared) + 1.3),
                                sharey=True, squeeze=False)  # fmt: skip
    for axes, metric in zip(grid[0], kinds, strict=True):
        rows = table[table["metric"] == metric].set_index("classifier").loc[compared]
        for place, (name, row) in enumerate(rows.iterrows()):
            if pd.notna(row["low"]):
                axes.plot([row["low"], row["high"]], [place, place], color=CLASSIFIER_COLOURS[name], lw=2)
            axes.plot(row["value"], place, "o", ms=5, color=CLASSIFIER_COLOURS[name])
            axes.annotate(signed(row["value"]), (1.01, place), xycoords=("axes fraction", "data"), va="center",
                          fontsize=8)  # fmt: skip
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_xlabel(difference_in(metric))
        axes.locator_params(axis="x", nbins=4)
    grid[0, 0].set_yticks(range(len(compared)), [CLASSIFIER_NAMES[name] for name in compared])
    grid[0, 0].invert_yaxis()
    sns.despine(figure)
    first = CLASSIFIER_NAMES[run.comparisons[0]["reference"]]
    caption = (
        f"Difference from {first}, right of the line: better. {run.said('test').capitalize()}; means over the seeds, "
        f"{run.experiment.evaluate.confidence_level:.0%} intervals by {run.bootstrap()}, the same patients for both."
    )
    return Drawn(figure, table, f"Against {first}", caption)


def ablation(run: Run) -> Drawn:
    """What each choice is worth: one factor changed at a time, the difference from the experiment as it is."""
    rows = [
        {
            "factor": variant["factor"],
            "variant": variant["variant"],
            "seeds": variant["seeds"],
            "metric": metric,
            **difference,
        }
        for variant in run.ablation["variants"]
        if variant["differences"]
        for metric, difference in variant["differences"].items()
    ]
    table = pd.DataFrame(rows, columns=["factor", "variant", "seeds", "metric", "value", "low", "high", "p"])
    labels = list(dict.fromkeys(zip(table["factor"], table["variant"], strict=True)))
    kinds = ("roc_auc", "balanced_accuracy")
    figure, grid = plt.subplots(1, len(kinds), figsize=(3.2 * len(kinds) + 2, 0.3 * len(labels) + 1.3), sharey=True)
    for axes, metric in zip(grid, kinds, strict=True):
        of_metric = table[table["metric"] == metric]
        for place, row in enumerate(of_metric.itertuples()):
            if pd.notna(row.low):
                axes.plot([row.low, row.high], [place, place], color=CLASSIFIER_COLOURS[run.ablation["model"]], lw=2)
            axes.plot(row.value, place, "o", ms=4.5, color=CLASSIFIER_COLOURS[run.ablation["model"]])
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_xlabel(difference_in(metric))
        axes.locator_params(axis="x", nbins=5)
    grid[0].set_yticks(range(len(labels)), [f"{factor}: {level}" for factor, level in labels])
    grid[0].invert_yaxis()
    sns.despine(figure)
    base = run.ablation["variants"][0]
    fewer = [
        f"{row.seeds} for {row.factor}: {row.variant}" for row in of_metric.itertuples() if row.seeds != base["seeds"]
    ]
    fewer = f" ({', '.join(fewer)})" if fewer else ""
    caption = (
        f"One choice changed at a time, {CLASSIFIER_NAMES[run.ablation['model']]}, {run.ablation['epochs']} epochs, "
        f"{base['seeds']} seeds{fewer}: difference from the experiment as it is (ROC AUC "
        f"{describe(base['figures']['roc_auc'])}), right of the line: better. {run.said('test').capitalize()}; "
        f"{run.experiment.evaluate.confidence_level:.0%} intervals by a bootstrap of seeds and patients, the same for "
        f"both; with {len(labels)} choices one in twenty looks like an effect by chance."
    )
    return Drawn(figure, table, "Ablation", caption)


def _legend_below(figure, title: str | None = None) -> None:
    """Of many lines, where it covers none of them."""
    figure.legend(fontsize=7.5, title=title, title_fontsize=8, loc="outside lower center", ncol=1 if title else 2)


def _above(run: Run, name: str) -> int:
    """The first classifier's line is drawn over the others', which may be all but the same."""
    return 4 if name == run.names[0] else 3


def _curves(run: Run, metric: str, curve, labels: tuple[str, str], title: str, caption: str) -> Drawn:
    test = run.test
    figure, axes = plt.subplots(figsize=(4.8, 6.2))
    across, curves = np.linspace(0, 1, CURVE_POINTS), []
    for name in run.names:
        up = _mean_curve(curve, test["label"], test[list(run.columns(name).values())], across)
        label = f"{CLASSIFIER_NAMES[name]}: {describe(run.metrics[name]['sets']['test'][metric])}"
        axes.plot(across, up, color=CLASSIFIER_COLOURS[name], lw=1.6, label=label, zorder=_above(run, name))
        curves.append(pd.DataFrame({"classifier": name, labels[0]: across, labels[1]: up}))
    first = run.names[0]
    low, high = _band(run, test, first, curve, across)
    axes.fill_between(across, low, high, color=CLASSIFIER_COLOURS[first], alpha=0.18, lw=0, zorder=0)
    curves[0] = curves[0].assign(low=low, high=high)
    if metric == "roc_auc":
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
    else:
        axes.axhline(test["label"].mean(), ls=":", color=MUTED)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(0, 1.01))
    _legend_below(figure, METRIC_NAMES[metric])
    sns.despine(figure)
    confidence = run.experiment.evaluate.confidence_level
    caption = (
        f"{caption} {run.said('test').capitalize()}; each line the mean of {run.seeds()} at equal "
        f"{labels[0].lower()}; {confidence:.0%} intervals by {run.bootstrap()}, "
        f"{run.experiment.evaluate.bootstrap_samples:,} resamples; band of {CLASSIFIER_NAMES[first]}: patients alone, "
        f"{min(BANDS, run.experiment.evaluate.bootstrap_samples)}."
    )
    return Drawn(figure, pd.concat(curves), title, caption)


def _mean_curve(curve, labels, scores: pd.DataFrame, across: np.ndarray, weights=None) -> np.ndarray:
    """A curve's height at the places along x, mean over the seeds, a column of scores each."""
    curves = [curve(labels, scores[seed], sample_weight=weights)[:2] for seed in scores]
    return np.mean([np.interp(across, *points) for points in curves], axis=0)


def _band(run: Run, test: pd.DataFrame, name: str, curve, across: np.ndarray) -> np.ndarray:
    """Between what a classifier's mean curve lies at the places along x, by patient bootstrap; (2, places)."""
    settings, scores = run.experiment.evaluate, test[list(run.columns(name).values())]
    labels = test["label"].to_numpy()
    weights = patient_weights(test["patient"].to_numpy(), settings.bootstrap_samples, run.experiment.seed)
    weights = weights[[np.ptp(labels[row > 0]) > 0 for row in weights]][:BANDS]  # a resample may lack a class
    curves = [_mean_curve(curve, labels[row > 0], scores[row > 0], across, row[row > 0]) for row in weights]
    tail = (1 - settings.confidence_level) / 2
    return np.quantile(curves, (tail, 1 - tail), axis=0)


def _calibrated(run: Run, name: str, seed: int, table: pd.DataFrame) -> np.ndarray:
    """A training's probabilities after temperature and shift."""
    fitted = Calibration(**run.metrics[name]["calibration"][str(seed)])
    return apply(fitted, table[run.columns(name)[seed]].to_numpy(float))
