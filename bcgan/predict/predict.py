"""`bcgan predict`: write a probability, an uncertainty and a verdict for every patch of every image."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from bcgan import progress
from bcgan.data.breakhis.scan import parse_name
from bcgan.errors import InputError
from bcgan.predict.model import (
    DIGITS,
    OUT_OF_DISTRIBUTION,
    SCORED,
    VERDICTS,
    Card,
    ConfidenceThreshold,
    Model,
    Predictions,
    Thresholds,
)
from bcgan.predict.summary import count_row
from bcgan.predict.tile_groups import Group, SlideTiles, find_groups_by_folder, read_group, warn_of_split_slides
from bcgan.slides.files import ImageFile
from bcgan.slides.mpp_table import MppChoice
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Mpp, Scale, user_mpp

COLUMNS = ("path", "x", "y", "probability", "uncertainty", "label", "verdict", "mpp", "mpp_source")
BATCH = 512  # patches predicted together, from several files if these are single patches
SMALL_JOB = 2**19  # bytes, about 80 patches: below it LiteRT, which starts sooner, is faster than OpenVINO
MppOf = Callable[[ImageFile], Mpp | None]
# A row, and the area that its patch stands for, square pixels at the model's scale; 0 without a prediction.
RowAndArea = tuple[dict[str, Any], float]


class SinglePatch(NamedTuple):
    """An image that is one patch, and waits to be predicted with others.

    Attributes:
        image: The file.
        patch: uint8, (size, size, 3). `None` if the image has a verdict without a prediction.
        x, y: Upper left corner of the patch, pixels of the image.
        scale: Scale of the image. `None` if it cannot be read.
        verdict: Verdict of an image without a patch; else "".
        area: That of the image, square pixels at the model's scale.
    """

    image: ImageFile
    patch: np.ndarray | None
    x: int
    y: int
    scale: Scale | None
    verdict: str = ""
    area: float = 0.0


def predict(
    model: Model,
    images: list[ImageFile],
    out: TextIO,
    as_jsonl: bool,
    mpp_of: MppOf | None = None,
    maps: Path | None = None,
    progress_bar: bool = True,
) -> dict[str, Counter[str]]:
    """Predict images and write one row for each patch; a file that cannot be read has one row with that verdict.

    Rows are in the order of `images`. Tiles of one slide, recognized by their names (`bcgan.slides.coordinates`), are
    written together at the position of the first, and the predictions of neighboring tiles are used.

    Args:
        out: Text file to write: CSV with a header, or JSON lines if `as_jsonl` is true.
        mpp_of: Returns the resolution that the user gives for an image. Defaults to what each file states.
        maps: Folder for a heat map, an overlay and outlines of every image that is larger than a patch, and of the
            tiles of every slide. Defaults to `None`: no maps.
        progress_bar: Whether to show a progress bar. Defaults to True.

    Returns:
        By slide, which is a file or the common name of tiles, what `summary.count_row` counts.

    Raises:
        InputError: If the user gives one resolution for images whose names state several magnifications.
    """
    mpp_of = mpp_of or MppChoice()
    check_magnifications(images, mpp_of)
    writer = None if as_jsonl else csv.DictWriter(out, columns(model.card.classes), lineterminator="\n")
    if writer:
        writer.writeheader()
    counts_by_slide: dict[str, Counter[str]] = {}  # areas are no whole numbers
    with progress.bar(len(images), "predict", "image", visible=progress_bar) as bar:
        predictor = _Predictor(model, mpp_of, maps, bar)
        for row, area in predictor.rows(images):
            slide = predictor.slide_names.get(row["path"], row["path"])
            count_row(counts_by_slide.setdefault(slide, Counter()), row, area)
            if writer:
                writer.writerow(row)
            else:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    if maps and not maps.exists():
        progress.log.warning(
            "predict: %s: no map was drawn: no image is larger than a patch, and no tiles with coordinates were read",
            maps,
        )
    return counts_by_slide


def predict_image(model: Model, source: Path | str | bytes, mpp: float | None = None) -> list[dict[str, Any]]:
    """Return one row for each patch of an image, with the columns of `bcgan predict`.

    `source` is a path or the bytes of an image file, `mpp` the microns per pixel; `None` means what the file states.
    ValueError or OSError is raised if the image cannot be read or its scale is not known.
    """
    grid = read_grid(model, source, mpp)
    name = "image" if isinstance(source, bytes) else str(source)
    if not len(grid.patches):
        return [unscored_row(name, "no_tissue", model.card.classes, grid.scale)]
    return list(prediction_rows(name, grid, predict_grid(model, grid), model.card.classes))


def read_grid(model: Model, source: Path | str | bytes, mpp: float | None = None, name: str = "") -> PatchGrid:
    """Cut one image into the model's patches.

    Args:
        mpp: Microns per pixel that the user gives. Defaults to what the file states.
        name: Name of the image for error messages. Defaults to its path.

    Raises:
        ValueError, OSError: If the image cannot be read or its scale is not known.
        InputError: If `mpp` is not a positive number.
    """
    stated_by_user = user_mpp(mpp)
    with open_image(source, name) as image:
        return cut_patches(image, model.scale, stated_by_user, min_tissue=model.card.min_tissue)


def predict_grid(model: Model, grid: PatchGrid) -> Predictions:
    """Predict the patches of one image as neighbors of each other; all of them have tissue."""
    coords = None if grid.is_single_patch else grid.coords
    return model.predict(grid.patches, coords, np.ones(len(grid.patches), bool))


def columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of the rows; with more than two classes the probability of each is added."""
    return COLUMNS + (tuple(f"probability_{name}" for name in classes) if len(classes) > 2 else ())


