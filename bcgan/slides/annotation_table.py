"""Summarize the classes of all annotation files in a table, and check that each has a label."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bcgan.errors import InputError
from bcgan.slides.annotations import UNDECIDED, AnnotationFile, Decisions, class_key, escape_name
from bcgan.slides.files import printable

MAX_LISTED_FILES = 3  # files that an error lists for each class


class ClassSummary(NamedTuple):
    """One row of the table of classes.

    Attributes:
        name: Class as the first file spells it.
        polygons: Number of polygons.
        area: Their total area in slide pixels.
        shapes: Number of points and lines.
        files: Files that contain the class.
        label: Label that its tissue gets.
        patches: About how many patches their area is.
    """

    name: str
    polygons: int
    area: float
    shapes: int
    files: tuple[Path, ...]
    label: str
    patches: float


def class_table(
    files: Iterable[AnnotationFile], decisions: Decisions, patch_areas: dict[Path, float] | None = None
) -> list[ClassSummary]:
    """Summarize every class over all files, sorted by name.

    Args:
        decisions: What the classes mean; gives each row its label.
        patch_areas: Area of one patch, square pixels of the slide's first level, by the path of the annotations' file;
            only of slides whose scale is known.
    """
    patch_areas = patch_areas or {}
    rows: dict[str, ClassSummary] = {}
    for annotations in files:
        contents = [(polygon.name, 1, polygon.area, 0) for polygon in annotations.polygons]
        contents += [(name, 0, 0.0, num) for (name, _), num in annotations.shapes.items()]
        for name, polygons, area, shapes in contents:
            key = class_key(name)
            row = rows.get(key) or ClassSummary(name, 0, 0.0, 0, (), decisions.resolve(name)[1], 0.0)
            patches = row.patches + area / patch_areas.get(annotations.path, float("inf"))
            files_so_far = row.files if annotations.path in row.files[-1:] else (*row.files, annotations.path)
            rows[key] = ClassSummary(
                row.name, row.polygons + polygons, row.area + area, row.shapes + shapes, files_so_far, row.label,
                patches,
            )  # fmt: skip
    return [rows[key] for key in sorted(rows)]


def format_table(rows: list[ClassSummary]) -> str:
    """Return the table of classes as aligned text."""
    header = ("class", "polygons", "area (slide pixels)", "about patches", "points and lines", "files", "label")
    cells = [
        (escape_name(row.name), f"{row.polygons:,}", f"{row.area:,.0f}", f"{row.patches:,.0f}",
         f"{row.shapes:,}", f"{len(row.files):,}", row.label)
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    align = (str.ljust, *[str.rjust] * (len(header) - 2), str.ljust)
    lines = [
        "  ".join(pad(cell, width) for pad, cell, width in zip(align, line, widths, strict=True)).rstrip()
        for line in (header, *cells)
    ]
    return "\n".join(lines)


def check_decided(rows: list[ClassSummary]) -> None:
    """Check that every class has a label.

    Raises:
        InputError: Classes are undecided.
    """
    if not (undecided := [row for row in rows if row.label == UNDECIDED]):
        return
    texts = []
    for row in undecided:
        names = ", ".join(printable(path.name) for path in row.files[:MAX_LISTED_FILES])
        further = f" and {len(row.files) - MAX_LISTED_FILES} more" if len(row.files) > MAX_LISTED_FILES else ""
        texts.append(
            f"{escape_name(row.name)} ({row.polygons:,} polygons, {row.area:,.0f} slide pixels, in {names}{further})"
        )
    name = escape_name(undecided[0].name.split(":")[0].strip())
    raise InputError(
        f"These annotation classes have no label: {'; '.join(texts)}. Give each one an option: "
        f'--class "{name}=benign", --class "{name}=malignant" or --ignore "{name}".'
    )


def find_unused_decisions(rows: list[ClassSummary], decisions: Decisions) -> list[str]:
    """Return the names that the user decided and that no file contains, sorted.

    A name is used if a file has the class itself or a class derived from it, such as `Tumor: Positive` of `Tumor`.
    """
    used = set()
    for row in rows:
        parts = class_key(row.name).split(": ")
        used |= {": ".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return sorted(set(decisions.requested) - used)
