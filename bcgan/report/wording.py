"""Words and phrases that depend on the names of the classes."""

from collections.abc import Sequence

from bcgan.classes import class_text
from bcgan.report.style import METRIC_NAMES

# Maps that join a classifier's, by the setting `extra_features`.
EXTRA_MAPS = {
    "projected_discriminator": "the projected discriminator's maps", "imagenet": "ImageNet's maps",
    "simclr": "SimCLR's maps",
}  # fmt: skip
MAX_LISTED_CLASSES = 4  # with more, captions give their number, since a list would be longer than the rest


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Return words as an enumeration, such as `benign, in situ and malignant`."""
    *head, final = words
    return f"{', '.join(head)} {last} {final}" if head else final


def count_text(number: int, noun: str) -> str:
    """Return a number and its noun, such as `1 seed` or `3 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_mean_count(count: float) -> str:
    """Return a mean of counts: a whole number, or one with a decimal if the counts differ."""
    rounded = round(float(count), 1)
    return f"{rounded:,.0f}" if rounded.is_integer() else f"{rounded:,.1f}"


def metric_names(class_names: Sequence[str]) -> dict[str, str]:
    """Return {metric: title}. Titles of metrics by patient name the second of two classes, or no class of more."""
    is_multiclass, second = len(class_names) > 2, class_text(class_names[1])
    return METRIC_NAMES | {
        "patient_fraction_mae": (
            "Mean absolute error of the fraction of a class" if is_multiclass
            else f"Mean absolute error of the {second} fraction"
        ),
        "patient_roc_auc": (
            "ROC AUC, any patch of a class or none" if is_multiclass else f"ROC AUC, any {second} patch or none"
        ),
    }  # fmt: skip


def percent(fraction: float) -> str:
    """Return a fraction of the settings as percent with the digits that it has: `0.5%`, `80%`."""
    return f"{100 * fraction:g}%"
