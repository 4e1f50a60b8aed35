"""The slide of a patch, by its names. Patches of one slide are neighbors, so it must not depend on their class."""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd

from bcgan.classes import ClassPairs
from bcgan.data.labels import ClassNames, normalize_spelling
from bcgan.data.records import UNKNOWN
from bcgan.slides.coordinates import PLAIN_PATTERN, parse_tile_name


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


def name_slide(key: str, patient: str, place: tuple[int, int], classes: ClassPairs) -> str:
    """Return the slide of a patch: its patient, the folders in its key, and the slide that the name of its file states.

    Two plain numbers at the end of the name state a slide only if they are the place: they may be counters. Where no
    slide is stated, it is all patches of the patient whose places are known, and else the patch itself.

    Args:
        key: The patch's in its data set; a path with forward slashes, with or without folders and a suffix.
        place: x and y, pixels of the image file; UNKNOWN if they are not known.
        classes: The setting `data.classes`. Folders of a class, and the class in a name, are no part of the slide.
    """
    folder, _, name = key.replace("!", "/").rpartition("/")
    tile = parse_tile_name(name)
    if tile is None or (tile.pattern == PLAIN_PATTERN and (tile.x, tile.y) != place):
        return _start(patient) if UNKNOWN not in place else name_image(key, patient)
    level = "" if tile.downsample == 1 else f" 1 in {tile.downsample:g}"
    folders = drop_class_folders(folder, classes)
    return "/".join(filter(None, (_start(patient), folders, tile.slide + level)))


def name_image(image: str, patient: str) -> str:
    """Return the name of an image that is a slide of its own, such as one that was cut into patches."""
    return f"{_start(patient)}/{image}"


def _start(patient: str) -> str:
    """Return a patient as the first part of a slide's name, without slashes: slides of two patients always differ."""
    return patient.replace("%", "%25").replace("/", "%2F")


def slide_names(table: pd.DataFrame, classes: ClassPairs) -> np.ndarray:
    """Return the slide of every patch, text, (n,): the image that it was cut from, or the one that its names state.

    Slides of two patients always differ.

    Args:
        table: Columns id, image, patient, x and y.
        classes: The setting `data.classes`.
    """
    columns = (table[name].tolist() for name in ("id", "image", "patient", "x", "y"))
    slides = [
        name_slide(key, patient, (x, y), classes) if key == image else name_image(image, patient)
        for key, image, patient, x, y in zip(*columns, strict=True)
    ]
    return np.array(slides, object)


def slide_titles(slides: Iterable[str]) -> dict[str, str]:
    """Return {slide: title}, the slide's name without the patient where no other slide has that title."""
    short = {slide: slide.partition("/")[2] or slide for slide in slides}
    counts = Counter(short.values())
    return {slide: title if counts[title] == 1 else slide for slide, title in short.items()}
