"""Tiles of one slide whose file names say where they lie: which belong together, and what lies around each."""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import cKDTree

from bcgan.slides.base import SlideImage
from bcgan.slides.coordinates import TileCoordinates
from bcgan.slides.decode import WHITE
from bcgan.slides.scale import Scale

MIN_COVERED = 0.75  # of a patch's area that has to lie on tiles
MAX_OVERLAP_DIFFERENCE = 12.0  # grey levels by which tiles may differ where they overlap: scaled, they differ by some
# Of what a patch shows beside a tile, how much lies left of it and above: half, unless more of it is known elsewhere.
OFFSETS = ((0.5, 0.5), (0.5, 0), (0.5, 1), (0, 0.5), (1, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))
MIN_SEAMS = 8  # between tiles, from which on it is no chance that they fit together better transposed
MAX_SEAM_RATIO = 0.7  # of the differences along seams, below which they do
MIN_SPACING = 0.25  # of a tile's side: tiles that overlap by more do not lie where their names say
TOLERANCE = 0.05  # of a step, by which corners on a grid may be off
WHOLE_TOLERANCE = 0.05  # sides by which a grid's step may differ from whole sides
MIN_SAMPLE = 8  # tiles from which on it is no chance that all lie whole steps apart
REGULAR = 0.8  # share of tiles with a neighbour exactly one step away, from which on they are a grid
MAX_MOSAIC_PX = 4096  # longer side of a slide put together from tiles


class Tile(NamedTuple):
    """pixels: uint8, (height, width, 3), at the model's scale. corner: integers, (2,), x and y of its upper left corner
    in the slide, pixels at the model's scale."""

    pixels: np.ndarray
    corner: np.ndarray


def read_tile(image: SlideImage, scale: Scale, coordinates: TileCoordinates) -> Tile:
    """Read a small tile at the model's scale; tiles that lie side by side in the slide still do."""
    pixels = image.read_region(0, 0, 0, *image.size)
    steps = np.array([scale.x, scale.y])
    first = np.array([coordinates.x, coordinates.y])
    begin, end = (np.rint(corner / steps).astype(int) for corner in (first, first + image.size))
    width, height = np.maximum(end - begin, 1)
    if (width, height) != image.size:
        interpolation = cv2.INTER_AREA if max(steps) > 1 else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, (int(width), int(height)), interpolation=interpolation)
    return Tile(pixels, begin)


def find_downsample(coordinates: np.ndarray, side: float, max_spacing: float, needs_grid: bool = False) -> float | None:
    """Find how many of the names' pixels make one of the tiles' own.

    Args:
        coordinates: integers, (n, 2). x and y by the names.
        side: float. Of a tile, in its own pixels.
        max_spacing: float. The farthest that tiles may lie apart, in their sides, to be neighbours.
        needs_grid: bool. Whether only coordinates on a grid count, as two numbers in a name may be anything. Defaults
            to False.

    Returns:
        1.0 where the names count the tiles' own pixels; more where tiles form a grid of so many sides, a whole number
        but for rounding, as names in pixels of the full resolution do; None where the names cannot be pixels at all.
    """
    unique = np.unique(coordinates, axis=0)
    if len(unique) < 2:
        return None
    step = float(np.median(cKDTree(unique).query(unique, 2, p=np.inf)[0][:, 1]))
    offsets = unique - unique.min(axis=0)
    if (widest := offsets.max()) > step:
        step = widest / round(widest / step)  # more exact than between two tiles, whose corners are rounded
    num_sides = round(step / side)
    if num_sides >= 2 and abs(step / side - num_sides) < WHOLE_TOLERANCE and _is_grid(offsets / step):
        return step / side
    common = np.gcd.reduce(offsets.ravel())
    if needs_grid and common < MIN_SPACING * side:
        return None
    divisor = common / side
    if len(unique) >= MIN_SAMPLE and divisor >= 2 and divisor.is_integer():  # a sample of such a grid
        return float(divisor)
    return 1.0 if MIN_SPACING <= step / side <= max_spacing else None


def _is_grid(offsets: np.ndarray) -> bool:
    """Whether offsets, in steps, are whole, and most of them have a neighbour one step away along an axis."""
    cells = np.rint(offsets).astype(int)
    lattice = set(map(tuple, cells))
    directions = ((0, 1), (1, 0), (0, -1), (-1, 0))
    neighbours = [any((x + right, y + down) in lattice for right, down in directions) for x, y in lattice]
    return np.abs(offsets - cells).max() < TOLERANCE and len(lattice) >= 4 and np.mean(neighbours) >= REGULAR


