"""What a person points at: files, folders, patterns and lists become patches of a known size and place."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bcgan.data.histology_phantom import tissue
from bcgan.data.records import IMAGE_SUFFIXES
from bcgan.errors import InputError
from bcgan.preprocess import images

# Whole-slide formats, which OpenSlide reads; a tiled TIFF is one too (bcgan/predict/slides.py).
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")
KNOWN = (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES)
LEAST = 0.75  # of a patch's side that an image's longer one must have: patches at a slide's edge are narrow, not small
ENLARGED = 8  # times that an image may be enlarged to come to the model's scale
WHOLE = 1.5  # an image up to so many times a patch's side is one patch; a larger one is tiled
GLASS = 220  # a pixel whose darkest channel is above this is empty glass
FEW = 2**19  # bytes: some 80 patches, upon which OpenVINO has caught up with LiteRT, which starts sooner
TISSUE = 0.2  # least share of tissue of a tile that is scored
BROADEST = 4096  # pixels of the longer side of a slide put together from patches
CHECKED = 256  # patches on which two forms of a network are compared


class Tiles(NamedTuple):
    """patches: uint8, (n, size, size, 3). places: (n, 2), x and y at the model's scale. scale: the file's pixels for
    each of those. image: to look at, uint8, (height, width, 3). whole: the image is one patch. shown: the image's
    pixels for each of the model's. side: of the square at each place that a patch stands for, pixels at the model's
    scale."""

    patches: np.ndarray
    places: np.ndarray
    scale: float
    image: np.ndarray
    whole: bool
    shown: float
    side: float


def find(arguments: Iterable[str], listed: Iterable[str] = ()) -> list[Path]:
    """The files that arguments name: files, folders (searched through), glob patterns; "-" stands for `listed`.

    Raises:
        InputError: an argument names nothing.
    """
    found = []
    for argument in arguments:
        if argument == "-":
            found += [Path(line.rstrip("\r\n")) for line in listed if line.strip()]
            continue
        path = Path(argument)
        if path.is_dir():
            seen = (one for one in path.rglob("*") if one.suffix.lower() in KNOWN and not one.name.startswith("."))
            inside = sorted(one for one in seen if one.is_file())
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(map(Path, glob.iglob(argument, recursive=True)))  # noqa: PTH207, Path.glob knows no absolute pattern
        if not inside:
            raise InputError(f"{argument}: no image there. Give files ({', '.join(KNOWN)}), folders or patterns.")
        found += inside
    if not found:
        raise InputError("No image was named. Give files, folders or patterns, or - for a list on standard input.")
    return found


def few(paths: list[Path]) -> bool:
    """Whether these files are so small, all together, that starting takes longer than judging them."""
    return sum(path.stat().st_size for path in paths if path.is_file()) < FEW


def to_check(folder: str | None, size: int) -> np.ndarray:
    """Patches to hold two forms of a network against each other: the first of a folder, or phantom tissue; uint8."""
    if folder is None:
        return tissue.draw(CHECKED, size)[0]
    return np.stack([read_patch(path, size) for path in find([folder])[:CHECKED]])


def read(path: Path, size: int, scale: float) -> Tiles:
    """`cut` of a file.

    Raises:
        ValueError, OSError: the file is no readable image.
    """
    return cut(path.read_bytes(), str(path), size, scale)


def cut(data: bytes, name: str, size: int, scale: float) -> Tiles:
    """Decode an image and cut it into patches.

    Args:
        data: bytes. A PNG, JPEG or TIFF.
        name: string. Of the image, for errors.
        size: int. Side of a patch, pixels at the model's scale.
        scale: float. How many of the image's pixels make one of the model's.

    Raises:
        ValueError: it is no readable image, or too large or too small at the model's scale.
    """
    original = images.decode(data, name)
    image = scaled(original, scale, name)
    height, width = image.shape[:2]
    if max(height, width) < LEAST * size:
        raise ValueError(
            f"{name} has {width}x{height} pixels at the model's scale, where a patch has {size}x{size}: too little to "
            "judge. Check its microns per pixel, or give larger images"
        )
    if max(image.shape[:2]) <= WHOLE * size:
        return Tiles(images.fit(image, size, size)[None], np.zeros((1, 2), int), scale, original, True, scale, size)
    return Tiles(*tiled(image, size), scale, original, False, scale, size)


def scaled(image: np.ndarray, scale: float, name: str) -> np.ndarray:
    """The image with `scale` of its pixels for each of the result's.

    Raises:
        ValueError: the result is larger than LARGEST_IMAGE pixels, or ENLARGED by too much.
    """
    if scale == 1:
        return image
    if scale < 1 / ENLARGED:
        raise ValueError(f"{name} would be enlarged {1 / scale:.0f} times. Check its microns per pixel")
    height, width = (max(1, round(side / scale)) for side in image.shape[:2])
    if height * width > images.LARGEST_IMAGE:
        raise ValueError(
            f"{name} has {width}x{height} pixels at the model's scale, more than {images.LARGEST_IMAGE}. "
            "Check its microns per pixel, or cut it"
        )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC)


def tiled(image: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The patches of an image at the model's scale that hold tissue, and their places, x and y."""
    below, right = (-side % size for side in image.shape[:2])  # glass, to a multiple of the patches' side
    padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=images.WHITE)
    rows, columns = padded.shape[0] // size, padded.shape[1] // size
    tiles = padded.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
    places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * size
    tissue = (tiles.min(-1) < GLASS).mean((1, 2)) >= TISSUE
    return tiles[tissue], places[tissue]


def mosaic(tiles: Iterable[np.ndarray], places: np.ndarray) -> tuple[np.ndarray, float]:
    """The patches or tiles of one slide as an image, glass where there are none, and its pixels for each of theirs.

    Args:
        tiles: uint8, (height, width, 3) each.
        places: integers, (n, 2). x and y, pixels at the tiles' own scale.
    """
    tiles = list(tiles)
    width, height = (places + [tile.shape[1::-1] for tile in tiles]).max(0)
    shown = min(1.0, BROADEST / max(width, height))  # places are whatever names say
    image = np.full((round(height * shown) + 1, round(width * shown) + 1, 3), images.WHITE[0], np.uint8)
    for tile, (left, top) in zip(tiles, (places * shown).astype(int), strict=True):
        tall, wide = (max(1, round(side * shown)) for side in tile.shape[:2])
        where = image[top : top + tall, left : left + wide]
        where[:] = cv2.resize(tile, (wide, tall), interpolation=cv2.INTER_AREA)[: where.shape[0], : where.shape[1]]
    return image, shown


def read_patch(path: Path, size: int, scale: float = 1.0) -> np.ndarray:
    """A file that is one patch; uint8, (size, size, 3).

    Args:
        size, scale: as `cut` takes them.

    Raises:
        InputError: it is larger, or no readable image.
    """
    try:
        tiles = read(path, size, scale)
    except (OSError, ValueError) as error:
        raise InputError(f"{error}. Give images that can be read.") from error
    if not tiles.whole:
        height, width = tiles.image.shape[:2]
        side = round(size * scale)
        raise InputError(
            f"{path} has {width}x{height} pixels, and a patch {side}x{side}. Check its microns per pixel, cut it, "
            "or use bcgan predict."
        )
    return tiles.patches[0]
