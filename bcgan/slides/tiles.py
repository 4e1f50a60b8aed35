"""Check the coordinates of a slide's tiles, and complete small tiles from the tiles around them."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import cKDTree

from bcgan.slides.base import SlideImage
from bcgan.slides.coordinates import TileCoordinates
from bcgan.slides.decode import WHITE
from bcgan.slides.scale import Scale

MIN_COVERED = 0.75  # of a patch's area that tiles have to cover
MAX_OVERLAP_DIFFERENCE = 12.0  # gray levels between overlapping tiles; resampling alone causes some difference
# Fractions of a patch's margin that lie left of and above its tile: half, or as tiles cover more of the patch.
OFFSETS = ((0.5, 0.5), (0.5, 0), (0.5, 1), (0, 0.5), (1, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))
MAX_OVERLAPS = 20_000  # about the number of pairs of overlapping tiles that are compared
MIN_SEAMS = 8  # number of seams that are needed to decide whether x and y are swapped
MAX_SEAM_RATIO = 0.7  # of the differences along seams, swapped to as named, below which x and y are swapped
# Of the difference along seams to that between an edge and the middle of the next tile. Of tissue of 1 to 8 microns a
# pixel it is 0.2 to 0.65 for tiles side by side, and 0.9 or more for others.
MAX_EDGE_RATIO = 0.8
NUM_OVERLAP_PAIRS = 64  # neighboring tiles that are searched for tissue that both show
MIN_OVERLAP = 0.1  # of a tile's side, that is searched for
# Of the difference of two tiles to the deviation from the mean, where they may show the same tissue. It is 1 or more
# where they do not, and 0 to 0.35 where they do, also of tiles that are resampled or JPEG files of quality 80.
MAX_OVERLAP_RATIO = 0.4
MIN_DEVIATION = 2.0  # gray levels, below which it is glass, which is alike everywhere
MIN_SPACING = 0.25  # of a tile's side: coordinates of tiles that overlap by more are wrong
TOLERANCE = 0.05  # of a step, by which corners on a grid may deviate
WHOLE_TOLERANCE = 0.05  # of a tile's side, by which a grid's step may deviate from a whole number of sides
MIN_SAMPLE = 8  # number of tiles that are needed to infer a grid from a common divisor
MIN_REGULAR_FRACTION = 0.8  # of tiles of a grid that have a neighbor exactly one step away
MAX_MOSAIC_PX = 4096  # longer side of a slide put together from tiles


class Tile(NamedTuple):
    """A tile of a slide, at the model's scale."""

    pixels: np.ndarray  # uint8, (height, width, 3)
    corner: np.ndarray  # integers, (2,), x and y of the upper left corner in the slide

    @property
    def size(self) -> np.ndarray:
        """Return width and height, integers, (2,)."""
        return np.array(self.pixels.shape[1::-1])


def read_tile(image: SlideImage, scale: Scale, coordinates: TileCoordinates) -> Tile:
    """Read a small tile at the model's scale. Corners are rounded so that adjacent tiles remain adjacent.

    Args:
        scale: Pixels of the tile for one of the model's.
        coordinates: Its upper left corner in the slide, pixels of the tile.
    """
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
    """Return how many pixels of the coordinates in names are one pixel of a tile.

    Args:
        coordinates: integers, (n, 2). x and y in the names.
        side: Side of a tile, its own pixels.
        max_spacing: Largest distance of neighboring tiles, in their sides.
        needs_grid: Whether coordinates have to be on a grid, because numbers in a name can have another meaning.
            Defaults to False.

    Returns:
        1.0 if the names count pixels of the tiles. More if they count pixels of a finer level: the tiles then form a
        grid, whose step is that many sides, a whole number except for rounding. `None` if the names cannot be pixels.
    """
    unique = np.unique(coordinates, axis=0)
    if len(unique) < 2:
        return None
    # The step of the grid: the typical distance to the nearest other tile, the larger one of its x and y.
    step = float(np.median(cKDTree(unique).query(unique, 2, p=np.inf)[0][:, 1]))
    offsets = unique - unique.min(axis=0)
    if (widest := offsets.max()) > step:
        step = widest / round(widest / step)  # more exact than between two tiles, whose corners are rounded
    num_sides = round(step / side)
    if num_sides >= 2 and abs(step / side - num_sides) < WHOLE_TOLERANCE and _is_grid(offsets / step):
        return step / side
    # A sample of a grid lacks neighbors, but its offsets still have the step as a common divisor.
    common = np.gcd.reduce(offsets.ravel())
    if needs_grid and common < MIN_SPACING * side:
        return None
    divisor = common / side
    if len(unique) >= MIN_SAMPLE and divisor >= 2 and divisor.is_integer():  # some tiles of such a grid
        return float(divisor)
    return 1.0 if MIN_SPACING <= step / side <= max_spacing else None


