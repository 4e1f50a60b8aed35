"""Tables of the synthetic patches: their scores, and what the quality filter accepted."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from bcgan.classes import capitalize
from bcgan.preprocess import store
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES
from bcgan.report.wording import join_words

REFERENCES = {
    "real_vs_real_same_patients": "same patients",
    "benign_only": "{first} alone",
    "random_pixels": "random pixels",
}
BOUNDS = ("value", "floor", "ceiling")
GAN_NAMES = {
    "kid": "KID", "kid_efficientnet_lite2": "KID on EfficientNet-Lite2, ImageNet", "fid": "FID",
    "fid_efficientnet_lite2": "FID on EfficientNet-Lite2, ImageNet",
    "kid_inception_2015": "KID on Inception, 2015-12-05", "fid_inception_2015": "FID on Inception, 2015-12-05",
    "precision": "Precision", "recall": "Recall", "density": "Density",
    "coverage": "Coverage", "class_fidelity": "Class fidelity (balanced accuracy)",
    "tstr_roc_auc": "Trained on synthetic, tested on real (ROC AUC)",
    "memorization_rate": "Memorization rate, by features", "memorization_rate_pixels": "Memorization rate, by pixels",
    "repetition_rate": "Repetition rate, by features of the reference CNN",
    "repetition_rate_layout": "Repetition rate, by layout",
    "repetition_rate_efficientnet_lite2": "Repetition rate on EfficientNet-Lite2, ImageNet",
}  # fmt: skip


# Which direction is better; of the scores that are not listed, higher.
BETTER = {**{name: "lower" for name in GAN_NAMES if name.startswith(("kid", "fid"))},
          **dict.fromkeys(("memorization_rate", "memorization_rate_pixels", "repetition_rate", "repetition_rate_layout",
                           "repetition_rate_efficientnet_lite2"), "as real ones")}  # fmt: skip
# Scores whose ceiling is what real patches reach; of the others it is the worst case.
WITH_REAL_CEILING = ("class_fidelity", "tstr_roc_auc")


def _list_scores(run: Run) -> list[tuple[str, str]]:
    """Return name and title of the scores that a run has; those on Inception's features need a file of the user's."""
    return [(name, title) for name, title in GAN_NAMES.items() if name in run.gan_scores]


def gan_scores(run: Run) -> pd.DataFrame:
    """Return a table with a row for each score of the synthetic patches, beside real patches and the worst case."""
    rows = []
    for name, title in _list_scores(run):
        score = run.gan_scores[name]
        references_by_key = _reference_titles(run, score["samples"])
        value, *bounds = ("not defined" if score[key] is None else f"{score[key]:.4g}" for key in BOUNDS)
        real, worst = reversed(bounds) if name in WITH_REAL_CEILING else bounds
        if score["low"] is not None:
            value += f" ({score['low']:.4g} to {score['high']:.4g})"
        references = ", ".join(
            f"{references_by_key[key]} {score[key]:.3g}" for key in REFERENCES if score.get(key) is not None
        )
        rows.append((title, BETTER.get(name, "higher"), value, real, worst, references, score["samples"]))
    synthetic, real = (f"{np.mean(by_class):.3f}" for by_class in run.layout_correlations().values())
    rows.append((
        "Correlation of the layouts of two patches of a class", "as real ones", synthetic, real, "1", "",
        len(run.synthetic["labels"]),
    ))  # fmt: skip
    columns = ["Score", "Better is", "Synthetic", "Real patches", "Worst case", "For comparison", "Samples"]
    return pd.DataFrame(rows, columns=columns)


def _reference_titles(run: Run, samples: int) -> dict[str, str]:
    """Return the titles of REFERENCES; that of the first class alone states its samples if they are fewer."""
    num_first = run.class_counts("validation")[0]
    first = run.class_texts[0] + (f" ({num_first:,} samples)" if num_first < samples else "")
    return {key: title.format(first=first) for key, title in REFERENCES.items()}


class ScoreBar(NamedTuple):
    """A score on a scale from the worst case, 0 %, to real patches, 100 %.

    Attributes:
        title: Of the score.
        text, real, worst: The score of synthetic patches, of real patches and of the worst case, as text.
        position, low, high: The score and its interval on the scale, percent; low and high are `None` without an
            interval.
    """

    title: str
    text: str
    real: str
    worst: str
    position: float
    low: float | None
    high: float | None


def score_bars(run: Run) -> list[ScoreBar]:
    """Return the scores of the synthetic patches for which real patches are better than the worst case."""
    bars = []
    for name, title in _list_scores(run):
        score = run.gan_scores[name]
        if any(score[key] is None for key in BOUNDS) or score["floor"] == score["ceiling"]:
            continue
        real, worst = (score["ceiling"], score["floor"]) if name in WITH_REAL_CEILING else (
            score["floor"], score["ceiling"]
        )  # fmt: skip
        if (real > worst) != (BETTER.get(name, "higher") == "higher"):
            continue  # real patches score worse than the worst case: nothing lies between the two
        ends = [None if score[key] is None else _position(score[key], worst, real) for key in ("low", "high")]
        low, high = ends if None in ends else sorted(ends)
        bars.append(ScoreBar(title, f"{score['value']:.3g}", f"{real:.3g}", f"{worst:.3g}",
                             _position(score["value"], worst, real), low, high))  # fmt: skip
    return bars


def _position(value: float, worst: float, real: float) -> float:
    """Return where a value lies between the worst case and real patches, in percent, at most 100 and at least 0."""
    return round(float(np.clip(100 * (value - worst) / (real - worst), 0, 100)), 1)


def trained_on_rejected(run: Run) -> list[str]:
    """Return the classifiers that were trained on all synthetic patches, as too few of a class were accepted."""
    if store.are_enough(run.synthetic["labels"], run.synthetic["accepted"]):
        return []
    models = run.experiment.classify.models
    return [name for name in run.trained_names if models[name].uses_synthetic and models[name].filter_synthetic]


def unused_filter_text(run: Run) -> str:
    """Return a sentence on the classifiers of `trained_on_rejected`; empty if there are none."""
    names = [CLASSIFIER_NAMES[name] for name in trained_on_rejected(run)]
    if not names:
        return ""
    labels = run.synthetic["labels"]
    counts = np.bincount(labels[run.synthetic["accepted"]], minlength=len(run.class_names))
    accepted = join_words([f"{count:,} {text}" for count, text in zip(counts, run.class_texts, strict=True)])
    return (
        f"The quality filter was not used: it accepted {accepted} of {len(labels):,} synthetic patches, fewer than "
        f"{store.MIN_SYNTHETIC} of a class. All of them trained {join_words(names)}, rejected ones too."
    )


def quality_filter(run: Run) -> pd.DataFrame:
    """Return a table of how many synthetic patches of each class were accepted, or rejected for which reason."""
    counts = run.synthetic_properties.groupby("label")["filter_result"].value_counts().unstack(fill_value=0)
    names = {
        "accepted": "Accepted",
        "low_confidence": "Rejected: class not recognised",
        "out_of_distribution": "Rejected: far from real patches",
    }
    rows = [
        (capitalize(text), *(int(counts.at[label, result]) if result in counts else 0 for result in names))
        for label, text in enumerate(run.class_texts)
        if label in counts.index
    ]
    return pd.DataFrame(rows, columns=["Class", *names.values()])
