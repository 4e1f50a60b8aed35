"""`bcgan tile`: cut annotated slides into labelled patches, one archive per slide, as the data set `idc` reads them."""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np

from bcgan import progress
from bcgan.data.idc.scan import MICRONS
from bcgan.data.idc.scan import NATIVE_SIZE as SIZE
from bcgan.data.patients import check_spellings, normalize_patient
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.predict.slidewise import Slide
from bcgan.slides import annotations as qupath
from bcgan.slides.annotation_checks import check_contents, check_position
from bcgan.slides.annotations import AnnotationFile, Decisions
from bcgan.slides.files import fingerprint, printable, strip_suffixes
from bcgan.slides.mpp_table import MppChoice
from bcgan.slides.patches import cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale

MOSTLY = 0.5  # least share of a patch's tissue that decides the patch
PATCH_SCALE = ModelScale(SIZE, MICRONS, (SIZE, SIZE), 1.0)
LEFT_OUT = -1  # in place of a label
CODES = {qupath.BENIGN: 0, qupath.MALIGNANT: 1, qupath.IGNORED: 2}  # values of a painted mask
EPOCH = (1980, 1, 1, 0, 0, 0)  # time stamp of all archive members: the same slide gives the same bytes


class Patches(NamedTuple):
    """A `bcgan.predict.slidewise.Job`.

    Attributes:
        out: Folder to write.
        annotations: Folder with <slide>.geojson, as QuPath writes it.
        decisions: What the annotation classes mean.
        patient: Regular expression that finds the patient in a slide's name without its suffixes. `None` means all
            of the name.
        mpp, mpp_table: Microns per pixel of all slides, or of each by a table. `None` means as they state.
    """

    out: Path
    annotations: Path
    decisions: Decisions = Decisions()
    patient: str | None = None
    mpp: float | None = None
    mpp_table: Path | None = None
    name: str = "tile"
    suffix: str = ".zip"
    folders: bool = False

    def settings(self, slide: Slide) -> Any:
        """Return what the archive depends on beside the slide."""
        path = qupath.find_annotation(self.annotations, slide.path.name)
        decisions = self.decisions._replace(requested=())  # a default that the user repeats changes nothing
        key = fingerprint((path,) if path else ())
        mpp = MppChoice(self.mpp, self.mpp_table).as_json()
        return [key, decisions, self.patient, mpp]

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """Write the archive and return the number of patches by class, and of those left out.

        Raises:
            ValueError: There are no annotations, they are no GeoJSON, the name has no patient, or the image cannot be
                read.
            InputError: A class is undecided, or a malignant one has no area.
        """
        patient, annotations = patient_of(slide, self.patient), read_annotations(slide, self)
        with open_image(slide.image or slide.path) as image:
            if outside := check_position(annotations, image.size):
                progress.log.warning("tile: %s: %d polygons lie outside of the image", slide.name, outside)
            mpp = MppChoice(self.mpp, self.mpp_table)(slide.image) if slide.image else None
            grid = cut_patches(image, PATCH_SCALE, mpp)
        downsample = (grid.scale.x, grid.scale.y)
        labels = label_patches(grid.patches, grid.coords, downsample, grid.tissue, annotations, self.decisions)
        slide_id = int(hashlib.sha256(slide.name.encode()).hexdigest()[:6], 16)  # distinguishes a patient's slides
        with zipfile.ZipFile(path, "w") as archive:
            for patch, (x, y), label in zip(grid.patches, grid.coords, labels, strict=True):
                if label == LEFT_OUT:
                    continue
                member = f"{patient}/{label}/{patient}_idx{slide_id}_x{x}_y{y}_class{label}.png"
                encoded = cv2.imencode(".png", cv2.cvtColor(patch, cv2.COLOR_RGB2BGR))[1]
                archive.writestr(zipfile.ZipInfo(member, EPOCH), encoded.tobytes())
        counts = {name: int((labels == value).sum()) for value, name in enumerate(CLASSES)}
        return counts | {"left_out": int((labels == LEFT_OUT).sum())}