def _is_grid(offsets: np.ndarray) -> bool:
    """Return whether corners, (n, 2) in steps of a grid, lie on it, and most have a neighbor one step away."""
    cells = np.rint(offsets).astype(int)
    if np.abs(offsets - cells).max() >= TOLERANCE:
        return False
    occupied = set(map(tuple, cells))
    directions = ((0, 1), (1, 0), (0, -1), (-1, 0))
    has_neighbor = [any((x + right, y + down) in occupied for right, down in directions) for x, y in occupied]
    return len(occupied) >= 4 and np.mean(has_neighbor) >= MIN_REGULAR_FRACTION


def stated_downsample(stated: list[tuple[int, float]], divided_by: float) -> float:
    """Return the pixels of the coordinates for one of a tile's, by the extents that names state; 1.0 if none does.

    Args:
        stated: The longer side of a tile, pixels, and its extent, in pixels of the coordinates.
        divided_by: Pixels of the slide for one of the coordinates. Extents are whole pixels of the slide, so that those
            of tiles at their own scale differ from their sides by rounding alone.
    """
    if not stated:
        return 1.0
    pixels, extents = np.array(stated, float).T
    # Tiles at the end of a slide may be cut or padded, while their names state the extent of the others.
    usual = np.percentile(extents / pixels, 50, method="lower")  # of one of the tiles, not a mean of two
    is_usual = np.abs(extents - usual * pixels) <= 1
    pixels, extents = pixels[is_usual], extents[is_usual]
    is_rounding = abs(extents.mean() - pixels.mean()) <= 1 / divided_by
    return 1.0 if is_rounding else float(extents.sum() / pixels.sum())


