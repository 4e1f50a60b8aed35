"""`bcgan predict`: a probability, an uncertainty and a verdict for every patch of every image."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from bcgan import progress
from bcgan.data.breakhis.scan import parse
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.predict.model import DIGITS, OUT_OF_DISTRIBUTION, SCORED, VERDICTS, Model, Predictions
from bcgan.predict.tile_groups import Group, SlideTiles, find_groups, read_group
from bcgan.slides.files import ImageFile
from bcgan.slides.mpp_table import MppChoice
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Mpp, Scale

COLUMNS = ("path", "x", "y", "probability", "uncertainty", "label", "verdict", "mpp", "mpp_source")
BATCH = 512  # patches scored together, of several files where they are small
SMALL_JOB = 2**19  # bytes: some 80 patches, upon which OpenVINO has caught up with LiteRT, which starts sooner
MppOf = Callable[[ImageFile], Mpp | None]


class SinglePatch(NamedTuple):
    """An image that is one patch. patch: uint8, (size, size, 3); None where `verdict` is given without a score. x, y:
    of the patch in the image, pixels of the image."""

    image: ImageFile
    patch: np.ndarray | None
    x: int
    y: int
    scale: Scale | None
    verdict: str = ""


def predict(
    model: Model,
    images: list[ImageFile],
    out: TextIO,
    as_jsonl: bool,
    mpp_of: MppOf | None = None,
    maps: Path | None = None,
    progress_bar: bool = True,
) -> dict[str, int]:
    """Write one row per patch; a file that cannot be read has a row that says so.

    Rows are in the order of `images`, except for tiles of one slide, whose names say where they lie
    (`bcgan.slides.coordinates`): these stand together in the place of the first, and their neighbours are used.

    Args:
        out: text file. CSV with a header, or JSON lines if `as_jsonl` is true.
        mpp_of: the resolution that the user gives for an image, in place of what the file states. Defaults to none.
        maps: Path. Folder for a heat map, an overlay and outlines of every image that is larger than a patch, and of
            the tiles of every slide.
        progress_bar: bool. Whether there is a progress bar. Defaults to True.

    Returns:
        How many patches got each verdict.
    """
    mpp_of = mpp_of or MppChoice()
    check_magnifications(images, mpp_of)
    writer = None if as_jsonl else csv.DictWriter(out, COLUMNS, lineterminator="\n")
    if writer:
        writer.writeheader()
    counts = dict.fromkeys(VERDICTS, 0)
    with progress.bar(len(images), "predict", "image", visible=progress_bar) as bar:
        for row in _Predictor(model, mpp_of, maps, bar).rows(images):
            counts[row["verdict"]] += 1
            if writer:
                writer.writerow(row)
            else:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    if maps and not maps.exists():
        progress.log.warning(
            "predict: %s: no map: no image larger than a patch was scored, nor tiles whose places are known", maps
        )
    return counts


def predict_image(model: Model, source: Path | str | bytes, mpp: float | None = None) -> list[dict[str, Any]]:
    """Score one image; arguments, result and errors as `bcgan.predict.model.Model.predict_image` has them."""
    grid = read_grid(model, source, mpp)
    name = "image" if isinstance(source, bytes) else str(source)
    if not len(grid.patches):
        return [unscored_row(name, "no_tissue", grid.scale)]
    return list(rows_of(name, grid, predict_grid(model, grid)))


def read_grid(model: Model, source: Path | str | bytes, mpp: float | None = None, name: str = "") -> PatchGrid:
    """Cut one image into the model's patches.

    Args:
        mpp: float. Microns per pixel that the user gives. Defaults to what the file states.
        name: string. Of the image, for errors. Defaults to its path.

    Raises:
        ValueError, OSError: If the image cannot be read, or its scale is not known.
    """
    with open_image(source, name) as image:
        return cut_patches(image, model.scale, user_mpp(mpp))


def user_mpp(mpp: float | None) -> Mpp | None:
    """The resolution that a user gives, for x and y alike."""
    return Mpp(mpp, mpp, "user") if mpp else None


def predict_grid(model: Model, grid: PatchGrid) -> Predictions:
    """Score the patches of one image, which all contain tissue."""
    coords = None if grid.is_single_patch else grid.coords
    return model.predict(grid.patches, coords, np.ones(len(grid.patches), bool))


def rows_of(path: str, grid: PatchGrid, predictions: Predictions) -> Iterator[dict[str, Any]]:
    """A row a patch of one image; x and y in the image's own pixels."""
    for number, (x, y) in enumerate(grid.image_coords):
        yield _row(path, (x, y), predictions, number, grid.scale)


