"""`bcgan tile`: cut annotated slides into labeled patches, one archive per slide, as the data set `idc` reads them."""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bcgan import progress
from bcgan.classes import CLASSES
from bcgan.data.idc.scan import MICRONS
from bcgan.data.idc.scan import NATIVE_SIZE as SIZE
from bcgan.data.patients import PATIENT_REMEDY, check_spellings, escape_patient, normalize_patient
from bcgan.errors import InputError
from bcgan.predict.slidewise import Slide
from bcgan.preprocess.images import encode_png
from bcgan.slides import annotation_table
from bcgan.slides import annotations as qupath
from bcgan.slides.annotation_checks import check_contents, count_polygons_outside
from bcgan.slides.annotations import AnnotationFile, Decisions
from bcgan.slides.files import printable, strip_suffixes
from bcgan.slides.fingerprints import fingerprint
from bcgan.slides.mpp_table import MppChoice
from bcgan.slides.patches import cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale

MIN_MAJORITY = 0.5  # share of a patch's tissue from which on it decides the label of the patch
PATCH_SCALE = ModelScale(SIZE, MICRONS, (SIZE, SIZE), 1.0)
EXCLUDED = -1  # in place of a label
CODES = {qupath.BENIGN: 0, qupath.MALIGNANT: 1, qupath.IGNORED: 2}  # values of a painted mask
ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # of all archive members, so that the same slide gives the same bytes


class TileJob(NamedTuple):
    """The `bcgan.predict.slidewise.SlideJob` that cuts slides into labeled patches.

    Attributes:
        out: Folder to write.
        annotations: Folder with <slide>.geojson, as QuPath writes it.
        decisions: What the annotation classes mean.
        patient: Regular expression that finds the patient in a slide's name without its suffixes. `None` means all
            of the name.
        mpp, mpp_table: Microns per pixel of all slides, or of each by a table. `None` means as the files state.
        size, patch_mpp: Side of a patch in pixels, and microns per pixel of a patch.
        name, suffix, folders: As `SlideJob` has them.
    """

    out: Path
    annotations: Path
    decisions: Decisions = Decisions()
    patient: str | None = None
    mpp: float | None = None
    mpp_table: Path | None = None
    size: int = SIZE
    patch_mpp: float = MICRONS
    name: str = "tile"
    suffix: str = ".zip"
    folders: bool = False

    def settings(self, slide: Slide) -> Any:
        """Return what the archive depends on, apart from the slide."""
        path = qupath.find_annotation(self.annotations, slide.path.name)
        decisions = self.decisions._replace(requested=())  # repeating a default on the command line changes nothing
        key = fingerprint((path,) if path else ())
        mpp = MppChoice(self.mpp, self.mpp_table).as_json()
        scale = [] if self.scale == PATCH_SCALE else [self.size, self.patch_mpp]
        return [key, decisions, self.patient, mpp, *scale]

    @property
    def scale(self) -> ModelScale:
        """Return the size and scale of a patch."""
        return ModelScale(self.size, self.patch_mpp, (self.size, self.size), 1.0)

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """Write the archive and return the number of patches by class, and of those left out.

        Raises:
            ValueError: If there are no annotations, they are no GeoJSON, the name has no patient, or the image cannot
                be read.
            InputError: If a class is undecided, or a malignant one has no area.
        """
        patient = escape_patient(find_patient(slide.path.name, self.patient))
        annotations = read_annotations(slide, self)
        with open_image(slide.image or slide.path) as image:
            if num_outside := count_polygons_outside(annotations, image.size):
                progress.log.warning(
                    "tile: %s: %d polygons lie outside of the image and label nothing. Check that the annotations were "
                    "drawn on this slide", slide.name, num_outside,
                )  # fmt: skip
            mpp = MppChoice(self.mpp, self.mpp_table)(slide.image) if slide.image else None
            grid = cut_patches(image, self.scale, mpp)
        downsample = (grid.scale.x, grid.scale.y)
        labels = label_patches(grid.patches, grid.coords, downsample, grid.tissue, annotations, self.decisions)
        slide_id = int(hashlib.sha256(slide.name.encode()).hexdigest()[:6], 16)  # distinguishes a patient's slides
        with zipfile.ZipFile(path, "w") as archive:
            for patch, (x, y), label in zip(grid.patches, grid.coords, labels, strict=True):
                if label == EXCLUDED:
                    continue
                member = f"{patient}/{label}/{patient}_idx{slide_id}_x{x}_y{y}_class{label}.png"
                archive.writestr(zipfile.ZipInfo(member, ZIP_TIMESTAMP), encode_png(patch, self.patch_mpp))
        counts = {name: int((labels == value).sum()) for value, name in enumerate(CLASSES)}
        return counts | {"left_out": int((labels == EXCLUDED).sum())}

    def summary_columns(self, counts: dict[str, int]) -> dict[str, int]:
        """Return the columns of a slide in summary.csv: the counts that `write` returned."""
        return counts