def patient_name(slide: Slide, pattern: str | None) -> str:
    """Return the patient of a slide: the pattern's first group that matches, or all that it matches without groups.

    Args:
        pattern: Regular expression for the slide's name without its suffixes. `None` means all of the name.

    Raises:
        ValueError: The pattern matches nothing.
    """
    match = re.search(pattern or ".*", printable(strip_suffixes(slide.path.name)))
    groups = match.groups() or (match[0],) if match else ()
    if not (name := normalize_patient(next(filter(None, groups), ""))):
        raise ValueError(f"no patient in {slide.name}: {pattern} finds none. Change --patient.")
    return name


def patient_of(slide: Slide, pattern: str | None) -> str:
    """Return the patient as names of archive members hold it: other characters are escaped as in an address.

    Raises:
        ValueError: The pattern matches nothing.
    """
    return quote(patient_name(slide, pattern), safe="").replace("_", "%5F")


def check_patients(slides: Iterable[Slide], pattern: str | None) -> None:
    """Check the patients of all slides before anything is written.

    Raises:
        InputError: The pattern matches no slide, or two names look like one patient.
    """
    slides, names = list(slides), []
    for slide in slides:
        try:
            names.append(patient_name(slide, pattern))
        except ValueError:  # this slide fails by itself
            continue
    if not names:
        raise InputError(
            f"--patient: {pattern!r} finds nobody in {len(slides)} slides, such as {slides[0].name}. Change it."
        )
    check_spellings(names, "--patient")


def read_annotations(slide: Slide, job: Patches) -> AnnotationFile:
    """Read the annotations of a slide and check that they can be used.

    Raises:
        ValueError: There are none, or they are no GeoJSON.
        InputError: Several files fit the slide, a class is undecided, or a malignant one has no area.
    """
    path = qupath.find_annotation(job.annotations, slide.path.name)
    if not path:
        raise ValueError(
            f"{job.annotations} holds no {slide.name}.geojson. A slide without malignant tissue needs one without "
            "features."
        )
    annotations = qupath.read_annotations(path)
    qupath.check_decided(qupath.class_table([annotations], job.decisions))
    qupath.check_areas(annotations, job.decisions)
    check_contents(annotations, job.decisions)
    return annotations


def survey(slides: Iterable[Slide], job: Patches) -> list[AnnotationFile]:
    """Read the annotations of all slides and log what in them decides nothing.

    Returns:
        The files that can be read.

    Raises:
        InputError: Several files fit one slide.
    """
    slides = list(slides)
    paths = [qupath.find_annotation(job.annotations, slide.path.name) for slide in slides]
    files = []
    for path, uses in Counter(filter(None, paths)).items():
        try:
            files.append(qupath.read_annotations(path))
        except (OSError, ValueError):  # the slide fails by itself, and the others are cut
            continue
        for sentence in qupath.describe_unused(files[-1]):
            progress.log.warning("tile: %s", sentence)
        if uses > 1:
            progress.log.warning("tile: %s fits %d slides. Name it after one of them.", printable(str(path)), uses)
    if orphans := qupath.find_orphans(job.annotations, [slide.path.name for slide in slides]):
        progress.log.warning(
            "tile: %s belongs to no slide (%d such files in %s)",
            printable(orphans[0].name), len(orphans), job.annotations,
        )  # fmt: skip
    for name in qupath.find_unused_decisions(qupath.class_table(files, job.decisions), job.decisions):
        progress.log.warning(
            "tile: no annotation has the class %r, which the command line decides. Check its spelling.", name
        )
    return files


def patch_areas(slides: Iterable[Slide], job: Patches) -> dict[Path, float]:
    """Slide pixels of one patch, by the annotations' file, of slides whose scale is known."""
    areas, choice = {}, MppChoice(job.mpp, job.mpp_table)
    for slide in slides:
        path = qupath.find_annotation(job.annotations, slide.path.name)
        try:
            with open_image(slide.image or slide.path) as image:
                mpp = (slide.image and choice(slide.image)) or image.mpp
        except (OSError, ValueError):
            continue  # the slide fails by itself
        if path and mpp:
            areas[path] = (SIZE * MICRONS) ** 2 / (mpp.x * mpp.y)
    return areas


def find_failures(slides: Iterable[Slide], job: Patches) -> list[str]:
    """Return why slides will not be cut, as far as their names and annotations tell."""
    failures = []
    for slide in slides:
        try:
            patient_name(slide, job.patient)
            read_annotations(slide, job)
        except (InputError, OSError, ValueError) as error:
            failures.append(f"{slide.name}: {error}")
    return failures


