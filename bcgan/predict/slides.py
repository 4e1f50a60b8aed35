"""Whole slides, read by OpenSlide (requirements-slides.txt) in blocks: never more than a block at full resolution."""

import html
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from bcgan import progress
from bcgan.errors import InputError
from bcgan.predict.images import SLIDE_SUFFIXES, Tiles, tiled
from bcgan.preprocess.images import LARGEST_IMAGE

TILES = 322  # the tag of a TIFF that says how wide its tiles are
OME = {"nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "mm": 1e3, "cm": 1e4}  # microns in a unit of PhysicalSizeX
BLOCK = 2048  # pixels of a slide's level, the side of what is read at once


def is_slide(path: Path) -> bool:
    """Whether OpenSlide is to read it: by its name, or a TIFF that it knows; where it is not installed, a tiled one."""
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    if not path.is_file():
        return False
    try:
        from openslide import OpenSlide
    except ImportError:
        # Not by Image.open, which takes large slides for bombs; a broken header ends in whatever its reader raises.
        with suppress(Exception), TiffImageFile(path) as picture:
            return TILES in picture.tag_v2
        return False
    return OpenSlide.detect_format(path) is not None


def read(path: Path, size: int, model_microns: float | None, microns: float | None = None) -> Tiles:
    """The patches of a slide that hold tissue.

    The slide is brought to the model's scale block by block, from the level of its pyramid that is next finer; at 4
    microns per pixel a slide of 100,000 pixels a side is one of 6,000.

    Args:
        size: int. Side of a patch, pixels at the model's scale.
        model_microns: float. Microns per pixel of the model's patches; None: not known, and the slide is read as it is.
        microns: float. Of the slide, in place of what the slide says.

    Returns:
        Tiles. Its image is the slide at the model's scale; places times scale are the slide's own pixels, counted from
        where the scan begins in formats that say so, as QuPath counts them.

    Raises:
        ValueError: OpenSlide cannot read it, it does not say its resolution and none was given, or it is larger at the
            model's scale than LARGEST_IMAGE pixels.
        InputError: OpenSlide is not installed.
    """
    try:
        import openslide
    except ImportError as error:
        raise InputError(f"{path} is a whole slide. Run: pip install -r requirements-slides.txt") from error
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    try:
        with openslide.OpenSlide(path) as slide:
            known = microns or _microns(slide.properties)
            if model_microns and not known:
                raise ValueError(f"{path} does not say its microns per pixel; give them with --mpp")
            scale = model_microns / known if model_microns else 1.0
            image = _at_scale(slide, scale, path)
    except openslide.OpenSlideError as error:
        raise ValueError(f"{path} cannot be read by OpenSlide ({error})") from error
    return Tiles(*tiled(image, size), scale, image, False, 1.0, size)


def _microns(properties: Mapping[str, str]) -> float | None:
    """Microns per pixel, as OME-TIFF describes them, else as OpenSlide found them, which takes a TIFF's dots per inch
    for its scale; None: the slide does not say."""
    described = properties.get("tiff.ImageDescription", "")
    size, unit = (re.search(rf'\bPhysicalSizeX{what}="([^"]*)"', described) for what in ("", "Unit"))
    found = math.nan
    with suppress(KeyError, ValueError, TypeError):
        found = float(size[1]) * (OME[html.unescape(unit[1])] if unit else 1)
    if not 0 < found < math.inf:
        found = float(properties.get("openslide.mpp-x", 0))
    return found or None


def _at_scale(slide, scale: float, path: Path) -> np.ndarray:
    # Some formats place the scan somewhere in a larger, empty slide.
    bounds = [slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    x, y, *dimensions = map(int, bounds) if all(bounds) else (0, 0, *slide.dimensions)
    width, height = (max(1, round(side / scale)) for side in dimensions)
    if width * height > LARGEST_IMAGE:
        raise ValueError(f"{path} has {width}x{height} pixels at the model's scale, more than {LARGEST_IMAGE}")
    level = slide.get_best_level_for_downsample(scale)
    finer = scale / slide.level_downsamples[level]  # pixels of that level for one of the model's
    step = max(1, int(BLOCK / finer))
    image = np.empty((height, width, 3), np.uint8)
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    with progress.bar(len(corners), path.name, "block") as bar:
        for top, left in corners:
            tall, wide = min(step, height - top), min(step, width - left)
            place = x + round(left * scale), y + round(top * scale)
            region = slide.read_region(place, level, (max(1, round(wide * finer)), max(1, round(tall * finer))))
            pixels = np.asarray(region, np.float32)
            opaque = pixels[..., 3:] / 255  # where nothing was scanned there is nothing: white, as empty glass
            pixels = pixels[..., :3] * opaque + 255 * (1 - opaque)
            how = cv2.INTER_AREA if finer > 1 else cv2.INTER_CUBIC
            found = cv2.resize(pixels, (wide, tall), interpolation=how)
            image[top : top + tall, left : left + wide] = np.clip(np.rint(found), 0, 255)
            bar.update()
    return image
