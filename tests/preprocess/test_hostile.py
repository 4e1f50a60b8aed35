"""Files that mean harm or are merely odd: each is read or refused by name, and nothing crashes, hangs or bloats."""

import io
import os
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from bcgan.predict import serve
from bcgan.preprocess import images

MUTATIONS = 10_000
POSTED = int(os.environ.get("BCGAN_FUZZ", "500"))  # of them to the server, which takes ten times as long
BOUND = 600  # mebibytes that reading all of them may add to the process's peak


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
WHOLE = {
    "PNG": _encoded("PNG", PATCH),
    "JPEG": _encoded("JPEG", PATCH),
    "TIFF": _encoded("TIFF", PATCH),
    "compressed TIFF": _encoded("TIFF", PATCH, compression="tiff_lzw"),
}
READABLE = {
    **WHOLE,
    "grey": _encoded("PNG", PATCH.convert("L")),
    "palette": _encoded("PNG", PATCH.convert("P")),
    "alpha": _encoded("PNG", PATCH.convert("RGBA")),
    "grey with alpha": _encoded("PNG", PATCH.convert("LA")),
    "CMYK": _encoded("JPEG", PATCH.convert("CMYK")),
    "animated": _encoded("PNG", PATCH, save_all=True, append_images=[PATCH.rotate(90)]),
    "16 bits": cv2.imencode(".png", np.full((50, 50, 3), 65535, np.uint16))[1].tobytes(),
}
REFUSED = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "wrong magic": b"\x89PNG\r\n\x1a\n" + WHOLE["JPEG"],
    "truncated PNG": WHOLE["PNG"][:-400],
    "vast PNG": _png_that_claims(2**31 - 1, 2**31 - 1),
    "large PNG": _png_that_claims(60_000, 60_000),
    "vast chunk": WHOLE["PNG"][:33] + b"\xff\xff\xff\xfftEXt" + WHOLE["PNG"][33:],
    "no pixels": _png_that_claims(0, 50),
}


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_read_becomes_rgb(name):
    image = images.decode(READABLE[name], name)
    assert image.dtype == np.uint8
    assert image.shape == (50, 50, 3)


def test_a_mark_that_turns_the_picture_is_not_followed():
    mark = Image.Exif()
    mark[0x0112] = 6  # to be turned by 90 degrees
    assert images.decode(_encoded("JPEG", PATCH.crop((0, 0, 50, 30)), exif=mark), "turned").shape == (30, 50, 3)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        images.decode(REFUSED[name], name)


def _mutations(count: int):
    """Whole files with bytes changed, cut out, doubled or cut off."""
    rng, files = np.random.default_rng(0), list(WHOLE.values())
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


def test_mutated_files_have_a_verdict_and_memory_is_bounded():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    verdicts = {"read": 0, "refused": 0}
    for data in _mutations(MUTATIONS):
        try:
            image = images.decode(data, "mutated")
        except ValueError:
            verdicts["refused"] += 1
        else:
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            verdicts["read"] += 1
    assert sum(verdicts.values()) == MUTATIONS
    assert min(verdicts.values()) > MUTATIONS / 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before < BOUND


def test_the_server_answers_every_mutated_file(monkeypatch):
    """What stands behind the decoding is left out: it costs a second an image, and sees pixels alone."""

    def judge(model, data, name, microns):
        images.decode(data, name)
        return serve.Answer(rows=[], explained=False, picture="", use="Research use only")

    class Stub:
        network = None

        class card:  # noqa: N801
            use = "Research use only"

    monkeypatch.setattr(serve, "judge", judge)
    client = TestClient(serve.make_app(Stub()))
    codes = {client.post("/predict", content=data).status_code for data in _mutations(POSTED)}
    assert codes == {200, 422}
