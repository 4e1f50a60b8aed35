"""Summarize the rows of `bcgan predict` and `bcgan batch`: one row for each slide and each patient."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bcgan import outputs
from bcgan.data.patients import PATIENT_REMEDY, check_spellings
from bcgan.errors import InputError
from bcgan.predict.model import ABSTAINED, SCORED, VERDICTS, Card

CALLED = "called_"  # prefix of the number of patches with a label, by class
AREA = "area_"  # prefix of the area of these patches, square pixels at the model's scale, by class
AREA_SCORED = "scored_area"  # the same of all patches with a probability


def count_row(counts: Counter[str], row: Mapping[str, Any], area: float) -> None:
    """Count a row of `bcgan predict` by its verdict and, if it has one, by its label, and add up areas.

    Args:
        area: That the patch stands for, square pixels at the model's scale.
    """
    counts[row["verdict"]] += 1
    if row["verdict"] in (VERDICTS[SCORED], VERDICTS[ABSTAINED]):
        counts[AREA_SCORED] += area
    if row["label"]:
        counts[CALLED + row["label"]] += 1
        counts[AREA + row["label"]] += area


def summarize(
    counts_by_slide: Mapping[str, Mapping[str, float]], card: Card, patient: str | None = None
) -> list[dict[str, Any]]:
    """Return one row for each slide and, if their names state it, each patient.

    Args:
        counts_by_slide: As `count_row` counts.
        card: Of the classifier.
        patient: Regular expression that finds the patient in a slide's name. Defaults to `None`: no rows of patients.

    Returns:
        Columns: slide ("" in rows of patients), patient, slides, patches (with a probability), tissue_mm2 (that these
        patches stand for; `None` if the scale is not known); of the second of two classes, or of each of more,
        <class>_mm2 (likewise of patches with that label), <class>_fraction (of patches with a label), and
        <class>_fraction_low and _high, which it would be if no or every patch of tissue without a label (abstained, out
        of distribution) were of the class; and the number of patches by verdict.
        Fractions are `None` without patches.

    Raises:
        InputError: As `find_patients`.
    """
    rows = [
        {"slide": slide, "patient": ""} | summary_columns(counts, 1, card) for slide, counts in counts_by_slide.items()
    ]
    if patient is None:
        return rows
    patients = find_patients(counts_by_slide, patient)
    totals: dict[str, list[Mapping[str, float]]] = {}
    for slide, counts in counts_by_slide.items():
        totals.setdefault(patients[slide], []).append(counts)
    rows = [row | {"patient": patients[row["slide"]]} for row in rows]
    return rows + [
        {"slide": "", "patient": name}
        | summary_columns(sum((Counter(part) for part in parts), Counter()), len(parts), card)
        for name, parts in totals.items()
    ]


def summary_columns(counts: Mapping[str, float], slides: int, card: Card) -> dict[str, Any]:
    """Return a row of the summary without its first two columns, slide and patient.

    Args:
        counts: Numbers and areas of patches, from `count_row`.
        slides: Number of slides that the counts cover.
        card: Of the classifier: its classes and its scale.

    Returns:
        slides, patches (with a probability), tissue_mm2; for the second of two classes, or each of more, <class>_mm2,
        <class>_fraction and its bounds _low and _high; and the number of patches by verdict. See `summarize`.
    """
    called = {name: counts.get(CALLED + name, 0) for name in card.classes}
    num_labelled, num_uncertain = sum(called.values()), counts.get("abstained", 0)
    num_scored = num_labelled + num_uncertain
    num_unlabelled = num_uncertain + counts.get("out_of_distribution", 0)
    num_tissue = num_labelled + num_unlabelled
    tissue_mm2 = _to_mm2(counts.get(AREA_SCORED, 0), card)
    row: dict[str, Any] = {"slides": slides, "patches": num_scored, "tissue_mm2": tissue_mm2}
    for name in card.classes[1:] if len(card.classes) == 2 else card.classes:
        row |= {
            f"{name}_mm2": _to_mm2(counts.get(AREA + name, 0), card),
            f"{name}_fraction": _divide(called[name], num_labelled),
            # The bounds: if none of the unlabelled patches of tissue were of the class, and if all were.
            f"{name}_fraction_low": _divide(called[name], num_tissue),
            f"{name}_fraction_high": _divide(called[name] + num_unlabelled, num_tissue),
        }
    return row | {verdict: counts.get(verdict, 0) for verdict in VERDICTS}


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows of `summarize` as CSV; an earlier file is replaced when it is complete."""
    with outputs.open_text(path) as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _to_mm2(area: float, card: Card) -> float | None:
    """Return an area in mm2, of square pixels at the scale of the classifier; `None` if that is not known."""
    return round(area * (card.microns_per_pixel / 1000) ** 2, 6) if card.microns_per_pixel else None


def _divide(number: int, total: int) -> float | None:
    return round(number / total, 6) if total else None


def find_patients(slides: Iterable[str], pattern: str) -> dict[str, str]:
    """Return the patient of each slide, which a regular expression finds in its name.

    A pattern with a slash is searched in the whole path, such as `cohort/([^/]+)/`: its folders may name the patient.

    Args:
        slides: Paths.

    Raises:
        InputError: If a name states none, or two names look like one patient.
    """
    from bcgan.predict.tile import find_patient  # imports pandas, which takes a second

    try:
        paths = {slide: slide.replace("!", "/") for slide in slides}
        has_slash = "/" in re.sub(r"\[[^]]*\]", "", pattern)  # not one that only excludes slashes, as [^_/]
        names = paths if has_slash else {slide: path.rpartition("/")[2] for slide, path in paths.items()}
        patients = {slide: find_patient(name, pattern) for slide, name in names.items()}
    except ValueError as error:
        raise InputError(f"{error}") from error
    check_spellings(patients.values(), "--patient", PATIENT_REMEDY)
    return patients
