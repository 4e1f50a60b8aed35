"""Decode the strips and tiles of a TIFF page, and convert its samples to RGB by what the page states of them."""

import math

import cv2
import numpy as np
import tifffile

from bcgan.slides.damage import find_damage
from bcgan.slides.decode import MAX_PIXELS, MAX_PIXELS_PER_BYTE, embedded_pixels, largest_value, lay_on_white, to_uint8

# PLAIN_CODECS decode to the size that the TIFF states. IMAGE_CODECS have their own headers, which are checked first.
PLAIN_CODECS = (
    "NONE", "CCITTRLE", "CCITT_T4", "CCITT_T6", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "LZMA", "ZSTD",
    "ZSTD_DEPRECATED",
)  # fmt: skip
IMAGE_CODECS = (
    "OJPEG", "JPEG", "ALT_JPEG", "JPEG_LOSSY", "JPEG2000", "JPEG_2000_LOSSY", "APERIO_JP2000_YCBC",
    "APERIO_JP2000_RGB", "PNG", "WEBP", "WEBP_DEPRECATED",
)  # fmt: skip
MAX_CLAIM_RATIO = 2  # pixels that a strip's or a tile's own header may claim, for one that the TIFF states
READABLE = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR", "SEPARATED")
# YCbCrCoefficients, and the values of black and white in ReferenceBlackWhite; what TIFFs of JPEG's colors state
YCBCR_TAGS = {529: np.array([0.299, 0.587, 0.114]), 532: np.array([0, 255, 128, 255, 128, 255])}
PREMULTIPLIED, TRANSPARENCY = 1, 2  # ExtraSamples that are alpha; 0 is anything else, which is not shown


def check_layout(page: tifffile.TiffPage, name: str, file_size: int) -> None:
    """Check that the pixels can be read correctly, and that headers do not claim more than the file can contain.

    Raises:
        ValueError: If they cannot, or do.
    """
    chunk = math.prod(page.chunks)
    if chunk > 4 * MAX_PIXELS or page.imagewidth * page.imagelength <= 0:
        raise ValueError(f"{name} has strips or tiles of {chunk:,} values, too many to be read at once")
    if not page.is_tiled and page.imagewidth * page.imagelength > MAX_PIXELS_PER_BYTE * file_size:
        raise ValueError(f"{name} claims more pixels than a file of {file_size} bytes can contain")
    kind, samples = _color_type(page), page.samplesperpixel
    if kind not in READABLE or samples not in (1, 2, 3, 4) or (kind == "SEPARATED" and samples != 4):
        raise ValueError(f"{name} is a TIFF of {kind} pixels with {samples} samples. Save it as RGB")
    if kind.startswith("MINIS") and samples == 4 and not _alpha_type(page, samples):
        raise ValueError(f"{name} has 4 channels that are not red, green and blue. Give a bright-field image in RGB")
    codec = getattr(page.compression, "name", str(page.compression))
    if codec not in PLAIN_CODECS + IMAGE_CODECS:
        raise ValueError(f"{name} has {codec} compression, which is not read. Save it with JPEG or Deflate")
    subsampling = tuple(page.tags.valueof(530, default=(1, 1)))
    if kind == "YCBCR" and codec not in IMAGE_CODECS and (subsampling != (1, 1) or not _has_usual_ycbcr(page)):
        raise ValueError(
            f"{name} has YCbCr pixels without JPEG compression that are subsampled or not of the full range. Save it "
            "as RGB"
        )
    if page.dtype not in (np.uint8, np.uint16, np.bool_):
        raise ValueError(f"{name} has {page.dtype} pixels; only 8 and 16 bits are read. Convert it to 8 bits")