def unscored_row(path: str, verdict: str, scale: Scale | None = None) -> dict[str, Any]:
    """The row of an image without a score."""
    return dict.fromkeys(COLUMNS) | {"path": path, "x": 0, "y": 0, "verdict": verdict} | _mpp_columns(scale)


def is_small_job(images: list[ImageFile]) -> bool:
    """Whether the files are so small, all together, that starting takes longer than scoring them."""
    return sum(image.size for image in images) < SMALL_JOB


def check_magnifications(images: list[ImageFile], mpp_of: MppOf) -> None:
    """Refuse one resolution for images of BreaKHis whose names state several magnifications.

    Raises:
        InputError: If the user gives the same microns per pixel for images of different magnifications.
    """
    magnifications: dict[float, dict[str, str]] = {}
    for image in images:
        mpp = mpp_of(image)
        fields = parse(image.name) if mpp else None
        if fields:
            magnifications.setdefault(mpp.x, {})[fields["magnification"]] = image.path
    for mpp, files in magnifications.items():
        if len(files) > 1:
            names = ", ".join(f"{key}X ({path})" for key, path in sorted(files.items(), key=lambda item: int(item[0])))
            raise InputError(
                f"--mpp {mpp:g} is given for images of several magnifications: {names}. Give each its own with "
                "--mpp-csv."
            )