def overlap_difference(tiles: list[Tile]) -> float:
    """Return the mean absolute difference of the RGB values where tiles overlap, gray levels; 0 if none overlap.

    It is large if the coordinates of the tiles are wrong.
    """
    corners = np.array([tile.corner for tile in tiles])
    max_side = max(max(tile.pixels.shape[:2]) for tile in tiles)
    total, num_values = 0, 0
    pairs = cKDTree(corners).query_pairs(max_side, p=np.inf, output_type="ndarray")
    for first, second in pairs[:: max(1, len(pairs) // MAX_OVERLAPS)]:
        left, right = tiles[first], tiles[second]
        begin = np.maximum(left.corner, right.corner)
        end = np.minimum(*(tile.corner + tile.pixels.shape[1::-1] for tile in (left, right)))
        if (end > begin).all():
            first_part, second_part = (_crop(tile, begin, end) for tile in (left, right))
            total += np.abs(first_part.astype(int) - second_part).sum()
            num_values += first_part.size
    return total / max(num_values, 1)


def _crop(tile: Tile, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the pixels of a tile between two corners inside it, (2,) x and y in the slide."""
    (left, top), (right, bottom) = begin - tile.corner, end - tile.corner
    return tile.pixels[top:bottom, left:right]


def seam_difference(tiles: list[Tile], transposed: bool = False, depth: float = 0.0) -> tuple[float, int]:
    """Return the mean absolute difference across the seams between adjacent tiles, gray levels, and their number.

    Args:
        transposed: Whether to swap the x and y of the names. Defaults to False.
        depth: Fraction of the next tile's side at which its line lies that is compared. Defaults to 0, its edge.
    """
    corners = {tuple(tile.corner[::-1] if transposed else tile.corner): tile.pixels for tile in tiles}
    differences = []
    for (x, y), pixels in corners.items():
        height, width = pixels.shape[:2]
        right, below = corners.get((x + width, y)), corners.get((x, y + height))
        if right is not None and right.shape == pixels.shape:
            differences.append(np.abs(pixels[:, -1].astype(int) - right[:, int(depth * width)]).mean())
        if below is not None and below.shape == pixels.shape:
            differences.append(np.abs(pixels[-1].astype(int) - below[int(depth * height)]).mean())
    return (float(np.mean(differences)), len(differences)) if differences else (0.0, 0)


def are_transposed(tiles: list[Tile]) -> bool:
    """Return whether the names state y before x, because tiles fit together much better if x and y are swapped."""
    (as_named, seams), (swapped, _) = (seam_difference(tiles, transposed) for transposed in (False, True))
    return seams >= MIN_SEAMS and swapped < MAX_SEAM_RATIO * as_named


def fit_side_by_side(tiles: list[Tile]) -> bool:
    """Return whether the edges of tiles that are adjacent by their corners are alike, or are too few to tell."""
    (edges, seams), (middle, _) = (seam_difference(tiles, depth=depth) for depth in (0.0, 0.5))
    return seams < MIN_SEAMS or edges <= MAX_EDGE_RATIO * middle


def show_tissue_twice(tiles: list[Tile]) -> bool:
    """Return whether neighbors in a row or a column of tiles show the same tissue, but not where their corners say so.

    The corners are then in pixels of another resolution. Pairs are compared by the means of their columns, or rows.
    """
    return any(_overlap_elsewhere(tiles, axis) for axis in (0, 1))


def _overlap_elsewhere(tiles: list[Tile], axis: int) -> bool:
    """Return whether neighbors along x, axis 0, or y, axis 1, show the same tissue elsewhere than by their corners."""
    ordered = sorted(tiles, key=lambda tile: (tile.corner[1 - axis], tile.corner[axis]))
    pairs = [
        (int((second.corner - first.corner)[axis]), first.pixels.mean(axis), second.pixels.mean(axis))
        for first, second in pairwise(ordered)
        if first.corner[1 - axis] == second.corner[1 - axis] and first.pixels.shape == second.pixels.shape
    ]
    if not pairs:
        return False
    step = Counter(pair[0] for pair in pairs).most_common(1)[0][0]
    side = len(pairs[0][1])
    shifts = range(max(1, round(MIN_OVERLAP * side)), round((1 - MIN_OVERLAP) * side) + 1)
    near = [pair for pair in pairs if abs(pair[0] - step) <= 1 and len(pair[1]) == side]
    near = near[:: max(1, len(near) // NUM_OVERLAP_PAIRS)]
    if len(near) < MIN_SEAMS or len(shifts) < 2:
        return False
    ratios = []
    for shift in shifts:
        ends, starts = (np.stack([pair[index] for pair in near]) for index in (1, 2))
        ends, starts = ends[:, shift:], starts[:, :-shift]
        deviation = np.abs(ends - ends.mean(axis=1, keepdims=True)).mean()
        ratios.append(np.abs(ends - starts).mean() / deviation if deviation >= MIN_DEVIATION else np.inf)
    best = int(np.argmin(ratios))
    return bool(ratios[best] < MAX_OVERLAP_RATIO and abs(shifts[best] - step) > 1 + TOLERANCE * side)


def find_contradiction(tiles: list[Tile], is_stated: bool, downsample: float) -> str:
    """Return what pixels say against the places of a slide's tiles, "" if nothing; {} stands for the form of the names.

    Args:
        is_stated: Whether the names state the extent of the tiles, so that the downsample is not inferred.
        downsample: Pixels of the coordinates for one pixel of a tile.
    """
    if tiles and overlap_difference(tiles) > MAX_OVERLAP_DIFFERENCE:
        return "overlap by their places {}, but their pixels differ there"
    if not is_stated and show_tissue_twice(tiles):
        return "show the same tissue where they do not overlap by their places {}"
    if not is_stated and downsample != 1 and not fit_side_by_side(tiles):
        return "lie side by side by their places {}, but their edges do not fit"
    return ""


def complete_tiles(tiles: list[Tile], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a patch around each tile from the other tiles of the slide.

    The tile is in the center of the patch, or at an edge or a corner of it if tiles cover more of the patch then, as at
    the border of the tissue, where tiles are seldom cut.

    Args:
        tiles: Tiles with at least one side shorter than a patch.
        size: Side of a patch, pixels at the model's scale.

    Returns:
        The patches, uint8, (n, size, size, 3), and the fraction of each that tiles cover, float, (n,).
    """
    corners = np.array([tile.corner for tile in tiles])
    tile_sizes = np.array([tile.pixels.shape[1::-1] for tile in tiles])
    margin = size + tile_sizes.max()  # tiles that begin farther away do not reach the patch
    tree = cKDTree(corners)
    patches, covered = np.empty((len(tiles), size, size, 3), np.uint8), np.full(len(tiles), -1.0)
    for index, (tile, (width, height)) in enumerate(zip(tiles, tile_sizes, strict=True)):
        surroundings = np.full((3 * margin, 3 * margin, 3), WHITE, np.uint8)  # the tile begins at (margin, margin)
        is_covered = np.zeros(surroundings.shape[:2], bool)
        for other in tree.query_ball_point(corners[index], margin, p=np.inf):
            if other != index:
                x, y = corners[other] - corners[index] + margin
                other_width, other_height = tile_sizes[other]
                window = slice(y, y + other_height), slice(x, x + other_width)
                surroundings[window], is_covered[window] = tiles[other].pixels, True
        window = slice(margin, margin + height), slice(margin, margin + width)
        surroundings[window], is_covered[window] = tile.pixels, True
        for left, above in OFFSETS:
            x, y = margin - ((size - tile_sizes[index]) * (left, above)).astype(int)
            window = slice(y, y + size), slice(x, x + size)
            fraction = is_covered[window].mean()
            if fraction > covered[index]:
                patches[index], covered[index] = surroundings[window], fraction
    return patches, covered


def draw_mosaic(tiles: Iterable[np.ndarray], corners: np.ndarray) -> tuple[np.ndarray, float]:
    """Draw the tiles of one slide as one image, white where there are none.

    Args:
        tiles: uint8, (height, width, 3) each.
        corners: integers, (n, 2). x and y, pixels at the tiles' scale.

    Returns:
        The image, uint8, (height, width, 3), reduced to about MAX_MOSAIC_PX per side if it is larger; and its zoom, at
        most 1: pixels of the image for one pixel of a tile.
    """
    tiles = list(tiles)
    width, height = (corners + [tile.shape[1::-1] for tile in tiles]).max(0)
    zoom = min(1.0, MAX_MOSAIC_PX / max(width, height))  # coordinates in names can be arbitrarily large
    image = np.full((round(height * zoom) + 1, round(width * zoom) + 1, 3), WHITE[0], np.uint8)
    for tile, (left, top) in zip(tiles, (corners * zoom).astype(int), strict=True):
        tile_height, tile_width = (max(1, round(side * zoom)) for side in tile.shape[:2])
        resized = cv2.resize(tile, (tile_width, tile_height), interpolation=cv2.INTER_AREA)
        window = image[top : top + tile_height, left : left + tile_width]
        window[:] = resized[: window.shape[0], : window.shape[1]]
    return image, zoom
