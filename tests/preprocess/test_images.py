import cv2
import numpy as np
import pytest

from bcgan.preprocess import images
from bcgan.settings import Preprocess
from bcgan.slides import decode
from bcgan.slides.decode import decode_image

PATCH = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def test_rgb_order_and_lossless_round_trip():
    np.testing.assert_array_equal(decode_image(encode(PATCH[..., ::-1]), "a.png"), PATCH)


def test_grey_16_bit_and_transparent_images_become_rgb():
    grey = decode_image(encode(PATCH[..., 0]), "grey.png")
    np.testing.assert_array_equal(grey, np.repeat(PATCH[..., :1], 3, 2))
    deep = decode_image(encode(PATCH[..., ::-1].astype(np.uint16) * 257), "deep.png")
    np.testing.assert_array_equal(deep, PATCH)
    clear = np.dstack([PATCH, np.zeros((50, 50), np.uint8)])
    assert (decode_image(encode(clear), "clear.png") == 255).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (encode(PATCH)[:-40], "truncated"),
        (b"only words\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\x7f\xff\xff\xff" * 2, "claims more than"),
        (b"\x89PNG\r\n\x1a\n", "claims more than"),
    ],
)
def test_a_file_that_is_no_image_is_named(data, words):
    with pytest.raises(ValueError, match=f"file.png.*{words}"):
        decode_image(data, "file.png")


def test_an_image_that_is_too_large_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 2_000)
    with pytest.raises(ValueError, match=r"file.png has 2,500 pixels, and 2,000 are read at once\. Cut it"):
        decode_image(encode(PATCH), "file.png")


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (33, 50), (50, 50)])
def test_narrow_patches_are_padded_with_white_at_the_right_and_below(shape):
    patch = PATCH[: shape[0], : shape[1]]
    fitted = images.to_square(patch, 50, 50)
    assert fitted.shape == (50, 50, 3)
    np.testing.assert_array_equal(fitted[: shape[0], : shape[1]], patch)
    assert (fitted[shape[0] :] == 255).all()
    assert (fitted[:, shape[1] :] == 255).all()


def test_resizing_and_central_squares():
    assert images.to_square(PATCH, 50, 256).shape == (256, 256, 3)
    wide = np.zeros((46, 70, 3), np.uint8)
    wide[:, 12:58] = 9
    assert (images.to_square(wide, None, 46) == 9).all()
    assert images.to_square(wide, None, 50).shape == (50, 50, 3)


def test_filters_are_optional_and_do_something():
    np.testing.assert_array_equal(images.enhance(PATCH, Preprocess()), PATCH)
    for settings in (Preprocess(blur="gaussian"), Preprocess(blur="median")):
        assert images.enhance(PATCH, settings).std() < PATCH.std()
    flat = np.clip(PATCH // 8 + 100, 0, 255)
    assert images.enhance(flat, Preprocess(clahe=True)).std() > flat.std()