class _Predictor:
    """The state of one prediction: what waits to be scored together."""

    def __init__(self, model: Model, mpp_of: MppOf, maps: Path | None, bar):
        self._model, self._mpp_of, self._maps, self._bar = model, mpp_of, maps, bar
        self._waiting: list[SinglePatch] = []
        self._has_assumed = False
        self._num_unused = 0
        self._used: Counter[str] = Counter()

    def rows(self, images: list[ImageFile]) -> Iterator[dict[str, Any]]:
        groups = find_groups(images)
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
            self._used[tiles.summary] += 1
            yield from self._flush()
            yield from self._slide_rows(group, tiles, titles[group.images[0].path])
        yield from self._flush()
        for summary, count in self._used.items():
            progress.log.info(
                "predict: tiles of %d slides by their names (%s)%s", count, summary,
                "; the predictions of neighbouring tiles are used" if self._model.card.spatial_context else "",
            )  # fmt: skip
        if self._num_unused > 1:
            progress.log.warning("predict: the names of %d more slides are not used likewise", self._num_unused - 1)

    def _count_unused(self, reason: str) -> None:
        """Log the first slide whose names are not used; the others are counted."""
        if reason and not self._num_unused:
            progress.log.warning("predict: %s", reason)
        self._num_unused += bool(reason)

    def _image_rows(self, image: ImageFile) -> Iterator[dict[str, Any]]:
        """Rows of a file by itself, once enough patches wait to be scored together."""
        grid = self._read(image)
        if grid is None or not len(grid.patches):
            verdict = "unreadable" if grid is None else "no_tissue"
            self._waiting.append(SinglePatch(image, None, 0, 0, grid and grid.scale, verdict))
        elif grid.is_single_patch:
            x, y = grid.image_coords[0]
            self._waiting.append(SinglePatch(image, grid.patches[0], x, y, grid.scale))
        else:
            yield from self._flush()
            predictions = predict_grid(self._model, grid)
            self._write_maps(self._map_names[image.path], grid, predictions)
            yield from rows_of(image.path, grid, predictions)
            self._bar.update()
            return
        if len(self._waiting) == BATCH:
            yield from self._flush()

    def _read(self, image: ImageFile) -> PatchGrid | None:
        """None, and the reason in the log, where it cannot be read."""
        try:
            with open_image(image) as opened:
                grid = cut_patches(opened, self._model.scale, self._mpp_of(image))
        except (OSError, ValueError, InputError) as error:
            progress.log.warning("predict: %s", error)
            return None
        if not len(grid.patches):
            progress.log.warning("predict: %s: no tissue was found", image.path)
        if grid.scale.source == "assumed" and not self._has_assumed:
            self._has_assumed = True
            progress.log.warning(
                "predict: %s states no resolution and is as large as a patch: taken for %.4g microns a pixel, as all "
                "others like it; --mpp gives another", image.path, grid.scale.mpp[0],
            )  # fmt: skip
        return grid

    def _flush(self) -> Iterator[dict[str, Any]]:
        """Rows of the single patches that wait, after which none do."""
        scored = [single for single in self._waiting if single.patch is not None]
        if scored:
            patches = np.stack([single.patch for single in scored])
            predictions = self._model.predict(patches, None, np.ones(len(scored), bool))
        number = 0
        for single in self._waiting:
            if single.patch is None:
                yield unscored_row(single.image.path, single.verdict, single.scale)
            else:
                yield _row(single.image.path, (single.x, single.y), predictions, number, single.scale)
                number += 1
        self._bar.update(len(self._waiting))
        self._waiting.clear()

    def _slide_rows(self, group: Group, tiles: SlideTiles, title: str) -> Iterator[dict[str, Any]]:
        """Rows of the tiles of one slide, which are scored together."""
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
            for number in tiles.rows.get(image.path, ()):
                yield _row(image.path, tiles.offsets[number], predictions, number, tiles.scales[number])
            if image.path not in tiles.rows:
                progress.log.warning("predict: %s", tiles.reasons[image.path])
                yield unscored_row(image.path, "unreadable")
            self._bar.update()

    def _write_maps(self, name: str, grid: PatchGrid, predictions: Predictions) -> None:
        if self._maps:
            from bcgan.predict.maps import write_maps  # matplotlib, which rows alone do not need

            write_maps(self._maps, name, grid, predictions, self._model.card)


def _unique_names(names: list[str], images: list[ImageFile]) -> dict[str, str]:
    """What maps are called, by the path of the image: numbered where several have one name."""
    counts = Counter(names)
    return {
        image.path: name if counts[name] == 1 else f"{number:04d}-{name}"
        for number, (name, image) in enumerate(zip(names, images, strict=True))
    }


def _row(path: str, corner, predictions: Predictions, number: int, scale: Scale | None) -> dict[str, Any]:
    probability, uncertainty, called, verdict, _ = (values[number] for values in predictions)
    has_score = verdict < OUT_OF_DISTRIBUTION
    return {
        "path": path, "x": int(corner[0]), "y": int(corner[1]),
        "probability": round(float(probability), DIGITS) if has_score else None,
        "uncertainty": round(float(uncertainty), DIGITS) if has_score else None,
        "label": CLASSES[called] if verdict == SCORED else None, "verdict": VERDICTS[verdict],
    } | _mpp_columns(scale)  # fmt: skip


def _mpp_columns(scale: Scale | None) -> dict[str, Any]:
    """Microns per pixel along x, and where they come from; along y too where they differ."""
    if scale is None or scale.mpp is None:
        return {"mpp": None, "mpp_source": scale and scale.source}
    x, y = (float(f"{side:.6g}") for side in scale.mpp)
    return {"mpp": x, "mpp_source": scale.source if x == y else f"{scale.source} (y: {y:g})"}
