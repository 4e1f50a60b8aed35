"""Score the images of a labeled data set as `bcgan predict` does: those of one slide together, at its places."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan import progress
from bcgan.data.records import UNKNOWN, Record
from bcgan.data.slide_names import drop_class_folders, name_slide
from bcgan.predict.model import OUT_OF_DISTRIBUTION, Model
from bcgan.predict.tile_groups import Group, SlideTiles, find_groups, read_group
from bcgan.preprocess.checks import warn_of_one_class
from bcgan.settings import Data
from bcgan.slides.coordinates import TileCoordinates, parse_tile_name
from bcgan.slides.files import ImageFile
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Mpp

TABLE_PATTERN = "x and y of data.labels"  # for messages, in place of the naming pattern of tiles


def score_images(model: Model, records: list[Record], settings: Data, mpp: Mpp | None, bar) -> list[dict[str, Any]]:
    """Return a row for each image, as `_image_row` does.

    Args:
        mpp: The resolution that the user gives; `None` if there is none.
        bar: Progress bar, moved on by each image.
    """
    by_path = {record.path: record for record in records}
    rows: dict[str, dict[str, Any]] = {}
    reason = ""

    def mpp_of(image: ImageFile) -> Mpp | None:
        return mpp or _data_set_mpp(model, by_path[image.path])

    groups = list(_find_groups(records, settings))
    _warn_of_one_class(groups, by_path, settings)
    for group in groups:
        tiles = read_group(group, model, mpp_of) if group.slide else ""
        members = [by_path[image.path] for image in group.images]
        if isinstance(tiles, SlideTiles):
            rows |= _tile_rows(model, members, tiles, mpp, bar)
        elif group.in_tile_pixels and not tiles:  # places that the data set has, and that no pixels contradict
            rows |= _slide_rows(model, members, mpp, bar)
        else:
            reason = reason or tiles
            for record in members:
                rows |= _slide_rows(model, [record], mpp, bar)
    if reason:
        progress.log.warning("assess: %s", reason)
    return [rows[record.key] for record in records]


def _find_groups(records: list[Record], settings: Data) -> Iterator[Group]:
    """Yield the images of each slide, and single images, of one patient after the other.

    Folders of the classes, under any name that the data has for them, are no part of a slide's path: the neighbors of
    a patch would tell its label. Places in the data's table of labels go before those that names state.
    """
    named: dict[str, list[ImageFile]] = {}  # by patient
    placed: dict[str, list[Record]] = {}  # by slide
    for record in records:
        is_named = parse_tile_name(record.path.replace("!", "/").rpartition("/")[2]) is not None
        if UNKNOWN in (record.x, record.y) or (is_named and settings.labels is None):
            named.setdefault(record.patient, []).append(_as_file(record))
        else:
            slide = name_slide(record.key, record.patient, (record.x, record.y), settings.classes)
            placed.setdefault(slide, []).append(record)
    for files in named.values():
        yield from find_groups(files, partial(drop_class_folders, classes=settings.classes))
    for slide, members in placed.items():
        coordinates = [TileCoordinates(record.x, record.y, slide, 1.0, TABLE_PATTERN) for record in members]
        is_read_together = settings.labels is not None and len(members) > 1
        files = [_as_file(record) for record in members]
        yield Group(slide if is_read_together else "", files, coordinates, in_tile_pixels=True)


def _warn_of_one_class(groups: list[Group], by_path: dict[str, Record], settings: Data) -> None:
    """Warn if the names of the slides whose images are scored together may state the class; see `warn_of_one_class`."""
    rows = [
        (by_path[image.path].patient, group.slide_path or group.slide, by_path[image.path].label)
        for group in groups
        for image in group.images
        if group.slide
    ]
    table = pd.DataFrame(rows, columns=["patient", "slide", "label"])
    warn_of_one_class(table, settings.class_names, "assess")


def _as_file(record: Record) -> ImageFile:
    """Return the file of a record, as `bcgan predict` would find it."""
    return ImageFile(record.key, record.path, record.source, None, 0, record.read)


def _tile_rows(
    model: Model, records: list[Record], tiles: SlideTiles, mpp: Mpp | None, bar
) -> dict[str, dict[str, Any]]:
    """Return {key: row} of the tiles of one slide, scored together as `bcgan predict` scores them."""
    tissue_rows = np.flatnonzero(tiles.has_tissue)
    scores = _predict(model, tiles.patches[tissue_rows], tiles.corners[tissue_rows])
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.path in tiles.larger:
            rows |= _slide_rows(model, [record], mpp, bar)
            continue
        bar.update()
        is_of_record = np.isin(tissue_rows, tiles.rows.get(record.path, []))
        if not is_of_record.any():
            reason = tiles.reasons.get(record.path, f"{record.path}: no tissue was found")
            progress.log.warning("assess: %s", reason)
        rows[record.key] = _image_row(model, record, scores.select(is_of_record))
    return rows


def _slide_rows(model: Model, slide: list[Record], mpp: Mpp | None, bar) -> dict[str, dict[str, Any]]:
    """Return {key: row} of the images of a slide; an image without a place is a slide of its own."""
    grids = [_cut_record(model, record, mpp, bar) for record in slide]
    readable = [(record, grid) for record, grid in zip(slide, grids, strict=True) if grid is not None]
    predictions = iter(_predict_images(model, readable))
    rows = {}
    for record, grid in zip(slide, grids, strict=True):
        rows[record.key] = _image_row(model, record, None if grid is None else next(predictions))
    return rows


def _image_row(model: Model, record: Record, scores: "_Scores | None") -> dict[str, Any]:
    """Return the row of an image with the columns of images.csv.

    Args:
        scores: Of its patches; `None`, or of no patch, if it has none.

    Returns:
        image, patient, label, the probability columns (absent values are `None`), refused, patches (their number),
        threshold (from which on the image is called the second of two classes; `None` without patches) and neighbours
        (whether those of any of its patches are used).
    """
    row = {"image": record.key, "patient": record.patient, "label": record.label}
    names = probability_columns(model.card.classes)
    if scores is None or not len(scores.verdict):
        absent = {"refused": True, "patches": 0, "threshold": None, "neighbours": False}
        return row | dict.fromkeys(names) | absent
    in_distribution = scores.verdict != OUT_OF_DISTRIBUTION
    refused = not in_distribution.any()
    counted = scores if refused else scores.select(in_distribution)
    means, limits = np.atleast_1d(counted.probability.mean(0)), np.unique(counted.threshold)
    return row | dict(zip(names, map(float, means), strict=True)) | {
        "refused": refused, "patches": len(scores.verdict),
        "threshold": float(limits[0] if len(limits) == 1 else counted.threshold.mean()),
        "neighbours": bool(counted.has_neighbors.any()),
    }  # fmt: skip


def probability_columns(classes: tuple[str, ...]) -> list[str]:
    """Return the columns of images.csv with the probability of the second of two classes, or of each of more."""
    return ["probability"] if len(classes) == 2 else [f"probability_{name}" for name in classes]


class _Scores(NamedTuple):
    """Predictions for n patches that have tissue."""

    probability: np.ndarray  # also of rejected patches; (n,), or (n, classes) of more than two
    verdict: np.ndarray  # (n,), indices into VERDICTS
    threshold: np.ndarray  # (n,), as `Predictions` has it
    has_neighbors: np.ndarray  # bool, (n,); whether their predictions are used

    def select(self, rows: np.ndarray | slice) -> "_Scores":
        return _Scores(*(values[rows] for values in self))


def _predict_images(model: Model, images: list[tuple[Record, PatchGrid]]) -> list[_Scores]:
    """Return the scores of the patches of each image; all images are of one slide."""
    if not images:
        return []
    patches, coords = np.concatenate([grid.patches for _, grid in images]), None
    if len(images) > 1:  # places that the data set has
        coords = np.concatenate([_slide_coords(record, grid) for record, grid in images])
    elif len(patches) > 1:  # one image without coordinates: its patches are each other's neighbors
        coords = images[0][1].coords
    scores = _predict(model, patches, coords)
    ends = np.cumsum([len(grid.patches) for _, grid in images])
    return [scores.select(slice(end - len(grid.patches), end)) for end, (_, grid) in zip(ends, images, strict=True)]


def _predict(model: Model, patches: np.ndarray, coords: np.ndarray | None) -> _Scores:
    """Return the scores of patches that have tissue."""
    has_tissue = np.ones(len(patches), bool)
    predictions = model.predict(patches, coords, has_tissue)
    near = model.uses_neighbors(coords, has_tissue)
    return _Scores(model.probabilities(patches, coords), predictions.verdict, predictions.threshold, near)


def _slide_coords(record: Record, grid: PatchGrid) -> np.ndarray:
    """Return x and y of an image's patches in its slide, integers (n, 2), pixels at the model's scale."""
    corner = np.divide((record.x, record.y), (grid.scale.x, grid.scale.y))
    return grid.coords + np.rint(corner).astype(int)


def _cut_record(model: Model, record: Record, mpp: Mpp | None, bar) -> PatchGrid | None:
    """Cut an image into patches at the resolution of the user, else of the data set, else of the file.

    Returns:
        The patches; `None`, with the reason in the log, if the image cannot be read or has no tissue.
    """
    bar.update()
    mpp = mpp or _data_set_mpp(model, record)
    try:
        with open_image(record.read(), record.path) as image:
            grid = cut_patches(image, model.scale, mpp, min_tissue=model.card.min_tissue)
    except (OSError, ValueError) as error:
        progress.log.warning("assess: %s", error)
        return None
    if not len(grid.patches):
        progress.log.warning("assess: %s: no tissue was found", record.path)
        return None
    return grid


def _data_set_mpp(model: Model, record: Record) -> Mpp | None:
    """Return the resolution that the data set has for an image; `None` if none, or if the model has no scale."""
    has_scale = record.mpp is not None and model.card.microns_per_pixel is not None
    return Mpp(record.mpp, record.mpp, "data set") if has_scale else None
