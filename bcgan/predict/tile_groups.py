"""Files that are tiles of one slide by their names, read together so that each is scored with what lies around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bcgan.classify.context import REACH
from bcgan.data.records import CLASSES
from bcgan.predict.model import Model
from bcgan.slides.coordinates import PLAIN_PATTERN, TileCoordinates, parse_tile_name
from bcgan.slides.decode import MAX_PIXELS
from bcgan.slides.files import ImageFile, printable
from bcgan.slides.patches import PatchGrid, patch_corners
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Mpp, Scale, resolve_scale
from bcgan.slides.tiles import (
    MAX_OVERLAP_DIFFERENCE,
    MIN_COVERED,
    Tile,
    are_transposed,
    complete,
    draw_mosaic,
    find_downsample,
    overlap_difference,
    read_tile,
)
from bcgan.slides.tissue import MIN_TISSUE_FRACTION, estimate_background, tissue_mask

CLASS_FOLDERS = ("0", "1", *CLASSES)  # folders of a class, as the public archive of IDC has them
MIN_SPACING_PX = 16  # pixels that the tiles of a slide span at least
MAX_SIZE_RATIO = 1.5  # of an image's side to that of the slide's tiles, above which it is none
SAMPLED = 32  # tiles whose size is looked at
BACKGROUND_TILES = 400  # tiles from which the colour of glass is estimated


class Group(NamedTuple):
    """slide: the name of the slide whose tiles the images are; "" for an image that is none."""

    slide: str
    images: list[ImageFile]
    coordinates: list[TileCoordinates]


class SlideTiles(NamedTuple):
    """The tiles of one slide that can be scored.

    patches: uint8, (n, size, size, 3). corners: integers, (n, 2), x and y of what each patch stands for in the slide,
    pixels at the model's scale. offsets: n pairs of integers, of each patch in its file, pixels of the file.
    has_tissue: bool, (n,). scales: n, of the files. rows: positions of a file's patches, by its path. reasons: why the
    others are not scored, by path. larger: paths of much larger images, which are scored by themselves. tiles: at the
    model's scale, for the map. tile_px: side of a tile, or of the patches of larger ones, pixels at the model's scale.
    downsample: pixels in which the slide counts, for one of a tile's. summary: which names state the places, and in
    what unit.
    """

    patches: np.ndarray
    corners: np.ndarray
    offsets: list[tuple[int, int]]
    has_tissue: np.ndarray
    scales: list[Scale]
    rows: dict[str, list[int]]
    reasons: dict[str, str]
    larger: set[str]
    tiles: list[Tile]
    tile_px: float
    downsample: float
    summary: str

    def to_grid(self) -> PatchGrid:
        """The tiles as the patches of one slide, for its map."""
        image, zoom = draw_mosaic([tile.pixels for tile in self.tiles], np.array([tile.corner for tile in self.tiles]))
        first = self.scales[0]
        scale = Scale(first.x * self.downsample, first.y * self.downsample, first.mpp, first.source, False)
        return PatchGrid(self.patches, self.corners, scale, self.has_tissue, image, zoom, False, self.tile_px)


def find_groups(images: list[ImageFile]) -> list[Group]:
    """Sort images into tiles of one slide, which lie in one folder or in one a class, and images by themselves."""
    groups: dict[Any, list[tuple[ImageFile, TileCoordinates | None]]] = {}
    for number, image in enumerate(images):
        folder, _, name = image.path.replace("!", "/").rpartition("/")
        coordinates = parse_tile_name(name)
        key: Any = number
        if coordinates:
            above, _, last = folder.rpartition("/")
            key = coordinates.slide, above if last.lower() in CLASS_FOLDERS else folder, coordinates.downsample
        groups.setdefault(key, []).append((image, coordinates))
    return [
        Group(
            key[0] if len(files) > 1 and _may_be_tiles([place for _, place in files]) else "",
            [image for image, _ in files],
            [place for _, place in files],
        )
        for key, files in groups.items()
    ]


def _may_be_tiles(places: list[TileCoordinates]) -> bool:
    """Whether two plain numbers at the ends of names can be pixels; counters and dates, as `slide-40-001`, cannot."""
    if places[0].pattern != PLAIN_PATTERN:
        return True
    x, y = np.array([(place.x, place.y) for place in places]).T
    return max(np.ptp(x), np.ptp(y)) >= MIN_SPACING_PX


def read_group(group: Group, model: Model, mpp_of: Callable[[ImageFile], Mpp | None]) -> SlideTiles | str:
    """Read the tiles of one slide.

    Returns:
        The tiles; the reason, a string, where the coordinates in the names cannot be used: the images then count as
        images by themselves.
    """
    coordinates = np.array([(place.x, place.y) for place in group.coordinates])
    step = max(1, len(group.images) // SAMPLED)
    side = _median_side(group.images[::step])
    name, pattern = printable(group.slide), group.coordinates[0].pattern
    plain = pattern == PLAIN_PATTERN
    can_be_tiles = side and side**2 <= MAX_PIXELS
    downsample = find_downsample(coordinates, side, REACH[-1], needs_grid=plain) if can_be_tiles else None
    if downsample is None:
        return (
            f"{name}: its files are named like tiles ({pattern}), but the files are {side or 0:g} pixels wide and by "
            "their names do not lie side by side: the names are not used, and each file is scored by itself"
        )
    tiles, scales, reasons, larger = _read_tiles(group, downsample, side, model, mpp_of)
    is_transposed = plain and are_transposed(list(tiles.values()))
    if is_transposed:
        turned = group._replace(coordinates=[place._replace(x=place.y, y=place.x) for place in group.coordinates])
        tiles, scales, reasons, larger = _read_tiles(turned, downsample, side, model, mpp_of)
    if tiles and overlap_difference(list(tiles.values())) > MAX_OVERLAP_DIFFERENCE:
        return (
            f"{name}: its tiles overlap by their names ({pattern}) and do not look alike there: the names are not "
            "used, and each file is scored by itself"
        )
    unit = "the tiles' own pixels" if downsample == 1 else f"{downsample:g} pixels for one of a tile's"
    summary = f"{pattern}, which count {unit}{', y before x' if is_transposed else ''}"
    slide = _score_units(tiles, scales, reasons, model.card.size, summary)
    return slide._replace(larger=larger, downsample=downsample * group.coordinates[0].downsample)


def _read_tiles(
    group: Group, downsample: float, side: float, model: Model, mpp_of: Callable[[ImageFile], Mpp | None]
) -> tuple[dict[str, Tile], dict[str, Scale], dict[str, str], set[str]]:
    """The tiles at the model's scale and their scales, and why others cannot be read, by path; and the paths of images
    that are much larger than a tile, such as an overview of the slide."""
    tiles, scales, reasons, larger = {}, {}, {}, set()
    for image, place in zip(group.images, group.coordinates, strict=True):
        place = place._replace(x=round(place.x / downsample), y=round(place.y / downsample))
        try:
            with open_image(image) as opened:
                scale = resolve_scale(opened.size, mpp_of(image) or opened.mpp, model.scale, image.path)
                if max(opened.size) > MAX_SIZE_RATIO * side and not scale.is_single_patch:
                    larger.add(image.path)
                    continue
                tiles[image.path], scales[image.path] = read_tile(opened, scale, place), scale
        except (OSError, ValueError) as error:
            reasons[image.path] = str(error)
    return tiles, scales, reasons, larger


def _median_side(images: list[ImageFile]) -> float | None:
    """The longer side of an image, pixels, as the median of what can be read."""
    side_lengths = []
    for image in images:
        try:
            with open_image(image) as opened:
                side_lengths.append(max(opened.size))
        except (OSError, ValueError):
            continue  # the reason is given where the image is read
    return float(np.median(side_lengths)) if side_lengths else None


def _score_units(
    tiles: dict[str, Tile], scales: dict[str, Scale], reasons: dict[str, str], size: int, summary: str
) -> SlideTiles:
    """What is scored: a patch for each tile, with what the others show around it where it is smaller, and several for a
    larger one."""
    paths, pixels = list(tiles), [tile.pixels for tile in tiles.values()]
    background = estimate_background(_stack(pixels[:: max(1, len(pixels) // BACKGROUND_TILES)])) if pixels else None
    is_small = [min(tile.shape[:2]) < size for tile in pixels]
    around, covered = complete(list(tiles.values()), size) if any(is_small) else (None, None)
    patches, corners, offsets, has_tissue, rows = [], [], [], [], {}
    for number, path in enumerate(paths):
        tile, steps = tiles[path], (scales[path].x, scales[path].y)
        if is_small[number] and covered[number] < MIN_COVERED:
            height, width = tile.pixels.shape[:2]
            reasons[path] = (
                f"{path} is smaller than a patch: {width}x{height} pixels at the model's scale, where a patch has "
                f"{size}x{size}, and with the tiles around it {100 * covered[number]:.0f} % of one are known, of which "
                f"{100 * MIN_COVERED:.0f} % are needed. Check its microns per pixel, or give the tiles around it"
            )
            continue
        mask = tissue_mask(tile.pixels, background)
        if is_small[number]:
            units = [(around[number], np.zeros(2, int), mask)]
        else:
            units = [
                (tile.pixels[y : y + size, x : x + size], np.array([x, y]), mask[y : y + size, x : x + size])
                for x, y in patch_corners(tile.pixels.shape, size)
            ]
            if len(units) > 1:  # of a larger one, patches with tissue alone, as of any image
                units = [unit for unit in units if unit[2].mean() >= MIN_TISSUE_FRACTION] or units[:1]
        rows[path] = list(range(len(patches), len(patches) + len(units)))
        for patch, offset, part in units:
            patches.append(patch)
            # A tile that is one patch stands for itself, wherever the patch lies in it.
            corners.append(tile.corner + (offset if len(units) > 1 else 0))
            offsets.append(tuple(np.rint(offset * steps).astype(int)))
            has_tissue.append(part.mean() >= MIN_TISSUE_FRACTION)
    side_lengths = [min(max(tile.shape[:2]), size) for tile in pixels]
    return SlideTiles(
        np.stack(patches) if patches else np.empty((0, size, size, 3), np.uint8),
        np.array(corners, int).reshape(-1, 2), offsets, np.array(has_tissue, bool),
        [scales[path] for path in rows for _ in rows[path]], rows, reasons, set(), [tiles[path] for path in rows],
        float(np.median(side_lengths)) if side_lengths else size, 1.0, summary,
    )  # fmt: skip


def _stack(tiles: list[np.ndarray]) -> np.ndarray:
    """The tiles below each other, cut to the narrowest."""
    width = min(tile.shape[1] for tile in tiles)
    return np.concatenate([tile[:, :width] for tile in tiles])
