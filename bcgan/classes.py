"""The classes of an experiment: their names, in the order of their labels, in the data, in texts, and their colors.

Everywhere, predictions for two classes are probabilities of the second one, (n,). Predictions for more are
probabilities of each, (n, classes).
"""

import re
from collections.abc import Sequence
from colorsys import hls_to_rgb
from typing import Any

CLASSES = ("benign", "malignant")  # labels 0 and 1, if an experiment names no other classes
# Blue and vermilion of Okabe and Ito, which color-blind readers can distinguish.
FIRST_CLASS_COLOR, LAST_CLASS_COLOR = "#0072B2", "#D55E00"
CLASS_COLORS = {"benign": FIRST_CLASS_COLOR, "malignant": LAST_CLASS_COLOR}
# Of further classes, of no classifier. With the two above they differ to normal and to color-blind eyes.
FURTHER_CLASS_COLORS = ("#882255", "#E3C800", "#661100", "#FF6F91", "#88CCEE", "#66C2B5")
NOUNS = {"benign": "benignity", "malignant": "malignancy"}  # of classes that are adjectives, after "probability of"
# Names in results, whose columns and keys a class of that name would overwrite: the area of all tissue in a summary,
# the verdicts, which are classes in WSInfer's format, and the counts in assessment.json.
RESERVED_NAMES = (
    "tissue", "scored", "abstained", "out_of_distribution", "unreadable", "no_tissue",
    "images", "patients", "by_class", "figures",
)  # fmt: skip
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

    Benign and malignant are written as in CLASSES, whatever their case.
    """
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = [item if isinstance(item, (list, tuple)) and len(item) == 2 else (item, ()) for item in value]
    else:
        raise ValueError(f"{value!r} is no mapping of classes to names; write {{normal: [], tumor: [carcinoma]}}")
    pairs = []
    for name, further in items:
        if isinstance(name, bool) or not CLASS_NAME.fullmatch(str(name)):
            raise ValueError(
                f"{name!r} is no name of a class; use letters, digits, - and _, and quote a word such as true"
            )
        further = () if further is None else further if isinstance(further, (list, tuple)) else (further,)
        pairs.append((canonical_class(str(name)), tuple(map(str, further))))
    return tuple(pairs)


def check_classes(pairs: ClassPairs) -> None:
    """Check that two or more classes are named, each once and not as a result, and that no spelling is of two classes.

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
    check_names(names)
    if pairs and len(class_names(pairs)) < 2:
        raise ValueError(f"{names[0]!r} is a single class; name two or more, or leave classes out")


def check_names(names: Sequence[str]) -> None:
    """Check that no class has a name that results use for something else, in any case and spacing.

    Raises:
        ValueError: If one has.
    """
    if reserved := [name for name in names if normalize_class(name) in RESERVED_NAMES]:
        raise ValueError(f"{reserved[0]!r} has another meaning in results; give the class another name")


def class_names(pairs: ClassPairs) -> tuple[str, ...]:
    """Return the classes in the order of their labels; benign is 0 and malignant 1 in whatever order they are named."""
    names = tuple(name for name, _ in pairs)
    return CLASSES if set(names) <= set(CLASSES) else names


def class_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each class, as "#rrggbb".

    Of two classes, the first is blue and the second vermilion. Of more, benign is blue and malignant vermilion; without
    these names, in any case, the first is blue and the last vermilion. The others get FURTHER_CLASS_COLORS, then other
    hues.
    """
    if len(names) == 2:
        return dict(zip(names, CLASS_COLORS.values(), strict=True))
    colors = {name: CLASS_COLORS[canonical_class(name)] for name in names if canonical_class(name) in CLASSES}
    for name, color in ((names[0], FIRST_CLASS_COLOR), (names[-1], LAST_CLASS_COLOR)):
        if color not in colors.values():
            colors.setdefault(name, color)
    uncolored = [name for name in names if name not in colors]
    num_hues = max(0, len(uncolored) - len(FURTHER_CLASS_COLORS))
    hues = ([round(255 * part) for part in hls_to_rgb(index / num_hues, 0.5, 0.6)] for index in range(num_hues))
    further = [*FURTHER_CLASS_COLORS, *("#{:02x}{:02x}{:02x}".format(*hue) for hue in hues)]
    colors |= dict(zip(uncolored, further, strict=False))
    return {name: colors[name] for name in names}


def class_text(name: str) -> str:
    """Return the name of a class as part of a sentence."""
    return name.replace("_", " ")


def class_noun(name: str) -> str:
    """Return what a class is a probability of, such as `malignancy`."""
    return NOUNS.get(canonical_class(name), class_text(name))


def capitalize(text: str) -> str:
    """Return a text with an upper-case first letter; the rest, such as that of `ductal, DCIS`, does not change."""
    return text[:1].upper() + text[1:]


def count_classes(labels: Any) -> int:
    """Return the number of classes of integer labels, at least two; every class has to occur in them."""
    return max(2, int(max(labels)) + 1)


def canonical_class(name: str) -> str:
    """Return benign or malignant for a name that differs from it in case alone; any other name as it is."""
    return normalize_class(name) if normalize_class(name) in CLASSES else name


def normalize_class(name: str) -> str:
    """Return the name of a class in lower case and without spaces."""
    return "".join(name.casefold().split())
