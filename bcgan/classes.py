"""The classes of an experiment: their names, in the order of their labels, and the names that the data has for them.

Everywhere, predictions for two classes are probabilities of the second one, (n,). Predictions for more are
probabilities of each, (n, classes).
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

CLASSES = ("benign", "malignant")  # labels 0 and 1, if an experiment names no other classes
# Of Okabe and Ito (2008), distinguishable by color-blind readers: benign, malignant, then of further classes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000", "#8C564B", "#BCBD22")
CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # part of names of files and columns

# A class's name and its further names in the data, for each class in the order of the labels. Not a mapping: a
# manifest sorts the keys of one, and the order would be lost.
ClassPairs = tuple[tuple[str, tuple[str, ...]], ...]


def parse_classes(value: Any) -> Any:
    """Return the setting `data.classes` as `ClassPairs`.

    Args:
        value: A mapping of each class to a name, a list of names or null; a list of classes; or pairs.

    Raises:
        ValueError: If a class has a name that cannot be part of the name of a file.
    """
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = [(item, ()) if isinstance(item, str) else item for item in (value or ())]
    pairs = []
    for name, further in items:
        if isinstance(name, bool) or not CLASS_NAME.fullmatch(str(name)):
            raise ValueError(
                f"{name!r} is no name of a class; use letters, digits, - and _, and quote a word such as no or yes"
            )
        further = () if further is None else further if isinstance(further, (list, tuple)) else (further,)
        pairs.append((str(name), tuple(map(str, further))))
    return tuple(pairs)


def check_classes(pairs: ClassPairs) -> None:
    """Check that two or more classes are named, each once, and that no spelling is of two classes.

    Raises:
        ValueError: If not.
    """
    class_of: dict[str, str] = {}
    for name, further in pairs:
        for spelling in (name, *further):
            known = class_of.setdefault(normalize_class(spelling), name)
            if known != name:
                raise ValueError(f"{spelling!r} is {known} and {name}; leave it in one of them")
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} is named twice; name each class once")
    if pairs and len(class_names(pairs)) < 2:
        raise ValueError(f"{names[0]!r} is a single class; name two or more, or leave classes out")


def class_names(pairs: ClassPairs) -> tuple[str, ...]:
    """Return the classes in the order of their labels; benign is 0 and malignant 1 in whatever order they are named."""
    names = tuple(name for name, _ in pairs)
    return CLASSES if set(names) <= set(CLASSES) else names


def class_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each class: the first and the last class have those of benign and malignant.

    With more classes than COLORS, colors repeat.
    """
    between = [COLORS[2 + index % (len(COLORS) - 2)] for index in range(len(names) - 2)]
    return dict(zip(names, (COLORS[0], *between, COLORS[1]), strict=True))


def count_classes(labels: Any) -> int:
    """Return the number of classes of integer labels, at least two; every class has to occur in them."""
    return max(2, int(max(labels)) + 1)


def probabilities_of(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each patch's probability of its label, (n,).

    Args:
        probabilities: float, of the second class, (n,), or of each class, (n, classes).
        labels: integers, (n,).
    """
    if probabilities.ndim == 1:
        return np.where(labels == 1, probabilities, 1 - probabilities)
    return probabilities[np.arange(len(labels)), labels]


def normalize_class(name: str) -> str:
    """Return the name of a class in lower case and without spaces."""
    return "".join(name.casefold().split())
