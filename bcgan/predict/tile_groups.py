"""Files that are tiles of one slide by their names, read together so that each is scored with what lies around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bcgan import progress
from bcgan.classify.context import REACH
from bcgan.data.records import CLASSES
from bcgan.predict.model import Model
from bcgan.slides.coordinates import PLAIN_PATTERN, TileCoordinates, parse_tile_name
from bcgan.slides.files import ImageFile, printable
from bcgan.slides.patches import PatchGrid
from bcgan.slides.reader import open_image
from bcgan.slides.scale import SINGLE_PATCH_MAX_RATIO, Mpp, Scale, resolve_scale
from bcgan.slides.tiles import (
    MAX_OVERLAP_DIFFERENCE,
    MIN_COVERED,
    Tile,
    complete,
    draw_mosaic,
    find_downsample,
    read_tile,
)
from bcgan.slides.tissue import MIN_TISSUE_FRACTION, estimate_background, tissue_mask

CLASS_FOLDERS = ("0", "1", *CLASSES)  # folders of a class, as the public archive of IDC has them
MIN_SPACING_PX = 16  # pixels that the tiles of a slide span at least
SAMPLED = 32  # tiles whose size is looked at
BACKGROUND_TILES = 400  # tiles from which the colour of glass is estimated


class Group(NamedTuple):
    """slide: the name of the slide whose tiles the images are; "" for an image that is none."""

    slide: str
    images: list[ImageFile]
    coordinates: list[TileCoordinates]


class SlideTiles(NamedTuple):
    """The tiles of one slide that can be scored.

    patches: uint8, (n, size, size, 3). corners: integers, (n, 2), x and y of the tiles in the slide, pixels at the
    model's scale. offsets: integers, (n, 2), of the patch in its file, pixels of the file. has_tissue: bool, (n,).
    scales: of each file. pixels: of each tile at the model's scale. numbers: position by the file's path. large: paths
    of files that are larger than a patch and scored by themselves. reasons: why the others are not scored, by path.
    tile_px: side of a tile, pixels at the model's scale. downsample: pixels in which the slide counts, for one of a
    tile's.
    """

    patches: np.ndarray
    corners: np.ndarray
    offsets: list[tuple[int, int]]
    has_tissue: np.ndarray
    scales: list[Scale]
    pixels: list[np.ndarray]
    numbers: dict[str, int]
    large: set[str]
    reasons: dict[str, str]
    tile_px: float
    downsample: float

    def to_grid(self) -> PatchGrid:
        """The tiles as the patches of one slide, for its map."""
        image, zoom = draw_mosaic(self.pixels, self.corners)
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
    downsample = find_downsample(coordinates, side, REACH[-1]) if side else None
    name, pattern = printable(group.slide), group.coordinates[0].pattern
    if downsample is None:
        return (
            f"{name}: its files are named like tiles ({pattern}), but the files are {side or 0:g} pixels wide and by "
            "their names do not lie side by side: the names are not used, and each file is scored by itself"
        )
    places = [
        place._replace(x=round(place.x / downsample), y=round(place.y / downsample)) for place in group.coordinates
    ]
    size, tiles, scales, reasons, large = model.card.size, {}, {}, {}, set()
    for image, place in zip(group.images, places, strict=True):
        try:
            with open_image(image) as opened:
                scale = resolve_scale(opened.size, mpp_of(image) or opened.mpp, model.scale, image.path)
                if max(opened.size[0] / scale.x, opened.size[1] / scale.y) > SINGLE_PATCH_MAX_RATIO * size:
                    large.add(image.path)
                else:
                    tiles[image.path], scales[image.path] = read_tile(opened, scale, place), scale
        except (OSError, ValueError) as error:
            reasons[image.path] = str(error)
    slide = _complete_tiles(tiles, scales, reasons, size)
    if slide is None:
        return (
            f"{name}: its tiles overlap by their names ({pattern}) and do not look alike there: the names are not "
            "used, and each file is scored by itself"
        )
    small = sum(min(tile.pixels.shape[:2]) < size for tile in tiles.values())
    if small or downsample != 1:
        log = progress.log.info if 2 * len(slide.patches) >= len(tiles) else progress.log.warning
        log(
            "predict: %s: %d tiles of %g pixels, %d of them smaller than a patch and scored with what the others show "
            "around them; the names (%s) count %s", name, len(tiles), side, small, pattern,
            "the tiles' own pixels" if downsample == 1 else f"{downsample:g} pixels for one of a tile's",
        )  # fmt: skip
    return slide._replace(large=large, downsample=downsample * group.coordinates[0].downsample)


def _median_side(images: list[ImageFile]) -> float | None:
    """The longer side of an image, pixels, as the median of what can be read."""
    sides = []
    for image in images:
        try:
            with open_image(image) as opened:
                sides.append(max(opened.size))
        except (OSError, ValueError):
            continue  # the reason is given where the image is read
    return float(np.median(sides)) if sides else None


def _complete_tiles(
    tiles: dict[str, Tile], scales: dict[str, Scale], reasons: dict[str, str], size: int
) -> SlideTiles | None:
    """A patch for each tile; None where tiles that overlap do not look alike."""
    patches, offsets, kept_paths = [], [], []
    small = [path for path, tile in tiles.items() if min(tile.pixels.shape[:2]) < size]
    completed = complete([tiles[path] for path in tiles], size) if small else None
    if completed and completed.difference > MAX_OVERLAP_DIFFERENCE:
        return None
    for number, (path, tile) in enumerate(tiles.items()):
        height, width = tile.pixels.shape[:2]
        if min(height, width) >= size:
            top, left = (height - size) // 2, (width - size) // 2
            patches.append(tile.pixels[top : top + size, left : left + size])
            offsets.append((round(left * scales[path].x), round(top * scales[path].y)))
        elif completed.covered[number] >= MIN_COVERED:
            patches.append(completed.patches[number])
            offsets.append((0, 0))
        else:
            covered = 100 * completed.covered[number]
            reasons[path] = (
                f"{path} is smaller than a patch: {width}x{height} pixels at the model's scale, where a patch has "
                f"{size}x{size}, and with the tiles around it {covered:.0f} % of one are known, of which "
                f"{100 * MIN_COVERED:.0f} % are needed. Check its microns per pixel, or give the tiles around it"
            )
            continue
        kept_paths.append(path)
    pixels = [tiles[path].pixels for path in kept_paths]
    step = max(1, len(pixels) // BACKGROUND_TILES)
    background = estimate_background(_stack(pixels[::step])) if pixels else None
    tissue = [tissue_mask(tile, background).mean() >= MIN_TISSUE_FRACTION for tile in pixels]
    return SlideTiles(
        np.stack(patches) if patches else np.empty((0, size, size, 3), np.uint8),
        np.array([tiles[path].corner for path in kept_paths]).reshape(-1, 2), offsets, np.array(tissue, bool),
        [scales[path] for path in kept_paths], pixels, {path: number for number, path in enumerate(kept_paths)}, set(),
        reasons, float(np.median([max(tile.shape[:2]) for tile in pixels])) if pixels else size, 1.0,
    )  # fmt: skip


def _stack(tiles: list[np.ndarray]) -> np.ndarray:
    """The tiles below each other, cut to the narrowest."""
    width = min(tile.shape[1] for tile in tiles)
    return np.concatenate([tile[:, :width] for tile in tiles])
