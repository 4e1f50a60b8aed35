"""Decode one image file of any supported format to uint8 RGB, by its content."""

import io
import itertools
import math
import re
import struct
import warnings

import cv2
import numpy as np
from PIL import Image

from bcgan.slides.damage import PNG_MAGIC, find_damage, png_chunks
from bcgan.slides.kinds import HEAD, sniff
from bcgan.slides.scale import Mpp, png_mpp

# Errors are raised here with the file name, so OpenCV need not log them. OpenCV 4 and 5 name this function differently.
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)

FLAT_KINDS = ("png", "jpeg", "bmp", "webp", "jp2")
MAX_PIXELS = 2**26  # of an image that is decoded at once
MAX_PIXELS_PER_BYTE = 2_000  # no format compresses plain white more; a small file can claim gigabytes
WHITE = (255, 255, 255)
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, both byte orders
CZI_MAGIC = b"ZISRAWFILE"
JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7)  # SOF markers
JPEG_2000_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{34})", re.DOTALL)
JPEG_2000_SPACE = re.compile(rb"colr\x01..(.{4})", re.DOTALL)
SRGB, GRAY, SYCC = 16, 17, 18
PNG_COLOR_TYPE = 25  # its place in a PNG, after the bits of a sample
FULL_BITS = 16  # that 16-bit pixels have to use: glass is bright in any slide, so fewer bits mean a smaller range
WHITE_16 = 0xFF00  # least 16-bit value that is white in 8 bits
BRIGHT_PERCENTILE = 99.9  # used as the largest value, so that single hot pixels do not count


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode an image of any supported format at full resolution.

    Args:
        data: Content of a PNG, JPEG, BMP, WebP, JPEG 2000, TIFF (OME and ImageJ too), DICOM or a vendor's slide file.
        name: Of the image, for errors.

    Returns:
        uint8 RGB, (height, width, 3). 16-bit images are scaled to 8 bits, gray ones are repeated, and transparent ones
        are composited on white.

    Raises:
        ValueError: If it is not an image, is damaged, or claims more than MAX_PIXELS pixels.
    """
    return read_image(data, name)[0]


def read_image(data: bytes, name: str) -> tuple[np.ndarray, Mpp | None]:
    """Return the pixels of an image, and the resolution that it states; see `decode_image`."""
    if not is_container(data):
        return decode_flat(data, name), flat_mpp(data)
    from bcgan.slides.reader import open_image

    with open_image(data, name) as image:
        check_size(*image.size, name)
        return image.read_region(0, 0, 0, *image.size), image.mpp


def flat_mpp(data: bytes) -> Mpp | None:
    """Return the resolution that a PNG states, if it can be that of a microscope; `None` for other flat formats."""
    if data[:8] != PNG_MAGIC:
        return None
    for kind, content in png_chunks(data):
        if kind == b"IDAT":  # pHYs comes before the pixels
            break
        if kind == b"pHYs" and len(content) == 9:
            return png_mpp(*struct.unpack(">IIB", content))
    return None


def is_container(data: bytes) -> bool:
    """Return whether the first bytes are those of a TIFF, a DICOM or a CZI file, which may contain a pyramid."""
    return data[:4] in TIFF_MAGIC or data[128:132] == b"DICM" or data[:10] == CZI_MAGIC


def decode_flat(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG, JPEG, BMP, WebP or JPEG 2000 image; arguments, result and errors are those of `decode_image`."""
    if not data:
        raise ValueError(f"{name} is empty")
    kind = sniff(data[:HEAD])
    if kind in ("gif", "zip", "gzip", "bzip2", "xz", "tar"):
        raise ValueError(f"{name} is a {kind.upper()} file, which is no image format that is read here")
    if kind not in FLAT_KINDS and data[:2] != b"BM":  # OpenCV reads more, some of it at the wrong brightness
        raise ValueError(f"{name} is not an image of a format that is read here. Save it as PNG or TIFF")
    if data[:8] == PNG_MAGIC:
        pixels = math.prod(struct.unpack(">II", data[16:24])) if len(data) >= 24 else 0
    else:
        pixels = _claimed_pixels(data, name)
    _check_claim(pixels, data, name)
    # OpenCV fills missing parts, reports nothing, and allocates any length that a chunk of a PNG claims.
    if damage := find_damage(data, pixels):
        raise ValueError(f"{name} is truncated or damaged: {damage}. Download or export it again")
    if _is_wrong_in_opencv(data, kind, name):
        return _decode_with_pillow(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{name} cannot be decoded ({error.err})") from error
    if image is None:
        raise ValueError(f"{name} is not an image that OpenCV can decode")
    has_alpha = image.ndim == 3 and image.shape[2] == 4
    if image.ndim == 2 and kind == "png" and (clear := _transparent_gray(data)) is not None:
        image[image == clear] = np.iinfo(image.dtype).max  # OpenCV ignores it
    largest = None
    if image.dtype == np.uint16:
        largest = largest_value(image[..., :3], image[..., 3]) if has_alpha else largest_value(image)
    image = to_uint8(image, name, largest)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if has_alpha:
        return cv2.cvtColor(lay_on_white(image), cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_wrong_in_opencv(data: bytes, kind: str | None, name: str) -> bool:
    """Return whether OpenCV might decode an image of 8 bits to other colors than its format means.

    OpenCV takes the unused byte of a 32-bit BMP for opacity, and converts the YCC colors of JPEG 2000 as if they were
    YUV.
    """
    if kind == "jp2":
        return _jpeg_2000_bits(data, name) <= 8
    return data[:2] == b"BM"


def _transparent_gray(data: bytes) -> int | None:
    """Return the gray of a PNG that is transparent, from 0 to 255, of 16 bits to 65,535; `None` if none is."""
    if len(data) <= PNG_COLOR_TYPE or data[PNG_COLOR_TYPE] != 0:
        return None
    for kind, content in itertools.takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(data)):
        if kind == b"tRNS" and len(content) == 2:
            bits, gray = data[PNG_COLOR_TYPE - 1], int.from_bytes(content, "big")
            return gray if bits == 16 else gray * 255 // (2**bits - 1)
    return None


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    """Decode an image of 8 bits to uint8 RGB, (height, width, 3), on white where it is transparent.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return lay_on_white(np.asarray(image.convert("RGBA")))
    except Exception as error:  # a damaged file ends in whatever its format's reader raises
        raise ValueError(f"{name} cannot be decoded ({error}). Save it as PNG or TIFF") from error


def to_uint8(image: np.ndarray, name: str, largest: int | None) -> np.ndarray:
    """Return an image with 8 bits; of 16 bits the upper 8 are kept.

    Args:
        image: uint8 or uint16, of any shape.
        name: For errors.
        largest: `largest_value` of the complete image, if it is uint16.

    Raises:
        ValueError: If the type is another one, or the brightest of 16-bit pixels use fewer than FULL_BITS bits, so that
            the result would be too dark.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise ValueError(f"{name} has {image.dtype} pixels; only 8 and 16 bits are read. Convert it to 8 bits")
    if largest is not None and largest.bit_length() < FULL_BITS:
        raise ValueError(
            f"{name} has 16-bit pixels of which {largest.bit_length()} bits are used, so that it would be read too "
            "dark. Convert it to 8 bits, or scale it to all 16"
        )
    return (image >> 8).astype(np.uint8)


def largest_value(image: np.ndarray, alpha: np.ndarray | None = None) -> int | None:
    """Estimate the largest value of a uint16 image, its BRIGHT_PERCENTILE, from every n-th pixel.

    Values that are black or white in 8 bits do not count: frames, backgrounds and labels have them whatever bits the
    picture uses. Nor do transparent pixels.

    Args:
        image: Colors, (height, width) or (height, width, channels).
        alpha: Opacity, (height, width). Defaults to `None`: all is opaque.

    Returns:
        The value; `None` if none is left.
    """
    step = max(1, image.shape[0] // 512), max(1, image.shape[1] // 512)
    values = image[:: step[0], :: step[1]]
    if alpha is not None:
        values = values[alpha[:: step[0], :: step[1]] > 0]
    values = values[(values > 0) & (values < WHITE_16)]
    return int(np.percentile(values, BRIGHT_PERCENTILE)) if values.size else None


def lay_on_white(image: np.ndarray) -> np.ndarray:
    """Composite an image, uint8 (height, width, 4) with alpha last, on white: (height, width, 3), same color order."""
    alpha = image[..., 3]
    if alpha.min(initial=255) == 255:
        return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)
    alpha = alpha[..., None].astype(np.uint16)
    # Rounds exactly, as no multiple of 1/255 lies halfway between two integers.
    return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def check_size(width: int, height: int, name: str) -> None:
    """Raise ValueError if an image has too many pixels to be decoded at once."""
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width * height:,} pixels, and {MAX_PIXELS:,} are read at once. Cut it, or make it a tiled "
            "TIFF, which is read in blocks"
        )