def find_patient(file_name: str, pattern: str | None) -> str:
    """Return the patient of a slide: the pattern's first group that matches, or all that it matches without groups.

    Args:
        file_name: Name of the slide's file, whose suffixes are left out.
        pattern: Regular expression. `None` means all of the name.

    Raises:
        ValueError: The pattern matches nothing.
    """
    pattern = pattern or ".*"
    match = re.search(pattern, printable(strip_suffixes(file_name)))
    groups = match.groups() or (match[0],) if match else ()
    if not (name := normalize_patient(next(filter(None, groups), ""))):
        raise ValueError(
            f"no patient in {printable(file_name)}: {pattern} matches none. Change --patient; of `predict` and `batch` "
            "a pattern with a slash, such as cohort/([^/]+)/, is searched in the whole path."
        )
    return name


def check_patients(slides: Iterable[Slide], pattern: str | None) -> None:
    """Check, before anything is written, that the names of the slides state patients.

    Args:
        pattern: Regular expression that finds the patient in a slide's name; `None` means all of the name.

    Raises:
        InputError: The pattern matches no slide, or two names look like one patient.
    """
    slides, patients = list(slides), []
    for slide in slides:
        try:
            patients.append(find_patient(slide.path.name, pattern))
        except ValueError:  # reported when this slide is processed
            continue
    if not patients:
        raise InputError(
            f"--patient: {pattern!r} matches none of {len(slides)} slides, such as {slides[0].name}. Change it."
        )
    check_spellings(patients, "--patient", PATIENT_REMEDY)


def read_annotations(slide: Slide, job: TileJob) -> AnnotationFile:
    """Read the annotations of a slide and check that they can be used.

    Raises:
        ValueError: There are none, or they are no GeoJSON.
        InputError: Several files fit the slide, a class is undecided, or a malignant one has no area.
    """
    path = qupath.find_annotation(job.annotations, slide.path.name)
    if not path:
        raise ValueError(
            f"{job.annotations} has no {slide.name}.geojson. A slide without malignant tissue needs a file without "
            "features."
        )
    annotations = qupath.read_annotations(path)
    annotation_table.check_decided(annotation_table.class_table([annotations], job.decisions))
    qupath.check_areas(annotations, job.decisions)
    check_contents(annotations, job.decisions)
    return annotations


