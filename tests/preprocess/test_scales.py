"""Images that state another resolution than the settings, or than each other, are refused before a training."""

import cv2
import numpy as np
import pytest
import tifffile

from bcgan import experiment
from bcgan.errors import InputError
from bcgan.preprocess import store
from bcgan.preprocess.images import encode_png
from bcgan.slides.decode import read_image
from bcgan.slides.reader import open_image
from tests.conftest import write_png
from tests.slides import containers

SIDE = 32


def write_tiffs(root, resolutions, side=SIDE, unit="CENTIMETER"):
    """Write two images of each of six patients; `resolutions` are used in turn, by patient."""
    picture = np.tile(containers.picture(4, 4), (2, 2, 1))
    for patient in range(6):
        for label in range(2):
            path = root / f"p{patient}" / str(label) / "a.tif"
            path.parent.mkdir(parents=True)
            x, y = np.array([patient, 2 * patient + label]) * 5
            resolution = (resolutions[patient % len(resolutions)],) * 2
            pixels = picture[y : y + side, x : x + side]
            tifffile.imwrite(path, pixels, photometric="rgb", resolution=resolution, resolutionunit=unit)
    return root


def build(tmp_path, folder, *overrides, name="patient_folder"):
    (tmp_path / "x.yaml").write_text(f"name: x\ndata: {{name: {name}, dir: '{folder}', size: {SIDE}, num_folds: 3}}\n")
    out = tmp_path / "preprocess"
    out.mkdir(exist_ok=True)
    store.build(experiment.load(str(tmp_path / "x.yaml"), overrides), out)
    return store.load(out)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), r"p1/0/a\.tif states 2 microns a pixel, .*p0/0/a\.tif 0\.5, and 6 of 12 differ"),
        (("data.tile={min_tissue: 0}",), r"states 2 microns a pixel, .* 0\.5, .*data\.tile=\{mpp: 2\}"),
        (("data.mpp=4",), r"p0/0/a\.tif states 0\.5 microns a pixel, and data\.mpp is 4 \(12 of 12 files"),
        (("data.mpp=0.5",), r"p1/0/a\.tif states 2 microns a pixel, and data\.mpp is 0\.5 \(6 of 12"),
        (("data.mpp=2", "data.tile={min_tissue: 0}"), r"states 0\.5 .* data\.mpp is 2 \(6 of 12"),
        (("data.mpp=2", "data.tile={mpp: 2}"), r"data\.mpp is 2 .*leave data\.mpp out and set data\.tile=\{mpp: 2\}"),
    ],
)
def test_mixed_resolutions_are_refused(tmp_path, overrides, words):
    folder = write_tiffs(tmp_path / "in", (20_000, 5_000))  # pixels a centimeter: 0.5 and 2 microns a pixel
    with pytest.raises(InputError, match=words):
        build(tmp_path, folder, *overrides)


def test_mixed_resolutions_are_brought_to_one_scale_where_it_is_set(tmp_path):
    folder = write_tiffs(tmp_path / "in", (20_000, 10_000), side=4 * SIDE)  # 0.5 and 1 micron a pixel
    index = build(tmp_path, folder, "data.tile={mpp: 1, min_tissue: 0}").index
    counts = index.groupby("image").size()
    assert counts[counts.index.str.startswith("p0")].tolist() == [4, 4]  # 64x64 pixels at 1 micron
    assert counts[counts.index.str.startswith("p1")].tolist() == [16, 16]


def test_one_resolution_that_is_not_the_settings_is_refused_with_the_one_to_set(tmp_path):
    folder = write_tiffs(tmp_path / "in", (20_000,))
    with pytest.raises(InputError, match=r"data\.mpp is 4 \(12 of 12 files differ so\)\. Set data\.mpp=0\.5, or"):
        build(tmp_path, folder, "data.mpp=4")
    assert len(build(tmp_path, folder, "data.mpp=0.5").index) == 12
    assert len(build(tmp_path, folder, "data.mpp=0.53").index) == 12  # the same scale, within a tenth
    assert len(build(tmp_path, folder).index) == 12


@pytest.mark.parametrize("dots", [72, 96, 300])
def test_resolutions_for_printing_are_not_believed(tmp_path, dots):
    folder = write_tiffs(tmp_path / "in", (dots, 20_000 * 2.54, 150), unit="INCH")
    assert len(build(tmp_path, folder, "data.mpp=0.5").index) == 12


def png(dots_a_meter, unit=1) -> bytes:
    data = bytearray(encode_png(containers.picture(1, 1), 1.0))
    start = data.index(b"pHYs") + 4
    data[start : start + 9] = dots_a_meter.to_bytes(4, "big") * 2 + bytes([unit])
    return bytes(data)


def test_a_png_states_its_resolution_where_it_can_be_true(tmp_path):
    picture = containers.picture(1, 1)
    for mpp in (0.25, 2.0, 4.0):
        pixels, stated = read_image(encode_png(picture, mpp), "a.png")
        np.testing.assert_array_equal(pixels, picture)
        assert (stated.x, stated.y, stated.source) == (mpp, mpp, "PNG")
        (tmp_path / "a.png").write_bytes(encode_png(picture, mpp))
        with open_image(tmp_path / "a.png") as image:
            assert image.mpp == stated
    assert cv2.imdecode(np.frombuffer(encode_png(picture, 2.0), np.uint8), cv2.IMREAD_UNCHANGED).shape == picture.shape
    for data in (encode_png(picture), png(2835), png(3780), png(11_811), png(250_000, unit=0), png(0)):
        assert read_image(data, "a.png")[1] is None  # none, 72, 96 and 300 dots an inch, no unit, no number


def test_patches_that_state_another_scale_than_their_data_set_are_refused(tmp_path):
    """As those of `bcgan tile --patch-mpp 2`, trained on without data.mpp."""
    for patient in range(4):
        for label in range(2):
            path = tmp_path / f"in/{patient}/{label}/{patient}_idx5_x1_y{label}_class{label}.png"
            write_png(path, np.random.default_rng(2 * patient + label).integers(80, 200, (50, 50, 3), dtype=np.uint8))
            path.write_bytes(encode_png(cv2.imread(str(path))[..., ::-1], 2.0))
    with pytest.raises(InputError, match=r"class0\.png states 2 .* the scale of idc is 4 \(8 of 8.*Set data\.mpp=2\."):
        build(tmp_path, tmp_path / "in", "data.size=50", name="idc")
    assert len(build(tmp_path, tmp_path / "in", "data.size=50", "data.mpp=2", name="idc").index) == 8
