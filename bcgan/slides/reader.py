"""Open any image by its content: flat formats by OpenCV, TIFF by tifffile, vendors' slides and DICOM by OpenSlide."""

import io
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bcgan.slides.base import SlideImage
from bcgan.slides.damage import find_damage
from bcgan.slides.decode import MAX_PIXELS, TIFF_MAGIC, decode_flat, flat_mpp, is_container, lay_on_white
from bcgan.slides.files import ImageFile, printable, sniff
from bcgan.slides.scale import Mpp, doubt_size, find_aperio_sizes, make_mpp

HEAD_BYTES = 512  # that identify the type of a file
MAX_FLAT_BYTES = 2**28
NAMED_FORMATS = (".mrxs", ".vms", ".vmu")  # formats that OpenSlide knows by their names alone
BLOCK_PX = 2048
VENDORS = ("svs", "scn", "ndpi", "bif", "philips")  # by tifffile's names, whose TIFF files OpenSlide reads


class FlatImage(SlideImage):
    """An image that is decoded completely when it is opened."""

    def __init__(self, pixels: np.ndarray, name: str, mpp: Mpp | None = None):
        size = (pixels.shape[1], pixels.shape[0])
        super().__init__(name, [size], mpp, size)
        self._pixels = pixels

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a region; see `SlideImage.read_region`."""
        return self._pixels[y : y + height, x : x + width]


class VendorSlide(SlideImage):
    """A slide that OpenSlide reads; coordinates begin at the scan's bounds if the format has them, as in QuPath."""

    has_parallel_reads = True

    def __init__(self, path: Path, name: str, resources: ExitStack):
        """Open the slide; `resources`, which may have a temporary file, are closed with it."""
        import openslide

        self._resources = resources
        self._slide = resources.enter_context(openslide.OpenSlide(path))
        properties = self._slide.properties
        bounds = [properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height")]
        self._x, self._y, *size = map(int, bounds) if all(bounds) else (0, 0, *self._slide.dimensions)
        sizes = [tuple(size)] + [
            tuple(max(1, int(side / downsample)) for side in size) for downsample in self._slide.level_downsamples[1:]
        ]
        source = "DICOM" if properties.get("openslide.vendor") == "dicom" else "vendor"
        mpp = make_mpp(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"), source)
        if properties.get("openslide.vendor") == "aperio":
            mpp = doubt_size(mpp, self._slide.dimensions, find_aperio_sizes(properties.get("openslide.comment", "")))
        super().__init__(name, sizes, mpp, (BLOCK_PX, BLOCK_PX))

    def downsample(self, level: int) -> tuple[float, float]:
        """Return OpenSlide's downsample of a level, the same for x and y."""
        return (self._slide.level_downsamples[level],) * 2

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a region, given in pixels of the level, as uint8 RGB, (height, width, 3).

        Raises:
            ValueError: If the file is damaged.
        """
        import openslide

        downsample = self._slide.level_downsamples[level]
        # OpenSlide takes the corner in pixels of the first level; the scan begins at (self._x, self._y).
        corner = self._x + round(x * downsample), self._y + round(y * downsample)
        try:
            pixels = np.asarray(self._slide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise ValueError(f"{self.name} is damaged ({error})") from error
        return lay_on_white(pixels)

    def close(self) -> None:
        """Close the file."""
        self._resources.close()


def open_image(source: ImageFile | Path | str | bytes, name: str = "") -> SlideImage:
    """Open an image of any supported format.

    Args:
        source: A file, a path, or the bytes of an encoded image.
        name: For messages. Defaults to the path of the source.

    Raises:
        ValueError: If it is no image that can be read; the message names it.
        OSError: If the file cannot be read.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        source = ImageFile(path.name, printable(str(path)), "", path, path.stat().st_size, path.read_bytes)
    if isinstance(source, bytes):
        path, size, name = None, 0, name or "image"
    else:
        path, size, name = source.local, source.size, name or source.path
    if path is not None and path.suffix.lower() in NAMED_FORMATS:
        return _open_vendor(path, name, ExitStack())
    if path is None:
        data = source if isinstance(source, bytes) else source.read()
        size = len(data)
        head = data[:HEAD_BYTES]
    else:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if not is_container(head):
                if size > MAX_FLAT_BYTES:
                    raise ValueError(f"{name} has {size:,} bytes, more than {MAX_FLAT_BYTES:,} that are read at once")
                data = head + file.read()
    if not is_container(head):
        return FlatImage(decode_flat(data, name), name, flat_mpp(data))
    with ExitStack() as resources:
        if path is None:
            path = _to_temporary_file(data, resources) if _needs_path(data, head) else None
        if path is not None and _detect_vendor(path) not in (None, "generic-tiff"):
            return _open_vendor(path, name, resources.pop_all())
        if head[:4] not in TIFF_MAGIC and sniff(head) != "dicom":
            raise ValueError(f"{name} is a slide that OpenSlide cannot read")
        if sniff(head) == "dicom":
            return _open_dicom(path if path is not None else io.BytesIO(data), name)
        from bcgan.slides.tiff import open_tiff

        return open_tiff(path if path is not None else io.BytesIO(data), name, size)


def stated_mpp(data: bytes, name: str) -> Mpp | None:
    """Return the resolution that an encoded image states; its pixels are not decoded.

    Raises:
        ValueError: If it is no image that can be read.
    """
    if not is_container(data):
        return flat_mpp(data)
    with open_image(data, name) as image:
        return image.mpp


def _needs_path(data: bytes, head: bytes) -> bool:
    """Return whether an image in memory may need OpenSlide, which reads only files: vendors' TIFF, DICOM and CZI."""
    if head[:4] not in TIFF_MAGIC:
        return True
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            return any(getattr(tiff, f"is_{vendor}", False) for vendor in VENDORS)
    except Exception:  # a broken header raises many types; the error is reported when the image is opened
        return False


def _to_temporary_file(data: bytes, resources: ExitStack) -> Path:
    """Write an image in memory to a temporary file that is deleted with the resources."""
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="bcgan-"))
    path = Path(folder) / "slide"
    path.write_bytes(data)
    return path