def read_all_annotations(slides: Iterable[Slide], job: TileJob) -> list[AnnotationFile]:
    """Read the annotations of all slides, and log parts of them that are not used.

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
        except (OSError, ValueError):  # reported when this slide is processed
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
    for name in annotation_table.find_unused_decisions(
        annotation_table.class_table(files, job.decisions), job.decisions
    ):
        progress.log.warning(
            "tile: no annotation has the class %r, which the command line decides. Check its spelling.", name
        )
    return files


def patch_areas(slides: Iterable[Slide], job: TileJob) -> dict[Path, float]:
    """Return the area of one patch by annotation file, square pixels of the slide's first level.

    It tells how many patches the annotated areas hold. Slides that cannot be opened, of unknown scale, or without an
    annotation file are left out.
    """
    areas, choice = {}, MppChoice(job.mpp, job.mpp_table)
    for slide in slides:
        path = qupath.find_annotation(job.annotations, slide.path.name)
        try:
            with open_image(slide.image or slide.path) as image:
                mpp = (slide.image and choice(slide.image)) or image.mpp
        except (OSError, ValueError):
            continue  # reported when this slide is processed
        if path and mpp:
            areas[path] = (job.size * job.patch_mpp) ** 2 / (mpp.x * mpp.y)
    return areas


def find_failures(slides: Iterable[Slide], job: TileJob) -> list[str]:
    """Return errors of slides that can be found in their names and annotations, without opening the images."""
    failures = []
    for slide in slides:
        try:
            find_patient(slide.path.name, job.patient)
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

    A patch is excluded if at least `MIN_MAJORITY` of its tissue is ignored or outside of the region. Otherwise it is
    malignant if at least `MIN_MAJORITY` of the tissue that is not ignored is malignant.

    Args:
        patches: uint8 (n, size, size, 3).
        corners: Integers (n, 2), x and y of the patches in model pixels.
        downsample: Slide pixels per model pixel, x and y.
        tissue: Booleans (n, size, size), the pixels with tissue.

    Returns:
        Integers (n,): 0, 1 or `EXCLUDED`.
    """
    if not len(patches):
        return np.zeros(0, int)
    size = patches.shape[1]
    width, height = np.max(corners, 0) + size
    mask = paint_polygons(annotations, decisions, (int(height), int(width)), downsample)
    codes = np.stack([mask[y : y + size, x : x + size] for x, y in corners])
    total = np.count_nonzero(tissue, (1, 2))
    malignant = np.count_nonzero(tissue & (codes == CODES[qupath.MALIGNANT]), (1, 2))
    ignored = np.count_nonzero(tissue & (codes == CODES[qupath.IGNORED]), (1, 2))
    labels = (malignant >= MIN_MAJORITY * (total - ignored)).astype(int)
    return np.where(ignored >= MIN_MAJORITY * total, EXCLUDED, labels)


def paint_polygons(
    annotations: AnnotationFile, decisions: Decisions, shape: tuple[int, int], downsample: tuple[float, float]
) -> np.ndarray:
    """Paint the polygons of a slide onto a mask, in order of decreasing area, so that the innermost one decides.

    Args:
        shape: Height and width of the mask in model pixels.
        downsample: Slide pixels per model pixel, x and y.

    Returns:
        uint8 mask of `CODES`. Where the file has regions, all outside of them is ignored.
    """
    mask = np.full(shape, CODES[decisions.outside], np.uint8)
    region = np.zeros(shape, np.uint8)
    has_region = False
    for polygon in sorted(annotations.polygons, key=lambda polygon: -polygon.area):
        label = decisions.resolve(polygon.name)[1]
        rings = [ring / downsample for ring in polygon.rings]
        if label == qupath.REGION:
            has_region = True
            fill_polygon(region, rings, 1)
        else:
            fill_polygon(mask, rings, CODES[label])
    if has_region:
        mask[region == 0] = CODES[qupath.IGNORED]
    return mask


def fill_polygon(mask: np.ndarray, rings: list[np.ndarray], value: int) -> None:
    """Set the pixels whose centers lie in a polygon, by the even-odd rule, so that holes are not filled.

    Polygons that share an edge share no pixel, which `cv2.fillPoly` does not ensure.

    Args:
        mask: Changed in place.
        rings: Arrays (points, 2), x and y in pixels of the mask; the corner of the mask is the origin.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, 0) for ring in rings])
    left, top = np.clip(np.rint(starts.min(0) - 1), 0, mask.shape[::-1]).astype(int)
    right, bottom = np.clip(np.rint(starts.max(0) + 1), 0, mask.shape[::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    (x, y), (end_x, end_y) = starts.T, ends.T
    # Rows whose centers an edge crosses; a horizontal edge crosses none.
    first = np.clip(np.ceil(np.minimum(y, end_y) - 0.5), top, bottom).astype(int)
    last = np.clip(np.ceil(np.maximum(y, end_y) - 0.5), top, bottom).astype(int)
    # One entry for each row that an edge crosses, edge by edge: where the edge crosses the centers of that row.
    lengths = last - first
    edges = np.repeat(np.arange(len(starts)), lengths)
    rows = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[edges]
    slopes = (end_x - x)[edges] / (end_y - y)[edges]
    crossings = x[edges] + (rows + 0.5 - y[edges]) * slopes
    columns = np.clip(np.ceil(crossings - 0.5), left, right).astype(int)
    # Along a row, each crossing switches between outside and inside: the exclusive or of all crossings to the left.
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)  # the last column takes crossings further right
    np.bitwise_xor.at(toggles, (rows - top, columns - left), 1)
    mask[top:bottom, left:right][np.bitwise_xor.accumulate(toggles, axis=1)[:, :-1] == 1] = value
