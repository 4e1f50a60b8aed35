"""BreaKHis (Spanhol et al. 2016), read from the public archive's own folders and file names.

`SOB_M_DC-14-2523-40-001.png` is: surgical open biopsy, malignant, ductal carcinoma, year 14, slide 2523 (the
patient), magnification 40, image 001. Patient 13412 appears under two tumour types and counts once.
"""

import re
from collections import Counter
from pathlib import Path

from bcgan.data.patients import normalize_patient
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.slides.files import image_files

NAME = re.compile(
    r"(?P<key>SOB_(?P<label>[BM])_(?P<tumour>[A-Z]+)-(?P<year>\d+)-(?P<slide>[0-9A-Z]+)-"
    r"(?P<magnification>\d+)-\d+)\.png$"
)
TUMOURS = {
    "A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma", "LC": "lobular_carcinoma", "MC": "mucinous_carcinoma", "PC": "papillary_carcinoma",
}  # fmt: skip
DIGITS = re.compile(r"^\d+")
MICRONS_AT_40 = 0.49  # per pixel at 40X


def parse(name: str) -> dict[str, str] | None:
    """key, label ("B" or "M"), tumour, year, slide, patient and magnification of a file name; None for another."""
    match = NAME.search(name)
    if match is None:
        return None
    # A slide's letters tell cuts of one patient apart (22549AB, 22549CD); the digits are the patient.
    patient = DIGITS.match(match["slide"])
    return match.groupdict() | {"patient": patient[0] if patient else match["slide"]}


def records(places: tuple[Path, ...], magnification: int | None = None, mixed: bool = True) -> list[Record]:
    """Read every image once, each with its own microns per pixel.

    Args:
        magnification: Of the images that are read; `None` reads all.
        mixed: Whether images of several magnifications may come together.

    Raises:
        InputError: No image of that magnification in any of the places, or several magnifications where they may not
            be mixed.
    """
    by_key: dict[str, Record] = {}
    counts: Counter[int] = Counter()
    for file in image_files(places):
        fields = parse(file.name)
        if not fields or fields["key"] in by_key:
            continue
        scale = int(fields["magnification"])
        if magnification in (None, scale):
            counts[scale] += 1
            by_key[fields["key"]] = Record(
                fields["key"], file.path, file.source, normalize_patient(fields["patient"]),
                int(fields["label"] == "M"), UNKNOWN, UNKNOWN, "", file.read, MICRONS_AT_40 * 40 / scale,
            )  # fmt: skip
    if not by_key:
        scale = f" at {magnification}X" if magnification else ""
        raise InputError(
            f"data.dir: {', '.join(map(str, places))} holds no BreaKHis image{scale}. "
            "Give the folder BreaKHis_v1 or a zip of it, and one of the magnifications 40, 100, 200, 400."
        )
    if len(counts) > 1 and not mixed:
        scales = ", ".join(f"{scale}X: {count}" for scale, count in sorted(counts.items()))
        raise InputError(
            f"data.dir: {', '.join(map(str, places))} holds images of several magnifications ({scales}), and a "
            f"classifier learns at one scale. Set data.magnification={min(counts)}, or another of them."
        )
    return [by_key[key] for key in sorted(by_key)]
