import numpy as np
import pytest

from bcgan.data.rows import ImageRows, NpyFile
from bcgan.data.views import center_crop

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)


@pytest.fixture(params=["array", "file", "several"])
def rows(request, tmp_path) -> ImageRows:
    """The images from memory, from a file, or from both."""
    np.save(tmp_path / "images.npy", IMAGES)
    file = NpyFile(tmp_path / "images.npy")
    if request.param == "several":
        return ImageRows.concatenate(
            [ImageRows(file, slice(0, 20)), IMAGES[20:25], ImageRows(IMAGES, np.arange(25, 30))]
        )
    return ImageRows(IMAGES if request.param == "array" else file)


@pytest.mark.parametrize(
    "key",
    [3, -1, slice(4, 9), slice(None), np.array([7, 8, 9, 2, 2, 29]), np.arange(30) % 3 == 0, np.array([], int), [1]],
)
def test_indexing_gives_the_rows_of_an_array(rows, key):
    assert (rows.shape, rows.ndim, len(rows), rows.dtype) == (IMAGES.shape, 4, 30, IMAGES.dtype)
    np.testing.assert_array_equal(rows[key], IMAGES[key])
    np.testing.assert_array_equal(np.asarray(rows), IMAGES)


def test_selections_and_crops_are_read_when_they_are_indexed(rows):
    chosen = rows.select(np.array([9, 4, 28])).select(np.array([2, 0]))
    np.testing.assert_array_equal(chosen[:], IMAGES[[28, 9]])
    cropped = center_crop(chosen, 4)
    assert cropped.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(cropped[:], center_crop(IMAGES[[28, 9]], 4))
    np.testing.assert_array_equal(list(cropped), center_crop(IMAGES[[28, 9]], 4))
    np.testing.assert_array_equal(ImageRows.concatenate([cropped, IMAGES[:1, 1:5, 1:5]])[2], IMAGES[0, 1:5, 1:5])
    with pytest.raises(IndexError):
        rows[30]


def test_a_file_that_ends_too_early_is_named(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    path = tmp_path / "images.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OSError, match=r"images.npy ends too early"):
        ImageRows(NpyFile(path))[29]