def embedded_pixels(data: bytes) -> int:
    """Return the pixels that the header of an image inside a container claims, and its decoder allocates; 0 if none.

    Args:
        data: JPEG (with or without its tables), JPEG 2000, PNG or WebP.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_pixels(data)
    if data[:4] in (b"\x89PNG", b"RIFF"):
        return _claimed_pixels(data, "it")
    sizes = [struct.unpack(">8IH", match[1]) for match in JPEG_2000_SIZE.finditer(data)]
    return max((width * height * -(-components // 4) for width, height, *_, components in sizes), default=0)


def _jpeg_2000_bits(data: bytes, name: str) -> int:
    """Return the largest number of bits that a JPEG 2000 image states for a sample; 0 if it states none.

    Raises:
        ValueError: If it has fewer than 8, or a color space of ISO/IEC 15444-1 that would be taken for RGB.
    """
    if not (match := JPEG_2000_SIZE.search(data)):
        return 0
    components = data[match.end() :][: 3 * struct.unpack(">8IH", match[1])[-1]]  # each begins with bits less one
    bits = max(((value & 0x7F) + 1 for value in components[::3]), default=0)
    space = JPEG_2000_SPACE.search(data, 0, match.start())
    code = int.from_bytes(space[1], "big") if space else SRGB
    if code not in (SRGB, GRAY, SYCC) or (code == SYCC and bits > 8):
        raise ValueError(
            f"{name} has {bits}-bit colors of the JPEG 2000 color space {code}, which is not read. Save it as PNG"
        )
    if 0 < bits < 8:
        raise ValueError(f"{name} has JPEG 2000 samples of {bits} bits; 8 and 16 are read. Save it as PNG")
    return bits


def _jpeg_pixels(data: bytes) -> int:
    """Return the pixels that a JPEG's frame header claims, 0 without one; other bytes are skipped, as by libjpeg."""
    position = 2  # after the start-of-image marker
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 9:
        marker = data[position + 1]
        if marker in (0x00, 0xFF):  # no marker, or a fill byte
            position += 1
        elif marker in JPEG_FRAMES:
            # A frame header has its marker (2 bytes), length (2), bits per sample (1), height (2) and width (2).
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width * height
        elif 0xD0 <= marker <= 0xD9 or marker == 0x01:  # markers without a length
            position += 2
        else:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return 0


def _claimed_pixels(data: bytes, name: str) -> int:
    """Return the width times height that a header claims, to be checked before decoding; Pillow reads only headers."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as header:
            return math.prod(header.size)
    except Exception as error:  # a broken header ends in whatever its format's reader raises
        raise ValueError(f"{name} is not an image that can be read ({type(error).__name__})") from error


def _check_claim(pixels: int, data: bytes, name: str) -> None:
    """Raise ValueError if a header claims no pixels or more than the file can contain or than can be decoded."""
    if not 0 < pixels <= MAX_PIXELS_PER_BYTE * len(data):
        raise ValueError(f"{name} claims more than a file of {len(data)} bytes can contain, {pixels} pixels, or none")
    check_size(pixels, 1, name)
