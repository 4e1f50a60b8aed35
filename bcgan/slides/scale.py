"""Check the resolution of an image, and compute its scale relative to the model.

`tiff` and `reader` read the resolution from a file's metadata, `mpp_table` from the user's table.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from bcgan.errors import InputError

MIN_MPP, MAX_MPP = 0.02, 20.0  # microns a pixel that a microscope's or a scanner's image can have
MAX_ENLARGEMENT = 4.0  # times that an image may be enlarged to reach the model's scale
MAX_ENLARGEMENT_BY_TAGS = 2.0  # the same for tags of TIFF and PNG, which can be meant for printing
SINGLE_PATCH_MAX_RATIO = 1.5  # largest side of a single patch, in patches; a larger image is cut
SAME_SCALE = 1.1  # ratio of two scales up to which they are the same
OME_UNITS = {
    "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6,
    "in": 25_400.0, "ft": 304_800.0, "thou": 25.4, "pt": 25_400 / 72,
}  # fmt: skip
IMAGEJ_UNITS = {
    **OME_UNITS, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "micrometers": 1.0,
    "micrometres": 1.0, "millimeter": 1e3, "millimeters": 1e3, "millimetre": 1e3, "nanometers": 1e-3,
    "centimeters": 1e4, "inch": 25_400.0, "inches": 25_400.0, "nanometer": 1e-3, "centimeter": 1e4,
}  # fmt: skip
TIFF_UNITS = {2: (25_400.0, "dots an inch"), 3: (10_000.0, "pixels a centimetre")}  # microns in a ResolutionUnit
# `800x800 [0,100 400x400] (256x256)`, the second line: the scan and, in brackets, the part of it that is stored
APERIO_SIZES = re.compile(r"[^\n]*\n\s*(\d+)x(\d+)(?:\s*\[\d+,\d+[ ,](\d+)x(\d+)\])?")
REMEDY = "Give the true one with --mpp"


class Mpp(NamedTuple):
    """A resolution, microns per pixel."""

    x: float
    y: float
    source: str  # "user", "data set", "OME", "vendor", "DICOM", "ImageJ", "TIFF" or "PNG"
    stated: str = ""  # the value as the file has it, for messages
    other_size: str = ""  # of the image that the metadata describe, "<width>x<height>", if it is not that of this image


class Scale(NamedTuple):
    """The scale of an image relative to the model."""

    x: float  # pixels of the image for one of the model's
    y: float
    mpp: tuple[float, float] | None  # microns per pixel of the image; `None` if not known
    source: str  # of the mpp; "assumed" for a patch without a resolution, "unknown" if the model has no scale
    is_single_patch: bool  # whether the image is one patch, its center; else it is cut into patches


class ModelScale(NamedTuple):
    """The scale of a model's patches."""

    size: int  # side of a patch, pixels
    mpp: float | None  # microns per pixel of a patch; `None` if not known
    image_size: tuple[int, int] | None  # (width, height) of the training images, if all had the same
    downsample: float  # pixels of a training image for one of the patch


def make_mpp(x: object, y: object, source: str, stated: str = "") -> Mpp | None:
    """Return the resolution that a file states; `None` if it is no positive number. A missing y is equal to x."""
    try:
        x, y = float(x), float(y if y not in (None, "") else x)
    except (TypeError, ValueError):
        return None
    if not (0 < x < math.inf and 0 < y < math.inf):
        return None
    return Mpp(x, y, source, stated)


