"""The slide of a patch, by its names. Patches of one slide are neighbors, so it must not depend on their class."""

from functools import lru_cache

from bcgan.classes import ClassPairs
from bcgan.data.labels import ClassNames, normalize_spelling


@lru_cache
def class_folders(classes: ClassPairs = ()) -> frozenset[str]:
    """Return the normalized names of folders that state a class: of benign and malignant, and those of the setting.

    Args:
        classes: The setting `data.classes`. Defaults to benign and malignant alone.
    """
    return frozenset((*ClassNames(()).label_of, *ClassNames(classes).label_of))


@lru_cache(2**14)
def drop_class_folders(folder: str, classes: ClassPairs) -> str:
    """Return the path of a patient's folder without the folders that state a class, wherever they are.

    Args:
        folder: With forward slashes.
        classes: The setting `data.classes`; case and spacing of its names do not count.
    """
    return "/".join(part for part in folder.split("/") if normalize_spelling(part) not in class_folders(classes))


@lru_cache(2**14)
def drop_last_class_folder(folder: str) -> str:
    """Return the path of a folder without its last part if that is a label, benign or malignant, as in the IDC archive.

    Where patients are not known, as here, a folder farther up may be the one of a patient who is named 0 or 1.
    """
    parent, _, name = folder.rpartition("/")
    return parent if normalize_spelling(name) in class_folders() else folder