def prediction_rows(
    path: str, grid: PatchGrid, predictions: Predictions, classes: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Yield one row for each patch of an image, as `columns` names its values; x and y are in pixels of the image."""
    for index, (x, y) in enumerate(grid.image_coords):
        yield _prediction_row(path, (x, y), predictions, index, grid.scale, classes)


def unscored_row(path: str, verdict: str, classes: tuple[str, ...], scale: Scale | None = None) -> dict[str, Any]:
    """Return the row of an image without a prediction."""
    row = {"path": path, "x": 0, "y": 0, "verdict": verdict}
    return dict.fromkeys(columns(classes)) | row | _mpp_columns(scale)


def describe_thresholds(thresholds: Thresholds | ConfidenceThreshold, classes: tuple[str, ...]) -> str:
    """Return in words from which probability on a patch has which label."""
    if isinstance(thresholds, ConfidenceThreshold):
        return f"has no label if the most probable class has a probability below {thresholds.min_confidence:.4f}"
    low, high = thresholds.abstain_range
    if low >= high:
        return f"is {classes[1]} from a probability of {thresholds.malignant:.4f} on"
    lower, upper = min(low, thresholds.malignant), max(high, thresholds.malignant)
    text = f"is {classes[0]} up to {low:.4f} and {classes[1]} from {high:.4f} on, and has no label in between"
    if (lower, upper) != (low, high):  # the threshold lies outside the range
        text = f"is {classes[1]} from {thresholds.malignant:.4f} on, and has no label between {low:.4f} and {high:.4f}"
    return text


def log_totals(command: str, counts: Counter[str], card: Card) -> None:
    """Log the thresholds of a classifier, and how many patches have each verdict, as `summary.count_row` counts."""
    for condition, thresholds in (
        ("by itself", card.thresholds),
        ("among its neighbours", card.spatial_context_thresholds),
    ):
        if thresholds:
            progress.log.info("%s: a patch %s %s", command, condition, describe_thresholds(thresholds, card.classes))
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    progress.log.info("%s: %s; %s", command, totals, card.intended_use)


def is_small_job(images: list[ImageFile]) -> bool:
    """Return whether all files together are so small that the engine's start takes longer than the predictions."""
    return sum(image.size for image in images) < SMALL_JOB


def check_magnifications(images: list[ImageFile], mpp_of: MppOf) -> None:
    """Check that --mpp does not give images of several magnifications one resolution: patches would have wrong scales.

    Args:
        mpp_of: Returns the resolution that the user gives for an image; `None` if there is none.

    Raises:
        InputError: If it does. Only names of BreaKHis, which state the magnification, are checked.
    """
    magnifications: dict[float, dict[str, str]] = {}
    for image in images:
        mpp = mpp_of(image)
        fields = parse_name(image.name) if mpp else None
        if fields:
            magnifications.setdefault(mpp.x, {})[fields["magnification"]] = image.path
    for mpp, files in magnifications.items():
        if len(files) > 1:
            ordered = sorted(files.items(), key=lambda item: int(item[0]))
            names = ", ".join(f"{magnification}X ({path})" for magnification, path in ordered)
            raise InputError(
                f"--mpp {mpp:g} is given for images of several magnifications: {names}. Give each its own with "
                "--mpp-csv."
            )


class _Predictor:
    """The state of one call of `predict`.

    Single patches are collected until a batch is full. Tiles of a slide are predicted together.
    """

    def __init__(self, model: Model, mpp_of: MppOf, maps: Path | None, bar):
        """Start without waiting patches; arguments as of `predict`, `bar` is its progress bar."""
        self._model, self._mpp_of, self._maps, self._bar = model, mpp_of, maps, bar
        self._classes = model.card.classes
        self._waiting: list[SinglePatch] = []
        self._warned_of_assumed_scale = False
        self._num_unused_slides = 0  # slides whose tile names cannot be used
        self._used_slides: Counter[str] = Counter()  # by the summary of their tile names
        self.slide_names: dict[str, str] = {}  # by path, of tiles

    def rows(self, images: list[ImageFile]) -> Iterator[RowAndArea]:
        """Yield the rows of all images, with the columns that `columns` returns."""
        groups = find_groups_by_folder(images, self._classes)
        warn_of_split_slides(groups, self._classes)
        self._map_names = _unique_names([image.name.rsplit("/", 1)[-1] for image in images], images)
        slides = [group for group in groups if group.slide]
        titles = _unique_names([group.slide for group in slides], [group.images[0] for group in slides])
        for group in groups:
            tiles = read_group(group, self._model, self._mpp_of) if group.slide else ""
            if isinstance(tiles, str):
                self._count_unused(tiles)
                for image in group.images:
                    yield from self._image_rows(image)
                continue
            self._used_slides[tiles.summary] += 1
            self.slide_names |= dict.fromkeys((image.path for image in group.images), group.slide_path)
            yield from self._flush()
            yield from self._slide_rows(group, tiles, titles[group.images[0].path])
        yield from self._flush()
        for summary, count in self._used_slides.items():
            progress.log.info(
                "predict: %d slides are put together from tiles, by the coordinates in the files' names "
                "(%s)%s", count, summary,
                "; the predictions of neighbouring tiles are used" if self._model.card.spatial_context else "",
            )  # fmt: skip
        if self._num_unused_slides > 1:
            progress.log.warning(
                "predict: the coordinates in the files' names of %d more slides cannot be used either; their files are "
                "predicted by themselves",
                self._num_unused_slides - 1,
            )

    def _count_unused(self, reason: str) -> None:
        """Count slides whose tile names cannot be used, and log the first reason, which is "" for other images."""
        if reason and not self._num_unused_slides:
            progress.log.warning("predict: %s", reason)
        self._num_unused_slides += bool(reason)

    def _image_rows(self, image: ImageFile) -> Iterator[RowAndArea]:
        """Queue a single patch and yield the rows of a full batch, or yield the rows of a larger image."""
        grid = self._read(image)
        if grid is None or not len(grid.patches):
            verdict = "unreadable" if grid is None else "no_tissue"
            self._waiting.append(SinglePatch(image, None, 0, 0, grid and grid.scale, verdict))
        elif grid.is_single_patch:
            x, y = grid.image_coords[0]
            self._waiting.append(SinglePatch(image, grid.patches[0], x, y, grid.scale, area=grid.areas[0]))
        else:
            yield from self._flush()
            predictions = predict_grid(self._model, grid)
            self._write_maps(self._map_names[image.path], grid, predictions)
            yield from zip(prediction_rows(image.path, grid, predictions, self._classes), grid.areas, strict=True)
            self._bar.update()
            return
        if len(self._waiting) == BATCH:
            yield from self._flush()

    def _read(self, image: ImageFile) -> PatchGrid | None:
        """Cut a file into patches; return `None`, with the reason in the log, if it cannot be read."""
        try:
            with open_image(image) as opened:
                mpp, min_tissue = self._mpp_of(image), self._model.card.min_tissue
                grid = cut_patches(opened, self._model.scale, mpp, min_tissue=min_tissue)
        except (OSError, ValueError, InputError) as error:
            progress.log.warning("predict: %s", error)
            return None
        if not len(grid.patches):
            progress.log.warning("predict: %s: no tissue was found", image.path)
        if grid.scale.source == "assumed" and not self._warned_of_assumed_scale:
            self._warned_of_assumed_scale = True
            progress.log.warning(
                "predict: %s states no resolution and is as large as a patch: %.4g microns a pixel are assumed, for "
                "all such images; --mpp sets another value", image.path, grid.scale.mpp[0],
            )  # fmt: skip
        return grid

    def _flush(self) -> Iterator[RowAndArea]:
        """Predict the single patches that wait, and yield their rows."""
        patches = [single.patch for single in self._waiting if single.patch is not None]
        if patches:
            predictions = self._model.predict(np.stack(patches), None, np.ones(len(patches), bool))  # have tissue
        index = 0
        for single in self._waiting:
            if single.patch is None:
                yield unscored_row(single.image.path, single.verdict, self._classes, single.scale), 0.0
            else:
                path, corner = single.image.path, (single.x, single.y)
                row = _prediction_row(path, corner, predictions, index, single.scale, self._classes)
                yield row, single.area
                index += 1
        self._bar.update(len(self._waiting))
        self._waiting.clear()

    def _slide_rows(self, group: Group, tiles: SlideTiles, title: str) -> Iterator[RowAndArea]:
        """Predict the tiles of one slide together, and yield their rows in the order of the files."""
        predictions = None
        if len(tiles.patches):
            predictions = self._model.predict(tiles.patches, tiles.corners, tiles.has_tissue)
            if self._maps and len(tiles.patches) > 1:
                self._write_maps(title, tiles.to_grid(), predictions)
        for image in group.images:
            if image.path in tiles.larger:
                yield from self._image_rows(image)
                yield from self._flush()
                continue
            for index in tiles.rows.get(image.path, ()):
                corner, scale = tiles.offsets[index], tiles.scales[index]
                row = _prediction_row(image.path, corner, predictions, index, scale, self._classes)
                yield row, tiles.areas[index]
            if image.path not in tiles.rows:
                progress.log.warning("predict: %s", tiles.reasons[image.path])
                yield unscored_row(image.path, "unreadable", self._classes), 0.0
            self._bar.update()

    def _write_maps(self, name: str, grid: PatchGrid, predictions: Predictions) -> None:
        if self._maps:
            from bcgan.predict.maps import write_maps  # imports matplotlib, which rows alone do not need

            write_maps(self._maps, name, grid, predictions, self._model.card)


def _unique_names(names: list[str], images: list[ImageFile]) -> dict[str, str]:
    """Return the map files' names by path of the image; a name that occurs twice gets the image's index in front."""
    counts = Counter(names)
    return {
        image.path: name if counts[name] == 1 else f"{index:04d}-{name}"
        for index, (name, image) in enumerate(zip(names, images, strict=True))
    }


def _prediction_row(
    path: str, corner, predictions: Predictions, index: int, scale: Scale | None, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Return the row of patch `index`, with the columns that `columns` returns.

    Args:
        corner: (x, y) of the patch, pixels of the image.
        scale: Scale of the image; `None` if not known.
    """
    probability, uncertainty, called, verdict, _, by_class = (values[index] for values in predictions)
    has_score = verdict < OUT_OF_DISTRIBUTION
    row = {
        "path": path, "x": int(corner[0]), "y": int(corner[1]),
        "probability": round(float(probability), DIGITS) if has_score else None,
        "uncertainty": round(float(uncertainty), DIGITS) if has_score and not np.isnan(uncertainty) else None,
        "label": classes[called] if verdict == SCORED else None, "verdict": VERDICTS[verdict],
    } | _mpp_columns(scale)  # fmt: skip
    class_columns = columns(classes)[len(COLUMNS) :]
    values = (round(float(value), DIGITS) if has_score else None for value in by_class)
    return row | (dict(zip(class_columns, values, strict=True)) if class_columns else {})


def _mpp_columns(scale: Scale | None) -> dict[str, Any]:
    """Return the columns mpp, along x, and mpp_source, which also has the value along y if that differs."""
    if scale is None or scale.mpp is None:
        return {"mpp": None, "mpp_source": scale and scale.source}
    x, y = (float(f"{mpp:.6g}") for mpp in scale.mpp)
    return {"mpp": x, "mpp_source": scale.source if x == y else f"{scale.source} (y: {y:g})"}