def overlap_difference(tiles: list[Tile]) -> float:
    """The mean difference of tiles where they overlap, grey levels; 0 where none do."""
    corners = np.array([tile.corner for tile in tiles])
    reach = max(max(tile.pixels.shape[:2]) for tile in tiles)
    total, pixels = 0, 0
    for first, second in cKDTree(corners).query_pairs(reach, p=np.inf):
        left, right = tiles[first], tiles[second]
        begin = np.maximum(left.corner, right.corner)
        end = np.minimum(*(tile.corner + tile.pixels.shape[1::-1] for tile in (left, right)))
        if (end > begin).all():
            first_part, second_part = (_window(tile, begin, end) for tile in (left, right))
            total += np.abs(first_part.astype(int) - second_part).sum()
            pixels += first_part.size
    return total / max(pixels, 1)


def _window(tile: Tile, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    (left, top), (right, bottom) = begin - tile.corner, end - tile.corner
    return tile.pixels[top:bottom, left:right]


def seam_difference(tiles: list[Tile], transposed: bool = False) -> tuple[float, int]:
    """The mean difference of pixels on both sides of the seams between tiles, grey levels, and the number of seams.

    Args:
        transposed: bool. Whether the names state y before x. Defaults to False.
    """
    corners = {tuple(tile.corner[::-1] if transposed else tile.corner): tile.pixels for tile in tiles}
    differences = []
    for (x, y), pixels in corners.items():
        height, width = pixels.shape[:2]
        for neighbour, edges in (
            (corners.get((x + width, y)), lambda a, b: (a[:, -1], b[:, 0])),
            (corners.get((x, y + height)), lambda a, b: (a[-1], b[0])),
        ):
            if neighbour is not None and neighbour.shape == pixels.shape:
                first, second = edges(pixels, neighbour)
                differences.append(np.abs(first.astype(int) - second).mean())
    return (float(np.mean(differences)), len(differences)) if differences else (0.0, 0)


def are_transposed(tiles: list[Tile]) -> bool:
    """Whether the names state y before x: the tiles then fit together much better."""
    (as_named, seams), (swapped, _) = (seam_difference(tiles, transposed) for transposed in (False, True))
    return seams >= MIN_SEAMS and swapped < MAX_SEAM_RATIO * as_named


def complete(tiles: list[Tile], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Put a patch around each tile, with the other tiles of the slide in it.

    The tile is in its middle, or at the side or in the corner where more of the patch lies on tiles: what surrounds a
    slide's tissue is seldom cut, and the patch stays within.

    Args:
        tiles: of which at least one side is shorter than a patch.
        size: int. Side of a patch, pixels at the model's scale.

    Returns:
        The patches, uint8, (n, size, size, 3), and the share of each that lies on tiles, float, (n,).
    """
    corners = np.array([tile.corner for tile in tiles])
    tile_sizes = np.array([tile.pixels.shape[1::-1] for tile in tiles])
    reach = size + tile_sizes.max()  # no tile that begins farther away is seen
    tree = cKDTree(corners)
    patches, covered = np.empty((len(tiles), size, size, 3), np.uint8), np.full(len(tiles), -1.0)
    for number, (tile, (width, height)) in enumerate(zip(tiles, tile_sizes, strict=True)):
        field = np.full((3 * reach, 3 * reach, 3), WHITE, np.uint8)  # the tile begins at (reach, reach)
        known = np.zeros(field.shape[:2], bool)
        for neighbour in tree.query_ball_point(corners[number], reach, p=np.inf):
            if neighbour != number:
                (x, y), (wide, high) = corners[neighbour] - corners[number] + reach, tile_sizes[neighbour]
                field[y : y + high, x : x + wide], known[y : y + high, x : x + wide] = tiles[neighbour].pixels, True
        inside = slice(reach, reach + height), slice(reach, reach + width)
        field[inside], known[inside] = tile.pixels, True
        for right, down in OFFSETS:
            x, y = reach - ((size - tile_sizes[number]) * (right, down)).astype(int)
            window = slice(y, y + size), slice(x, x + size)
            if (share := known[window].mean()) > covered[number]:
                patches[number], covered[number] = field[window], share
    return patches, covered


def draw_mosaic(tiles: Iterable[np.ndarray], corners: np.ndarray) -> tuple[np.ndarray, float]:
    """Draw the tiles of one slide as one image, white where there are none.

    Args:
        tiles: uint8, (height, width, 3) each.
        corners: integers, (n, 2). x and y, pixels at the tiles' scale.

    Returns:
        The image, at most MAX_MOSAIC_PX a side, and its pixels for one of the tiles'.
    """
    tiles = list(tiles)
    width, height = (corners + [tile.shape[1::-1] for tile in tiles]).max(0)
    zoom = min(1.0, MAX_MOSAIC_PX / max(width, height))  # coordinates are whatever names say
    image = np.full((round(height * zoom) + 1, round(width * zoom) + 1, 3), WHITE[0], np.uint8)
    for tile, (left, top) in zip(tiles, (corners * zoom).astype(int), strict=True):
        high, wide = (max(1, round(side * zoom)) for side in tile.shape[:2])
        window = image[top : top + high, left : left + wide]
        window[:] = cv2.resize(tile, (wide, high), interpolation=cv2.INTER_AREA)[: window.shape[0], : window.shape[1]]
    return image, zoom
