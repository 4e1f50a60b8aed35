"""Any folder or archive of images: laid out `<patient>/<class>/<image>`, or with a table of labels and patients."""

import unicodedata
from pathlib import Path

from bcgan.classes import CLASSES, ClassPairs
from bcgan.data.labels import ClassNames, match_images, normalize_spelling, read_labels
from bcgan.data.patients import normalize_patient
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.progress import log
from bcgan.slides.files import ImageFile, iterate_images


def records(
    paths: tuple[Path, ...],
    classes: ClassPairs = (),
    labels: Path | None = None,
    mpp: float | None = None,
) -> list[Record]:
    """Return a record of every image; its key is its path below the folder or archive.

    Args:
        paths: Folders and archives.
        classes: The classes and their further names. Defaults to benign and malignant.
        labels: A table with columns image, label and patient, used instead of the names of folders.
        mpp: Microns per pixel of the images.

    Raises:
        InputError: If a class has an unknown name, a file is not in a folder of a patient and a class, the folders may
            be those of other things, or there is no image.
    """
    names = ClassNames(classes)
    if labels:
        matches = match_images(read_labels(labels, names), list(iterate_images(paths)), labels)
        rows = [(file, row.patient, row.label, row.x, row.y) for file, row in matches]
    else:
        rows = _from_folders(paths, names)
    sources = ", ".join(map(str, paths))
    if not rows:
        raise InputError(
            f"data.dir: {sources} has no image. Arrange them as <patient>/<class>/<name>.png, the class one of "
            f"{', '.join(names.label_of)}."
        )
    names.warn_of_unused(sources)
    names.log_numbers(str(labels or sources))
    by_key: dict[str, Record] = {}
    for file, patient, label, x, y in rows:
        name = unicodedata.normalize("NFC", file.name)
        key = next(key for key in (name, f"{file.source}/{name}", file.path) if key not in by_key)
        by_key[key] = Record(key, file.path, file.source, patient, label, x, y, "", file.read, mpp)
    return [by_key[key] for key in sorted(by_key)]


def _from_folders(paths: tuple[Path, ...], names: ClassNames) -> list[tuple[ImageFile, str, int, int, int]]:
    """Return (file, patient, label, x, y) of every image, by the names of its folders; x and y are UNKNOWN.

    Raises:
        InputError: If an image is not in <patient>/<class>/, a class has no label, or folders may be no patients.
    """
    rows, unknown, class_names = [], {}, set()
    for file in iterate_images(paths):
        parts = file.name.split("/")
        if len(parts) < 3:
            raise InputError(f"{file.path}: not in <patient>/<class>/. Move it there or take it out of data.dir.")
        patient, class_name = parts[-3:-1]
        label = names.label(class_name)
        class_names.add(class_name)
        if label is None:
            unknown.setdefault(class_name, file.path)
        rows.append((file, normalize_patient(patient), label, UNKNOWN, UNKNOWN))
    if unknown:
        raise names.unknown_class_error(unknown, class_names)
    _check_patient_folders([file for file, *_ in rows], names)
    return rows


def _check_patient_folders(files: list[ImageFile], names: ClassNames) -> None:
    """Check that folders named as patients are patients; warn of patients that lie in several sources.

    In `<patient>/<slide>/<class>/<image>` slides would count as patients. Therefore the folders above
    `<patient>/<class>/` have to be the same for all images of a folder or archive, as below a common folder.

    Raises:
        InputError: If they differ, or a folder of a patient has the name of a class. A number may be both.
    """
    first_of: dict[str, ImageFile] = {}  # first image of each folder of `data.dir` and each archive, by its path
    source_of: dict[str, str] = {}
    shared: dict[str, str] = {}
    for file in files:
        *above, patient, _, _ = file.name.split("/")
        spelling = normalize_spelling(patient)
        if spelling in {*names.label_of, *CLASSES} and not spelling.isdecimal():
            raise InputError(
                f"{file.path}: the patient would be {patient!r}, which is a class. Arrange the images as "
                "<patient>/<class>/<image>, or rename the patient's folder."
            )
        source = file.path[: -len(file.name)]
        first = first_of.setdefault(source, file)
        if first.name.split("/")[:-3] != above:
            raise InputError(
                f"{first.path} and {file.path}: the folders above <patient>/<class>/ differ, so that "
                f"{first.name.split('/')[-3]!r} and {patient!r} may be slides. If they are patients, list the folders "
                "above them in data.dir, such as train and test; else arrange the images as <patient>/<class>/<image>, "
                "or name the patients in a table (data.labels)."
            )
        if source_of.setdefault(normalize_patient(patient), source) != source:
            shared.setdefault(normalize_patient(patient), source)
    if shared:
        patient, source = next(iter(shared.items()))
        log.warning(
            "data.dir: %d patients lie in several folders or archives and count once, the first: %s in %s and %s. If "
            "they are different patients, rename one", len(shared), patient, source_of[patient], source,
        )  # fmt: skip
