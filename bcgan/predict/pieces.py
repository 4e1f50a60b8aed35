"""Tiles of a slide that are smaller than a patch: what the others show around each completes it."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from bcgan.data.records import place_of
from bcgan.predict.images import ENLARGED
from bcgan.preprocess import images

ENOUGH = 0.75  # of a patch's area that has to lie on tiles
ALIKE = 12.0  # grey levels by which tiles may differ where they overlap: scaled, they differ by some
# Of what a patch shows beside a tile, how much lies left of it and above: half, unless more of it is known elsewhere.
BEFORE = ((0.5, 0.5), (0.5, 0), (0.5, 1), (0, 0.5), (1, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))


class Piece(NamedTuple):
    """patch: what is judged, uint8, (size, size, 3). tile: what the file itself shows of it, at the model's scale."""

    patch: np.ndarray
    tile: np.ndarray


class Completed(NamedTuple):
    """pieces: by the number of the file. small: how many files are smaller than a patch. unlike: grey levels by which
    they differ where they overlap, on average: above ALIKE they do not lie where their names say."""

    pieces: dict[int, Piece]
    small: int
    unlike: float


def complete(paths: list[Path], longest: list[int], scale: float, size: int) -> Completed:
    """The files of one slide that are smaller than a patch, and of which the others show enough around them.

    Args:
        longest: the longer side of each, pixels, as `lengths` reads them.
        scale: float. How many of the files' pixels make one of the model's.
        size: int. Side of a patch, pixels at the model's scale.
    """
    tiles = {}
    for number, (path, length) in enumerate(zip(paths, longest, strict=True)):
        if not 0 < length < size * scale or scale < 1 / ENLARGED:  # too blurred, which is told by `images.scaled`
            continue
        with suppress(OSError, ValueError):  # told where it is read by itself
            tile = images.decode(path.read_bytes(), str(path))
            if max(tile.shape[:2]) < size * scale:  # whatever its header claims
                tiles[number] = placed(tile, place_of(path.stem)[:2], scale)
    if not tiles:
        return Completed({}, 0, 0.0)
    small, places = [tile for tile, _ in tiles.values()], np.array([place for _, place in tiles.values()])
    patches, covered, unlike = around(small, places, size)
    found = {
        number: Piece(patch, tile)
        for number, patch, tile, share in zip(tiles, patches, small, covered, strict=True)
        if share >= ENOUGH
    }
    return Completed(found, len(tiles), unlike)


def lengths(paths: list[Path]) -> list[int]:
    """The longer side of each image, by its header, pixels; 0 where that cannot be read."""
    found = []
    for path in paths:
        found.append(0)
        # A broken header ends in whatever its format's reader raises.
        with suppress(Exception), warnings.catch_warnings(action="ignore"), Image.open(path) as header:
            found[-1] = max(header.size)
    return found


def placed(tile: np.ndarray, place: tuple[int, int], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A tile of a slide at the model's scale, and where it begins there: what lies side by side still does.

    Args:
        tile: uint8, (height, width, 3).
        place: x and y of its upper left corner, in its own pixels.
        scale: float. How many of these make one of the model's.
    """
    first = np.array(place)
    begin, end = ((corner / scale).round().astype(int) for corner in (first, first + tile.shape[1::-1]))
    width, height = np.maximum(end - begin, 1)
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(tile, (width, height), interpolation=how), begin


def around(tiles: list[np.ndarray], places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A patch around each tile of a slide, the other tiles giving what lies there.

    The tile is in its middle, or at the side or in the corner where more of the patch lies on tiles: what surrounds a
    slide's tissue is seldom cut, and the patch stays within.

    Args:
        tiles: uint8, (height, width, 3) each, smaller than a patch.
        places: integers, (n, 2). x and y of each.
        size: int. Side of a patch, pixels.

    Returns:
        The patches, uint8, (n, size, size, 3), glass where there are no tiles; the share of each that lies on tiles,
        float, (n,); and the mean difference of tiles where they overlap, grey levels.
    """
    sides = np.array([tile.shape[1::-1] for tile in tiles])
    reach = size + sides.max()  # beyond a tile's corner nothing is seen that begins farther away
    tree = cKDTree(places)
    patches, covered = np.empty((len(tiles), size, size, 3), np.uint8), np.full(len(tiles), -1.0)
    differences, overlaps = 0, 0
    for number, (tile, (width, height)) in enumerate(zip(tiles, sides, strict=True)):
        field = np.full((3 * reach, 3 * reach, 3), images.WHITE, np.uint8)  # the tile begins at (reach, reach)
        known = np.zeros(field.shape[:2], bool)
        for other in tree.query_ball_point(places[number], reach, p=np.inf):
            if other != number:
                (x, y), (wide, tall) = places[other] - places[number] + reach, sides[other]
                field[y : y + tall, x : x + wide], known[y : y + tall, x : x + wide] = tiles[other], True
        own = slice(reach, reach + height), slice(reach, reach + width)
        twice = known[own]
        differences += np.abs(field[own][twice].astype(int) - tile[twice]).sum()
        overlaps += 3 * twice.sum()
        field[own], known[own] = tile, True
        for right, down in BEFORE:
            x, y = reach - ((size - sides[number]) * (right, down)).astype(int)
            where = slice(y, y + size), slice(x, x + size)
            if (share := known[where].mean()) > covered[number]:
                patches[number], covered[number] = field[where], share
    return patches, covered, float(differences / max(overlaps, 1))