def ome_mpp(attributes: dict[str, str]) -> Mpp | None:
    """Return the resolution that the attributes of an OME Pixels element state; `None` without a readable one.

    Args:
        attributes: Such as {"PhysicalSizeX": "0.25", "PhysicalSizeXUnit": "µm"}; each unit defaults to µm, by the
            schema.
    """
    units = [OME_UNITS.get(attributes.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
    if None in units or "PhysicalSizeX" not in attributes:
        return None
    try:
        x = float(attributes["PhysicalSizeX"]) * units[0]
        y = float(attributes["PhysicalSizeY"]) * units[1] if "PhysicalSizeY" in attributes else x
    except ValueError:
        return None
    stated = [  # each with its unit, as a missing one is micrometres whatever the other is
        f"PhysicalSize{axis}={attributes[f'PhysicalSize{axis}']} {attributes.get(f'PhysicalSize{axis}Unit', 'µm')}"
        for axis in "XY"
        if f"PhysicalSize{axis}" in attributes
    ]
    return make_mpp(x, y, "OME", ", ".join(stated))


def tiff_mpp(x_resolution: float, y_resolution: float, unit: int) -> Mpp | None:
    """Return the resolution that a TIFF's XResolution, YResolution and ResolutionUnit state; `None` without a unit.

    Args:
        x_resolution, y_resolution: Pixels per unit; 0 if the tag is missing. A missing y is equal to x.
        unit: 2 for inches, 3 for centimeters; any other is none.
    """
    if unit not in TIFF_UNITS or not x_resolution > 0:
        return None
    microns, name = TIFF_UNITS[unit]
    y_resolution = y_resolution if y_resolution > 0 else x_resolution
    return make_mpp(microns / x_resolution, microns / y_resolution, "TIFF", f"{x_resolution:g} {name}")


def png_mpp(x_per_meter: int, y_per_meter: int, unit: int) -> Mpp | None:
    """Return the resolution that a PNG's chunk pHYs states; `None` without a unit, or if it is meant for printing."""
    if unit != 1 or not x_per_meter or not y_per_meter:
        return None
    mpp = Mpp(1e6 / x_per_meter, 1e6 / y_per_meter, "PNG", f"{x_per_meter} pixels a meter")
    return mpp if is_plausible(mpp) else None


def imagej_mpp(metadata: dict, x_resolution: float, y_resolution: float) -> Mpp | None:
    """Return the resolution that ImageJ's unit and a TIFF's XResolution and YResolution state; `None` if not readable.

    Args:
        metadata: As tifffile returns it, with the key unit, and yunit if it differs.
        x_resolution, y_resolution: Pixels per unit; 0 if the tag is missing. A missing y is equal to x.
    """
    units = []
    for key in ("unit", "yunit"):
        text = str(metadata.get(key, metadata.get("unit", ""))).strip()
        # ImageJ writes the micro sign as an escape, \u00B5.
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
        units.append(IMAGEJ_UNITS.get(text) or IMAGEJ_UNITS.get(text.lower()))
    if None in units or not x_resolution > 0:
        return None
    y_resolution = y_resolution if y_resolution > 0 else x_resolution
    stated = f"{x_resolution:g} pixels a {metadata.get('unit')}"
    return make_mpp(units[0] / x_resolution, units[1] / y_resolution, "ImageJ", stated)


def is_plausible(mpp: Mpp) -> bool:
    """Return whether an image of a microscope or a scanner can have a resolution; those meant for printing cannot."""
    return not mpp.other_size and min(mpp.x, mpp.y) >= MIN_MPP and max(mpp.x, mpp.y) <= MAX_MPP


def doubt_size(mpp: Mpp | None, size: tuple[int, int], described: Sequence[tuple[int, int]]) -> Mpp | None:
    """Return a resolution, marked as that of another image unless the metadata describe one of this size.

    Programs that resize or crop an image may keep its metadata, and nothing tells which of both was done.

    Args:
        mpp: That the metadata state; `None` if they state none.
        size: (width, height) of this image, pixels.
        described: Sizes that the metadata name. Sides may be swapped, as in a turned image, and differ by 1 %.
    """
    if mpp is None or not described or any(map(partial(_are_close, size), described)):
        return mpp
    return mpp._replace(other_size="{}x{}".format(*described[-1]))


def _are_close(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether the sides of two images are the same but for 1 %, in either order."""
    return all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(sorted(size), sorted(other), strict=True))


def find_aperio_sizes(description: str) -> list[tuple[int, int]]:
    """Return the sizes, pixels, that an Aperio description names first: of the scan and of the part that is stored."""
    match = APERIO_SIZES.match(description) if description.startswith("Aperio") else None
    sides = [int(side) for side in match.groups() if side] if match else []
    return list(zip(sides[::2], sides[1::2], strict=True))


def contradicts(stated: Mpp | None, mpp: float) -> bool:
    """Return whether a file states a resolution that can be true and is not `mpp`, microns per pixel."""
    if stated is None or not is_plausible(stated):
        return False
    return max(abs(math.log(side / mpp)) for side in (stated.x, stated.y)) > math.log(SAME_SCALE)


def check_believable(mpp: Mpp, name: str, model_mpp: float | None = None) -> None:
    """Raise ValueError if the resolution that a file states cannot be true, such as a program's default.

    Args:
        name: Of the image, for the message.
        model_mpp: Microns per pixel of the model; `None` if not known. An image much coarser than that is rejected.
    """
    max_enlargement = MAX_ENLARGEMENT_BY_TAGS if mpp.source in ("TIFF", "PNG") else MAX_ENLARGEMENT
    max_mpp = MAX_MPP if model_mpp is None else min(MAX_MPP, max_enlargement * model_mpp)
    stated = f" ({mpp.stated})" if mpp.stated else ""
    if mpp.other_size:
        raise ValueError(
            f"{name} states {mpp.x:.4g} microns a pixel in its {mpp.source} metadata{stated}, which describe an image "
            f"of {mpp.other_size} pixels: another program resized or cropped it. {REMEDY}"
        )
    if min(mpp.x, mpp.y) >= MIN_MPP and max(mpp.x, mpp.y) <= max_mpp:
        return
    wrong = min(mpp.x, mpp.y) if min(mpp.x, mpp.y) < MIN_MPP else max(mpp.x, mpp.y)
    raise ValueError(
        f"{name} states {wrong:.4g} microns a pixel in its {mpp.source} metadata{stated}, which cannot be "
        f"true: programs write such values by default. {REMEDY}"
    )


def resolve_scale(size: tuple[int, int], stated: Mpp | None, model: ModelScale, name: str) -> Scale:
    """Return the scale of an image relative to the model.

    Args:
        size: (width, height) of the image, pixels.
        stated: Resolution of the image, as the user gives it, else as the file states it.
        name: Of the image, for errors.

    Raises:
        ValueError: If the stated resolution cannot be true, if the image would be cut into patches and no resolution is
            known, or if the user gives one and the model has none of its own.
    """
    is_training_size = model.image_size is not None and size == tuple(model.image_size)
    assumed = model.downsample
    if model.mpp is None:
        if stated and stated.source == "user":
            raise ValueError(
                f"{name}: --mpp cannot be used: the model does not know its own scale. Leave --mpp out, or train and "
                "export the model with data.mpp"
            )
        if not is_training_size and _is_cut(size, assumed, assumed, model.size):
            trained_on = "patches"
            if model.image_size:
                trained_on = f"images of {model.image_size[0]}x{model.image_size[1]} pixels"
            raise ValueError(
                f"{name} has {size[0]}x{size[1]} pixels and would be cut into patches, but the model, trained on "
                f"{trained_on}, knows no scale. Give images of that size, or train and export the model with data.mpp"
            )
        return Scale(assumed, assumed, None, "unknown", True)
    if stated is None:
        if not is_training_size and _is_cut(size, assumed, assumed, model.size):
            raise ValueError(
                f"{name} has {size[0]}x{size[1]} pixels and would be cut into patches, but states no resolution. Give "
                "its microns per pixel with --mpp"
            )
        mpp = model.mpp / assumed
        return Scale(assumed, assumed, (mpp, mpp), "assumed", True)
    if stated.source == "user":
        if max(stated.x, stated.y) > MAX_ENLARGEMENT * model.mpp:
            raise ValueError(
                f"{name} would be enlarged {max(stated.x, stated.y) / model.mpp:.0f} times by --mpp {stated.x:g}, and "
                f"at most {MAX_ENLARGEMENT:g} times are read. Check its microns per pixel"
            )
    else:
        check_believable(stated, name, model.mpp)
    x, y = model.mpp / stated.x, model.mpp / stated.y
    has_training_scale = max(abs(math.log(step / assumed)) for step in (x, y)) < math.log(SAME_SCALE)
    is_single_patch = (is_training_size and has_training_scale) or not _is_cut(size, x, y, model.size)
    return Scale(x, y, (stated.x, stated.y), stated.source, is_single_patch)


def _is_cut(size: tuple[int, int], x: float, y: float, patch_size: int) -> bool:
    """Return whether an image is larger than a single patch; x and y are pixels of the image for one of the model's."""
    return max(round(size[0] / x), round(size[1] / y)) > SINGLE_PATCH_MAX_RATIO * patch_size


def user_mpp(mpp: float | None) -> Mpp | None:
    """Return the resolution that a user gives, the same for x and y; `None` for `None`, which means none.

    Raises:
        InputError: If it is not a positive number.
    """
    if mpp is None:
        return None
    if not 0 < mpp < math.inf:
        raise InputError(f"mpp: {mpp} is no number of microns per pixel. Give a positive one, or none.")
    return Mpp(mpp, mpp, "user")
