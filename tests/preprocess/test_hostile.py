"""Malicious and odd files are read or refused by name, without a crash, a hang or unbounded memory."""

import io
import os
import resource
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from bcgan.predict import serve
from bcgan.slides.decode import decode_image
from tests.slides import containers

MUTATIONS = int(os.environ.get("BCGAN_FUZZ", "4000"))
POSTED = int(os.environ.get("BCGAN_FUZZ", "500"))  # to the server, which takes ten times as long
BOUND = 600  # mebibytes that all files may add to the peak memory of the process


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def _encoded(kind: str, image: Image.Image, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


PATCH = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
PIXELS = np.asarray(PATCH)
VALID = {
    "PNG": _encoded("PNG", PATCH),
    "JPEG": _encoded("JPEG", PATCH),
    "TIFF": _encoded("TIFF", PATCH),
    "compressed TIFF": _encoded("TIFF", PATCH, compression="tiff_lzw"),
}
READABLE = {
    **VALID,
    "grey": _encoded("PNG", PATCH.convert("L")),
    "palette": _encoded("PNG", PATCH.convert("P")),
    "alpha": _encoded("PNG", PATCH.convert("RGBA")),
    "grey with alpha": _encoded("PNG", PATCH.convert("LA")),
    "CMYK": _encoded("JPEG", PATCH.convert("CMYK")),
    "animated": _encoded("PNG", PATCH, save_all=True, append_images=[PATCH.rotate(90)]),
    "16 bits": cv2.imencode(".png", np.full((50, 50, 3), 65535, np.uint16))[1].tobytes(),
}


def _tiff(pixels: np.ndarray = PIXELS, tile: tuple[int, int] | None = (16, 16), **options) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, pixels, tile=tile, photometric="rgb", **options)
    return data.getvalue()


def _pyramid() -> bytes:
    data = io.BytesIO()
    with tifffile.TiffWriter(data, ome=True) as tiff:
        tiff.write(PIXELS, subifds=1, tile=(16, 16), photometric="rgb", metadata={"PhysicalSizeX": 0.5})
        tiff.write(PIXELS[::2, ::2], subfiletype=1, tile=(16, 16), photometric="rgb")
    return data.getvalue()


def _dicom() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return containers.write(Path(folder) / "photo.dcm", PIXELS, (0.5, 0.5)).read_bytes()


PLANES = np.moveaxis(PIXELS, -1, 0)
LAYOUTS = {  # files that tifffile, pydicom and OpenSlide read in parts
    "deflated tiles": _tiff(compression="zlib"),
    "JPEG tiles": _tiff(compression="jpeg"),
    "JPEG 2000 tiles": _tiff(compression="jpeg2000"),
    "LZW strips": _tiff(tile=None, rowsperstrip=7, compression="lzw", predictor=True),
    "BigTIFF": _tiff(tile=None, rowsperstrip=7, bigtiff=True),
    "planes": _tiff(PLANES, tile=None, rowsperstrip=10, planarconfig="separate"),
    "ImageJ": _tiff(tile=None, imagej=True, resolution=(2, 2), metadata={"unit": "um"}),
    "OME pyramid": _pyramid(),
    "DICOM": _dicom(),
}


def _with_tags(data: bytes, **tags: int) -> bytes:
    """Return a little-endian TIFF with other values in these tags of its first page."""
    changed, (start,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        position = start + 2 + 12 * entry
        name = tifffile.TIFF.TAGS[struct.unpack_from("<H", data, position)[0]]
        if name in tags:
            struct.pack_into("<HII", changed, position + 2, 4, 1, tags[name])
    return bytes(changed)


def _circle_of_pages() -> bytes:
    """Return a TIFF whose first page names itself as the next page."""
    data = bytearray(_tiff())
    (start,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], start)
    return bytes(data)


def _tile_that_claims(width: int, height: int) -> bytes:
    """Return a TIFF with a JPEG tile whose header claims a larger size than the TIFF."""
    data = bytearray(_tiff(tile=(64, 64), compression="jpeg"))
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, height, width)
    return bytes(data)