def decode_segment(page: tifffile.TiffPage, data: bytes | None, number: int) -> np.ndarray | None:
    """Decode strip or tile `number` of a page; `None` if it is empty.

    Raises:
        ValueError: If its own header claims many more pixels than the TIFF states, or a part of it is missing.
    """
    if data is None:
        return None
    if getattr(page.compression, "name", "") in IMAGE_CODECS:
        high, wide = page.tilelength, page.tilewidth
        if not page.is_tiled:
            high, wide = min(page.rowsperstrip, page.imagelength), page.imagewidth
        claimed = max(embedded_pixels(part) for part in (data, page.jpegtables, page.jpegheader) if part)
        if claimed > MAX_CLAIM_RATIO * high * wide:
            raise ValueError(f"a strip or tile of {high}x{wide} pixels claims {claimed:,}")
        if page.compression != 6 and (damage := find_damage(data, high * wide)):  # old JPEG often has no end
            raise ValueError(f"a strip or tile is not whole: {damage}")
    segment, _, shape = page.decode(data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    if segment is None:
        return None
    return segment.reshape(shape)[0]


def largest_color(pixels: np.ndarray, page: tifffile.TiffPage) -> int | None:
    """Return `bcgan.slides.decode.largest_value` of decoded uint16 pixels, (height, width, samples), without alpha."""
    alpha = pixels[..., -1] if _alpha_type(page, pixels.shape[2]) else None
    return largest_value(pixels[..., : _count_colors(page, pixels.shape[2])], alpha)


def to_rgb(pixels: np.ndarray, page: tifffile.TiffPage, name: str, largest: int | None) -> np.ndarray:
    """Convert decoded pixels to uint8 RGB, (height, width, 3), by the photometric interpretations of `check_layout`.

    Args:
        pixels: bool, uint8 or uint16, (height, width, samples).
        page: States what the samples mean.
        name: For errors.
        largest: `largest_color` of the complete image, if it has 16 bits. Defaults to that of `pixels` for `None`.

    Raises:
        ValueError: If 16-bit pixels use too few bits.
    """
    samples, kind = pixels.shape[2], _color_type(page)
    if kind == "PALETTE":
        palette = page.colormap.T
        palette = (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)
        return palette[pixels[..., 0].astype(np.intp)]  # pixels of one bit would select rows as a mask
    if pixels.dtype == np.uint16 and largest is None:
        largest = largest_color(pixels, page)
    pixels = to_uint8(_scale_few_bits(pixels, page), name, largest)
    colors = _to_colors(pixels[..., : _count_colors(page, samples)], kind, page)
    alpha_type = _alpha_type(page, samples)
    if alpha_type == PREMULTIPLIED:  # the color that the picture adds to the white behind it
        return cv2.add(colors, cv2.cvtColor(255 - pixels[..., -1], cv2.COLOR_GRAY2RGB))
    return lay_on_white(np.dstack([colors, pixels[..., -1]])) if alpha_type else colors


def _to_colors(pixels: np.ndarray, kind: str, page: tifffile.TiffPage) -> np.ndarray:
    """Convert the samples of a color, uint8 (height, width, 1, 3 or 4), to RGB."""
    if kind == "MINISWHITE":
        pixels = 255 - pixels
    if kind == "YCBCR" and getattr(page.compression, "name", "") not in IMAGE_CODECS:  # these decode to RGB
        return cv2.cvtColor(np.ascontiguousarray(pixels[..., (0, 2, 1)]), cv2.COLOR_YCrCb2RGB)
    if kind == "SEPARATED":
        # Samples are cyan, magenta, yellow and black; `ink` is the light that each leaves.
        ink = 1 - pixels.astype(np.float32) / 255
        return np.rint(255 * ink[..., :3] * ink[..., 3:]).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _scale_few_bits(pixels: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """Return pixels of 1 to 7 bits, which are decoded as they are, as uint8 from 0 to 255, and others unchanged."""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    bits = page.bitspersample
    if isinstance(bits, tuple) or bits >= 8:  # tifffile scales several unequal numbers of bits itself
        return pixels
    table = np.rint(np.arange(256) * 255 / (2**bits - 1)).clip(0, 255).astype(np.uint8)
    return table[pixels]


def _has_usual_ycbcr(page: tifffile.TiffPage) -> bool:
    """Return whether YCbCr samples use all values from 0 to 255, by JPEG's formula; a page that states nothing does."""
    for tag, usual in YCBCR_TAGS.items():
        values = np.ravel(page.tags.valueof(tag, default=usual)).astype(float)
        if len(values) == 2 * len(usual):  # rational numbers: numerators and denominators
            values = values[::2] / np.maximum(values[1::2], 1)
        if len(values) != len(usual) or not np.allclose(values, usual, rtol=0.01):
            return False
    return True


def _color_type(page: tifffile.TiffPage) -> str:
    """Return the name of the photometric interpretation."""
    return getattr(page.photometric, "name", str(page.photometric))


def _count_colors(page: tifffile.TiffPage, samples: int) -> int:
    """Return how many of the samples are the color: gray, RGB or CMYK; what follows is alpha or something else."""
    return 4 if _color_type(page) == "SEPARATED" else 3 if samples >= 3 else 1


def _alpha_type(page: tifffile.TiffPage, samples: int) -> int:
    """Return PREMULTIPLIED or TRANSPARENCY if the last of the samples is alpha, else 0."""
    if samples not in (2, 4) or not page.extrasamples:
        return 0
    return int(page.extrasamples[-1]) if page.extrasamples[-1] in (PREMULTIPLIED, TRANSPARENCY) else 0
