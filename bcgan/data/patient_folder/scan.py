"""Any folder or archive of images: laid out `<patient>/<class>/<image>`, or with a table of labels and patients."""

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from bcgan.data.labels import ClassNames, match_images, read_labels
from bcgan.data.patients import normalize_patient
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.slides.files import image_files


def records(
    places: tuple[Path, ...],
    classes: Mapping[str, Iterable[str]] | None = None,
    labels: Path | None = None,
    mpp: float | None = None,
) -> list[Record]:
    """Read every image; its key is its path below the place.

    Args:
        classes: Names of the classes "benign" and "malignant", beside 0, 1 and these two.
        labels: A table with columns image, label and patient, in place of the folders' names.
        mpp: Microns per pixel of the images.

    Raises:
        InputError: A class of another name, a file that lies too high, or no image at all.
    """
    names = ClassNames(classes or {})
    if labels:
        matches = match_images(read_labels(labels, names), list(image_files(places)), labels)
        rows = [(file, row.patient, row.label, row.x, row.y) for file, row in matches]
    else:
        rows = _from_folders(places, names)
    where = ", ".join(map(str, places))
    if not rows:
        raise InputError(
            f"data.dir: {where} holds no image. Lay them out as <patient>/<class>/<name>.png, class 0 or 1."
        )
    names.tell_unused(where)
    by_key: dict[str, Record] = {}
    for file, patient, label, x, y in rows:
        name = unicodedata.normalize("NFC", file.name)
        key = next(key for key in (name, f"{file.source}/{name}", file.path) if key not in by_key)
        by_key[key] = Record(key, file.path, file.source, patient, label, x, y, "", file.read, mpp)
    return [by_key[key] for key in sorted(by_key)]


def _from_folders(places: tuple[Path, ...], names: ClassNames) -> list[tuple]:
    rows, unknown, class_names = [], {}, set()
    for file in image_files(places):
        parts = file.name.split("/")
        if len(parts) < 3:
            raise InputError(f"{file.path}: not in <patient>/<class>/. Move it there or take it out of data.dir.")
        label = names.label(parts[-2])
        class_names.add(parts[-2])
        if label is None:
            unknown.setdefault(parts[-2], file.path)
        rows.append((file, normalize_patient(parts[-3]), label, UNKNOWN, UNKNOWN))
    if unknown:
        raise names.refuse(unknown, class_names)
    return rows