REFUSED = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "wrong magic": b"\x89PNG\r\n\x1a\n" + VALID["JPEG"],
    "truncated PNG": VALID["PNG"][:-400],
    "vast PNG": _png_that_claims(2**31 - 1, 2**31 - 1),
    "large PNG": _png_that_claims(60_000, 60_000),
    "vast chunk": VALID["PNG"][:33] + b"\xff\xff\xff\xfftEXt" + VALID["PNG"][33:],
    "no pixels": _png_that_claims(0, 50),
    "vast strips": _with_tags(_tiff(tile=None), ImageWidth=60_000, ImageLength=60_000, RowsPerStrip=60_000),
    "many tiles": _with_tags(_tiff(), ImageWidth=60_000, ImageLength=60_000),
    "vast tile": _with_tags(_tiff(), TileWidth=2**30, TileLength=2**30),
    "missing tiles": _with_tags(_tiff(), ImageWidth=8_000, ImageLength=8_000),
    "vast JPEG tile": _tile_that_claims(65_500, 65_500),
    "circle of pages": _circle_of_pages(),
    "JPEG XL tile": _tiff(tile=(64, 64), compression="jpegxl"),
    "truncated TIFF": _tiff()[:-2_000],
    "truncated DICOM": _dicom()[:-2_000],
}


@pytest.mark.parametrize("name", [*READABLE, *LAYOUTS])
def test_readable_files_become_rgb(name):
    image = decode_image((READABLE | LAYOUTS)[name], name)
    assert image.dtype == np.uint8
    assert image.shape == (50, 50, 3)


def test_the_orientation_mark_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert decode_image(_encoded("JPEG", PATCH.crop((0, 0, 50, 30)), exif=exif), "turned").shape == (30, 50, 3)


@pytest.mark.parametrize("name", REFUSED)
def test_unreadable_files_are_refused_by_name(name):
    before = _peak()
    with pytest.raises(ValueError, match=f"^{name} "):
        decode_image(REFUSED[name], name)
    assert _peak() - before < BOUND


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _mutations(count: int, files: list[bytes]):
    """Yield the files with bytes changed, removed or repeated."""
    rng = np.random.default_rng(0)
    for number in range(count):
        data = bytearray(files[number % len(files)])
        for _ in range(rng.integers(1, 8)):
            place, kind = int(rng.integers(len(data))), rng.integers(4)
            if kind == 0:
                data[place] = rng.integers(256)
            elif kind == 1:
                del data[place : place + int(rng.integers(1, 64))]
            elif kind == 2:
                data[place:place] = data[place : place + int(rng.integers(1, 64))]
            else:
                data[place : place + 4] = b"\xff\xff\xff\xff"
            if not data:
                break
        yield bytes(data)


@pytest.mark.parametrize("files", [VALID, LAYOUTS], ids=["flat", "in parts"])
def test_mutated_files_have_a_verdict_and_memory_is_bounded(files):
    before, messages, count = _peak(), [], 0
    for data in _mutations(MUTATIONS, list(files.values())):
        try:
            image = decode_image(data, "mutated")
        except ValueError as error:
            messages.append(str(error))
        else:
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            count += 1
    assert count + len(messages) == MUTATIONS
    assert min(count, len(messages)) > MUTATIONS / 100
    assert all(message.startswith("mutated ") for message in messages)
    assert _peak() - before < BOUND


def test_the_server_answers_every_mutated_file(monkeypatch):
    """Scoring is left out: it takes a second per image, and gets decoded pixels only."""

    def score(model, data, name, microns):
        decode_image(data, name)
        return serve.Answer(rows=[], explained=False, picture="", scale="", use="Research use only")

    class Stub:
        network = None

        class card:  # noqa: N801
            intended_use = "Research use only"

    monkeypatch.setattr(serve, "score_image", score)
    client, files = TestClient(serve.make_app(Stub())), [*VALID.values(), *LAYOUTS.values()]
    codes = {client.post("/predict", content=data).status_code for data in _mutations(POSTED, files)}
    assert codes == {200, 422}
