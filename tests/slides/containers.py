"""Writers of one picture of tissue in every container format that bcgan reads, at any resolution."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from bcgan.data.histology_phantom.tissue import example_patches

ROWS, COLUMNS, SIZE = 2, 3, 50
LOSSY = ("jpeg.jpg", "tiles_jpeg.tif")
STATES_MPP = (
    "tiles.tif", "strips.tif", "strips_lzw.tiff", "one_strip.tif", "bigtiff.btf", "tiles.qptiff", "tiles_jpeg.tif",
    "pyramid.tif", "no_suffix", "ome_tiles.ome.tif", "ome_strips.ome.tif", "ome_planar.ome.tif", "ome_planes.ome.tif",
    "ome_pyramid.ome.tif", "ome_label_first.ome.tif", "imagej.tif", "photo.dcm", "inch.tif",
)  # fmt: skip
FLAT = ("flat.png", "png16.png", "rgba.png", "flat.bmp", "lossless.webp", "lossless.jp2", "jpeg.jpg", "renamed.jpg")


def picture(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> np.ndarray:
    """Patches of phantom tissue side by side; uint8, (rows * SIZE, columns * SIZE, 3)."""
    patches = example_patches(rows * columns, SIZE)[0].reshape(rows, columns, SIZE, SIZE, 3)
    return np.ascontiguousarray(patches.swapaxes(1, 2).reshape(rows * SIZE, columns * SIZE, 3))


def enlarge(image: np.ndarray, across: int, down: int) -> np.ndarray:
    """Repeat every pixel, so that means over the repeats give the image again."""
    return image.repeat(down, 0).repeat(across, 1)


def write(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> Path:
    """Write the image in the container of the file's name, with its resolution if the container can state it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.name](path, image, mpp)
    return path


def _opencv(suffix: str, options: tuple[int, ...] = (), change: Callable | None = None) -> Callable:
    def write_flat(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
        pixels = image[..., ::-1]
        encoded = cv2.imencode(suffix, change(pixels) if change else pixels, options)[1]
        path.write_bytes(encoded.tobytes())

    return write_flat


def _webp(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    Image.fromarray(image).save(path, "WEBP", lossless=True)


def _jp2(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    Image.fromarray(image).save(path, "JPEG2000", irreversible=False)


def _tiff(**options) -> Callable:
    def write_tiff(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
        resolution = tuple(1e4 / side for side in mpp)
        tifffile.imwrite(
            path, image, photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER", metadata=None, **options
        )

    return write_tiff


def _inch(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    resolution = tuple(25_400 / side for side in mpp)
    tifffile.imwrite(path, image, photometric="rgb", resolution=resolution, resolutionunit="INCH", metadata=None)


def _pyramid(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    """Levels as pages that are marked as reduced, as libvips writes them."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            small = _shrink(image, 2**level)
            tiff.write(
                small, photometric="rgb", tile=(64, 64), subfiletype=int(level > 0), metadata=None,
                resolution=tuple(1e4 / side / 2**level for side in mpp), resolutionunit="CENTIMETER",
            )  # fmt: skip


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    size = image.shape[1] // factor, image.shape[0] // factor
    return image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _ome(planes: bool = False, dots: bool = True, **options) -> Callable:
    def write_ome(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
        metadata = {
            "PhysicalSizeX": mpp[0], "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp[1], "PhysicalSizeYUnit": "µm",
        }  # fmt: skip
        pixels, kind = (image.transpose(2, 0, 1), "minisblack") if planes else (image, "rgb")
        if options.get("planarconfig"):
            pixels = image.transpose(2, 0, 1)
        if planes:
            metadata["axes"] = "CYX"
        # The resolution of a screen, a default of many programs: the OME metadata take precedence.
        screen = {"resolution": (72, 72), "resolutionunit": "INCH"} if dots else {}
        tifffile.imwrite(path, pixels, photometric=kind, ome=True, metadata=metadata, **screen, **options)

    return write_ome


def _ome_pyramid(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp[0] * 1e3, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": mpp[1] * 1e3,
                "PhysicalSizeYUnit": "nm"}  # fmt: skip
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tiff:
        tiff.write(image, photometric="rgb", tile=(64, 64), subifds=2, metadata=metadata)
        for level in (1, 2):
            tiff.write(_shrink(image, 2**level), photometric="rgb", tile=(64, 64), subfiletype=1)


def _ome_label_first(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    label = np.full((60, 90, 3), (200, 60, 120), np.uint8)
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp[0], "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp[1],
                "PhysicalSizeYUnit": "µm", "Name": "scan"}  # fmt: skip
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(label, photometric="rgb", metadata={"axes": "YXS", "Name": "label image"})
        tiff.write(image, photometric="rgb", tile=(128, 128), metadata=metadata)


def _imagej(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    resolution = tuple(1 / side for side in mpp)
    tifffile.imwrite(path, image, imagej=True, resolution=resolution, metadata={"unit": "um", "axes": "YXS"})


def _dicom(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> None:
    """A photograph of the slide: a single colour image with PixelSpacing."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, VLMicroscopicImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLMicroscopicImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.Modality = generate_uid(), generate_uid(), "GM"
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelSpacing = [mpp[1] / 1e3, mpp[0] / 1e3]  # rows first, millimetres
    data = image.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset.save_as(path, enforce_file_format=True)


def zipped(path: Path, member: str, data: bytes) -> Path:
    """Write an archive with one member."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)
    return path


def encode(name: str, image: np.ndarray) -> bytes:
    """Return the image as an encoded file; `name` is the format, such as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, name)
    return buffer.getvalue()


WRITERS: dict[str, Callable] = {
    "flat.png": _opencv(".png"),
    "png16.png": _opencv(".png", change=lambda pixels: pixels.astype(np.uint16) * 257),
    "rgba.png": _opencv(".png", change=lambda pixels: np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])),
    "flat.bmp": _opencv(".bmp"),
    "renamed.jpg": _opencv(".png"),  # the suffix is wrong; the content counts
    "jpeg.jpg": _opencv(
        ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    ),
    "lossless.webp": _webp,
    "lossless.jp2": _jp2,
    "tiles.tif": _tiff(tile=(256, 256)),
    "strips.tif": _tiff(rowsperstrip=17),
    "strips_lzw.tiff": _tiff(rowsperstrip=17, compression="lzw", predictor=True),
    "one_strip.tif": _tiff(rowsperstrip=100_000),
    "bigtiff.btf": _tiff(tile=(64, 64), bigtiff=True, compression="zlib"),
    "tiles.qptiff": _tiff(tile=(256, 256), compression="zlib"),
    "tiles_jpeg.tif": _tiff(tile=(256, 256), compression="jpeg", compressionargs={"level": 98}, subsampling=(1, 1)),
    "no_suffix": _tiff(tile=(64, 64)),
    "inch.tif": _inch,
    "pyramid.tif": _pyramid,
    "ome_tiles.ome.tif": _ome(tile=(64, 64)),
    "ome_strips.ome.tif": _ome(rowsperstrip=17, compression="zlib"),
    "ome_planar.ome.tif": _ome(planarconfig="separate"),
    "ome_planes.ome.tif": _ome(planes=True, dots=False),
    "ome_pyramid.ome.tif": _ome_pyramid,
    "ome_label_first.ome.tif": _ome_label_first,
    "imagej.tif": _imagej,
    "photo.dcm": _dicom,
}