def label_patches(
    patches: np.ndarray,
    corners: np.ndarray,
    downsample: tuple[float, float],
    tissue: np.ndarray,
    annotations: AnnotationFile,
    decisions: Decisions,
) -> np.ndarray:
    """Label patches by the annotations of their tissue.

    A patch is left out where at least `MOSTLY` of its tissue is ignored or outside of the region. Of the rest, it is
    malignant where at least `MOSTLY` is.

    Args:
        patches: uint8 (n, size, size, 3).
        corners: Integers (n, 2), x and y of the patches in model pixels.
        downsample: Slide pixels per model pixel, x and y.
        tissue: Booleans (n, size, size), the pixels with tissue.

    Returns:
        Integers (n,): 0, 1 or `LEFT_OUT`.
    """
    if not len(patches):
        return np.zeros(0, int)
    size = patches.shape[1]
    width, height = np.max(corners, 0) + size
    mask = paint(annotations, decisions, (int(height), int(width)), downsample)
    codes = np.stack([mask[y : y + size, x : x + size] for x, y in corners])
    total, malignant, ignored = (
        np.count_nonzero(pixels, (1, 2))
        for pixels in (tissue, tissue & (codes == CODES[qupath.MALIGNANT]), tissue & (codes == CODES[qupath.IGNORED]))
    )
    labels = (malignant >= MOSTLY * (total - ignored)).astype(int)
    return np.where(ignored >= MOSTLY * total, LEFT_OUT, labels)


def paint(
    annotations: AnnotationFile, decisions: Decisions, shape: tuple[int, int], downsample: tuple[float, float]
) -> np.ndarray:
    """Paint the polygons of a slide onto a mask, the larger first, so that the innermost decides.

    Args:
        shape: Height and width of the mask in model pixels.
        downsample: Slide pixels per model pixel, x and y.

    Returns:
        uint8 mask of `CODES`. Where the file has regions, all outside of them is ignored.
    """
    mask = np.full(shape, CODES[decisions.outside], np.uint8)
    inside = np.zeros(shape, np.uint8)
    has_region = False
    for polygon in sorted(annotations.polygons, key=lambda polygon: -polygon.area):
        label = decisions.resolve(polygon.name)[1]
        rings = [ring / downsample for ring in polygon.rings]
        if label == qupath.REGION:
            has_region = True
            fill(inside, rings, 1)
        else:
            fill(mask, rings, CODES[label])
    if has_region:
        mask[inside == 0] = CODES[qupath.IGNORED]
    return mask


def fill(mask: np.ndarray, rings: list[np.ndarray], value: int) -> None:
    """Set the pixels whose centres lie in a polygon, by the even-odd rule: holes stay as they are.

    Polygons that share an edge share no pixel, which `cv2.fillPoly` does not ensure.

    Args:
        mask: Changed in place.
        rings: Arrays (points, 2), x and y in pixels of the mask; the corner of the mask is the origin.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, 0) for ring in rings])
    (left, top), (right, bottom) = (
        np.clip(np.rint(bound), 0, mask.shape[::-1]).astype(int) for bound in (starts.min(0) - 1, starts.max(0) + 1)
    )
    if right <= left or bottom <= top:
        return
    (x, y), (end_x, end_y) = starts.T, ends.T
    first, last = (  # rows whose centres an edge crosses; those of a horizontal edge are none
        np.clip(np.ceil(bound - 0.5), top, bottom).astype(int) for bound in (np.minimum(y, end_y), np.maximum(y, end_y))
    )
    lengths = last - first
    edges = np.repeat(np.arange(len(starts)), lengths)
    rows = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[edges]
    slopes = (end_x - x)[edges] / (end_y - y)[edges]
    crossings = x[edges] + (rows + 0.5 - y[edges]) * slopes
    columns = np.clip(np.ceil(crossings - 0.5), left, right).astype(int)
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)  # one column more, for crossings further right
    np.bitwise_xor.at(toggles, (rows - top, columns - left), 1)
    mask[top:bottom, left:right][np.bitwise_xor.accumulate(toggles, axis=1)[:, :-1] == 1] = value
