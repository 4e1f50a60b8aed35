"""The slide of a patch, by its names. Patches of one slide are neighbors, so it must not depend on their class."""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bcgan.classes import ClassPairs
from bcgan.data.labels import ClassNames, normalize_spelling
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.settings import Data
from bcgan.slides.coordinates import PLAIN_PATTERN, parse_tile_name

if TYPE_CHECKING:
    import pandas as pd


@lru_cache
def class_folders(classes: ClassPairs) -> frozenset[str]:
    """Return the normalized names of folders that state a class: of benign and malignant, and those of the setting.

    Args:
        classes: The setting `data.classes`.
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
def drop_last_class_folder(folder: str, classes: tuple[str, ...]) -> str:
    """Return the path of a folder without its last part if that states a class, as in the IDC archive.

    Where patients are not known, as here, a folder farther up may be the one of a patient who is named 0 or 1.

    Args:
        classes: Names of the classes, besides benign and malignant; case and spacing do not count.
    """
    parent, _, name = folder.rpartition("/")
    pairs = tuple((class_name, ()) for class_name in classes)
    return parent if normalize_spelling(name) in class_folders(pairs) else folder


def name_slide(key: str, patient: str, place: tuple[int, int], classes: ClassPairs) -> str:
    """Return the slide of a patch: its patient, the folders in its key, and the slide that the name of its file states.

    Two plain numbers at the end of the name state a slide only if they are the place: they may be counters. Where the
    name states none, the slide is all patches of the folder whose places are known, and else the patch itself.

    Args:
        key: The patch's in its data set; a path with forward slashes, with or without folders and a suffix.
        place: x and y, pixels of the image file; UNKNOWN if they are not known.
        classes: The setting `data.classes`. Folders of a class, and the class in a name, are no part of the slide.
    """
    folder, _, name = key.replace("!", "/").rpartition("/")
    tile = parse_tile_name(name)
    if tile is None or (tile.pattern == PLAIN_PATTERN and (tile.x, tile.y) != place):
        if UNKNOWN in place:
            return name_image(key, patient)
        name = ""
    else:
        name = tile.slide + ("" if tile.downsample == 1 else f" 1 in {tile.downsample:g}")
    return "/".join(filter(None, (_start(patient), drop_class_folders(folder, classes), name)))


def name_image(image: str, patient: str) -> str:
    """Return the name of an image that is a slide of its own, such as one that was cut into patches."""
    return f"{_start(patient)}/{image}"


def _start(patient: str) -> str:
    """Return a patient as the first part of a slide's name, without slashes: slides of two patients always differ."""
    return patient.replace("%", "%25").replace("/", "%2F")


def check_places(records: list[Record], settings: Data) -> None:
    """Check that no two images of one slide have one place: they would count as neighbors and are of two slides.

    Raises:
        InputError: If two have.
    """
    known: dict[tuple[str, int, int], str] = {}
    for record in records:
        place = record.x, record.y
        if UNKNOWN in place:
            continue
        slide = name_slide(record.key, record.patient, place, settings.classes)
        if (first_path := known.setdefault((slide, *place), record.path)) != record.path:
            raise InputError(
                f"data.labels: {settings.labels}: {first_path} and {record.path} have one place in one slide, "
                f"x {record.x}, y {record.y}. If they are copies, remove a row; if they are of two slides, move each "
                "slide into a folder of its own, not named as a class; or leave x and y empty."
            )


def slide_names(table: "pd.DataFrame", classes: ClassPairs) -> np.ndarray:
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