def _detect_vendor(path: Path) -> str | None:
    """Return OpenSlide's name of a file's format; `None` if it does not know it."""
    import openslide

    try:
        return openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError, UnicodeError):
        return None


def _open_vendor(path: Path, name: str, resources: ExitStack) -> SlideImage:
    """Open a slide by OpenSlide; `resources` are closed with it. Raise ValueError if it cannot be read."""
    import openslide

    try:
        if not path.exists():
            raise ValueError(f"{name} does not exist")
        return VendorSlide(path, name, resources)
    except Exception as error:
        resources.close()
        if isinstance(error, openslide.OpenSlideError):
            raise ValueError(f"{name} cannot be read by OpenSlide ({error})") from error
        raise


def _open_dicom(file: Any, name: str) -> SlideImage:
    """Open a DICOM file that is not a whole slide but a single color image.

    Args:
        file: A path or an open file.

    Raises:
        ValueError: If it is damaged, too large, has several frames, or is not of 8-bit colors.
    """
    import pydicom
    from pydicom.encaps import generate_frames
    from pydicom.pixels import pixel_array

    try:
        dataset = pydicom.dcmread(file)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        pixels_claimed = int(dataset.Rows) * int(dataset.Columns) * frames
        if pixels_claimed > MAX_PIXELS:
            raise ValueError(f"{pixels_claimed:,} pixels in all frames, more than {MAX_PIXELS:,}")
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
                if damage := find_damage(frame, pixels_claimed // frames):
                    raise ValueError(damage)
        pixels = pixel_array(dataset)
        spacing = _find_spacing(dataset)
    except Exception as error:  # pydicom raises many types for damaged files
        raise ValueError(f"{name} is not a DICOM image that can be read ({type(error).__name__}: {error})") from error
    if pixels.ndim == 4:
        if len(pixels) > 1:
            raise ValueError(f"{name} has {len(pixels)} frames and is no slide that OpenSlide reads. Give one image")
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{name} is a DICOM image of {pixels.dtype} {pixels.shape}, not of 8-bit colors")
    stated = "PixelSpacing=" + "\\".join(map(str, spacing))
    # PixelSpacing is in mm, between rows (y) first, then between columns (x).
    mpp = make_mpp(spacing[1] * 1e3, spacing[0] * 1e3, "DICOM", stated) if len(spacing) == 2 else None
    return FlatImage(np.ascontiguousarray(pixels), name, mpp)


def _find_spacing(dataset: Any) -> list[float]:
    """Return the spacing of pixels in mm that a DICOM data set states, of rows and of columns; [] without one.

    Enhanced images and slides state it in the functional groups that their frames share.
    """
    (groups,) = dataset.get("SharedFunctionalGroupsSequence") or ({},)
    (measures,) = groups.get("PixelMeasuresSequence") or ({},)
    stated = (item.get(name) for item in (dataset, measures) for name in ("PixelSpacing", "NominalScannedPixelSpacing"))
    return [float(side) for side in next(filter(None, stated), ())]
