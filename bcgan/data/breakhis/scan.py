"""BreaKHis (Spanhol et al. 2016), read from the public archive's own folders and file names.

`SOB_M_DC-14-2523-40-001.png` is: surgical open biopsy, malignant, ductal carcinoma, year 14, slide 2523 (the
patient), magnification 40, image 001. Patient 13412 appears under two tumor types and counts once.
"""

import re
from collections import Counter
from pathlib import Path

from bcgan.classes import CLASSES, ClassPairs
from bcgan.data.copies import check_copy
from bcgan.data.labels import label_known_classes
from bcgan.data.patients import normalize_patient
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.progress import log
from bcgan.slides.files import ImageFile, iterate_images, strip_suffixes

NAME = re.compile(
    r"(?P<key>SOB_(?P<label>[BM])_(?P<tumour>[A-Z]+)-(?P<year>\d+)-(?P<slide>[0-9A-Z]+)-"
    r"(?P<magnification>\d+)-\d+)$"
)
TUMOR_TYPES = {
    "A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma", "LC": "lobular_carcinoma", "MC": "mucinous_carcinoma", "PC": "papillary_carcinoma",
}  # fmt: skip
DIGITS = re.compile(r"^\d+")
MICRONS_AT_40 = 0.49  # per pixel at 40X


def parse_name(name: str) -> dict[str, str] | None:
    """Read the fields of a file name: key, label ("B" or "M"), tumour, year, slide, patient, magnification.

    The name may have the suffix of any image. Returns `None` for a name that is not of this form.
    """
    match = NAME.search(strip_suffixes(name))
    if match is None:
        return None
    # The digits of a slide are the patient; its letters distinguish cuts of one patient (22549AB, 22549CD).
    patient = DIGITS.match(match["slide"])
    return match.groupdict() | {"patient": patient[0] if patient else match["slide"]}


def records(
    paths: tuple[Path, ...], magnification: int | None = None, mixed: bool = True, classes: ClassPairs = ()
) -> list[Record]:
    """Return a record of every image, each with its own microns per pixel; copies are left out.

    Args:
        paths: Folders and archives.
        magnification: Of the images that are read. Defaults to `None`: all.
        mixed: Whether images of several magnifications are allowed.
        classes: Classes of tumor types, benign and malignant ones: a type counts before benign and malignant. Images
            of types that are in no class are left out. Defaults to benign and malignant.

    Raises:
        InputError: If there is no image of that magnification, several magnifications that must not be mixed, a class
            that is no tumor type, or two images of one name.
    """
    label_of = label_known_classes(classes, (*CLASSES, *TUMOR_TYPES.values()), "BreaKHis")
    num_left_out = 0
    misnamed: list[str] = []
    by_key: dict[str, Record] = {}
    files: dict[str, ImageFile] = {}
    counts: Counter[int] = Counter()
    for file in iterate_images(paths):
        fields = parse_name(file.name)
        if not fields:
            misnamed.append(file.path)
            continue
        scale = int(fields["magnification"])
        if magnification not in (None, scale):
            continue
        if fields["key"] in files:
            check_copy(file, files[fields["key"]])
            continue
        files[fields["key"]] = file
        group = CLASSES[fields["label"] == "M"]
        label = label_of.get(TUMOR_TYPES.get(fields["tumour"], ""), label_of.get(group))
        if label is None:
            num_left_out += 1
            continue
        counts[scale] += 1
        by_key[fields["key"]] = Record(
            fields["key"], file.path, file.source, normalize_patient(fields["patient"]), label, UNKNOWN, UNKNOWN, "",
            file.read, MICRONS_AT_40 * 40 / scale,
        )  # fmt: skip
    if misnamed:
        log.warning("breakhis: %d images have no name of BreaKHis: left out, the first: %s", len(misnamed), misnamed[0])
    if num_left_out:
        log.info("data.classes: %d images of other tumor types are left out", num_left_out)
    if not by_key:
        scale = f" at {magnification}X" if magnification else ""
        raise InputError(
            f"data.dir: {', '.join(map(str, paths))} has no BreaKHis image{scale}. "
            "Give the folder BreaKHis_v1 or a zip of it, and one of the magnifications 40, 100, 200, 400."
        )
    if len(counts) > 1 and not mixed:
        scales = ", ".join(f"{scale}X: {count}" for scale, count in sorted(counts.items()))
        raise InputError(
            f"data.dir: {', '.join(map(str, paths))} has images of several magnifications ({scales}), and a "
            f"classifier is trained at one scale. Set data.magnification={min(counts)}, or another of them."
        )
    return [by_key[key] for key in sorted(by_key)]
