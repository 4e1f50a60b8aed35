"""The resolution that an image states, whether it is plausible, and images without a resolution."""

import io
import re

import numpy as np
import pydicom
import pytest
import tifffile

from bcgan.slides import scale as scales
from bcgan.slides.patches import cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale, Mpp, imagej_mpp, make_mpp, ome_mpp, resolve_scale, tiff_mpp
from tests.slides import containers

MODEL = ModelScale(50, 4.0, (50, 50), 1.0)
WITHOUT_SCALE = ModelScale(50, None, (224, 192), 192 / 50)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PhysicalSizeX": "0.5"}, (0.5, 0.5)),
        ({"PhysicalSizeX": "0.5", "PhysicalSizeY": "0.25"}, (0.5, 0.25)),
        ({"PhysicalSizeX": "500", "PhysicalSizeXUnit": "nm", "PhysicalSizeY": "0.25"}, (0.5, 0.25)),
        ({"PhysicalSizeX": "0.0005", "PhysicalSizeXUnit": "mm"}, (0.5, 0.5)),
        ({"PhysicalSizeX": "0.5", "PhysicalSizeXUnit": "\u03bcm"}, (0.5, 0.5)),
        ({"PhysicalSizeX": "1", "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"}, None),
        *(({"PhysicalSizeX": text}, None) for text in ("", "x", "0", "-1", "inf", "nan")),
        ({}, None),
    ],
)
def test_ome_metadata(attributes, expected):
    mpp = ome_mpp(attributes)
    assert (mpp and (mpp.x, mpp.y)) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        (20_000, 20_000, 3, (0.5, 0.5)), (20_000, 40_000, 3, (0.5, 0.25)), (50_800, 50_800, 2, (0.5, 0.5)),
        (20_000, 0, 3, (0.5, 0.5)), (72, 72, 1, None), (0, 0, 3, None), (72, 72, 2, (352.7778, 352.7778)),
    ],
)  # fmt: skip
def test_tiff_tags(x, y, unit, expected):
    mpp = tiff_mpp(x, y, unit)
    assert (mpp and (mpp.x, mpp.y)) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("unit", "per_pixel"),
    [("um", 0.5), ("micron", 0.5), ("\\u00B5m", 0.5), ("nm", 500), ("mm", 5e-4), ("cm", 5e-5), ("inch", 0.5 / 25_400),
     ("Microns", 0.5)],
)  # fmt: skip
def test_units_of_imagej(unit, per_pixel):
    mpp = imagej_mpp({"unit": unit}, 1 / per_pixel, 1 / per_pixel)
    assert (mpp.x, mpp.y) == pytest.approx((0.5, 0.5))
    assert imagej_mpp({"unit": "pixel"}, 2, 2) is None


@pytest.mark.parametrize("name", ["strips.tif", "ome_strips.ome.tif", "imagej.tif", "photo.dcm", "tiles.tif"])
def test_the_source_of_a_resolution_is_stated(tmp_path, name):
    path = containers.write(tmp_path / name, containers.picture(1, 1), (2.0, 1.0))
    with open_image(path) as image:
        source = {"ome": "OME", "ima": "ImageJ", "pho": "DICOM"}.get(name[:3], "TIFF")
        assert (image.mpp.x, image.mpp.y, image.mpp.source) == (*(pytest.approx(v) for v in (2.0, 1.0)), source)


def ome_description(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    metadata = {"axes": "YXS", "PhysicalSizeX": 4.0, "PhysicalSizeY": 4.0}
    tifffile.imwrite(file, picture, ome=True, photometric="rgb", metadata=metadata)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        return tiff.pages[0].description.encode()


APERIO = "Aperio Image Library v12.0.15\r\n{} (256x256) JPEG/RGB Q=70|AppMag = 2|MPP = {}"


@pytest.mark.parametrize("is_changed", [False, True])
@pytest.mark.parametrize("tile", [None, (256, 256)])  # OpenSlide reads Aperio's format if it has tiles
@pytest.mark.parametrize(
    ("describe", "source"),
    [
        (ome_description, "OME"),
        (lambda _: APERIO.format("350x400", "4.0"), "vendor"),
        (lambda _: APERIO.format("900x800 [0,100 350x400]", "4.0"), "vendor"),
        (lambda _: APERIO.format("900x800 [0,100,350x400]", "4,000"), "vendor"),
    ],
)
def test_metadata_of_an_image_of_another_size_are_not_believed(tmp_path, describe, source, tile, is_changed):
    """Programs that resize an image keep them: the resolution would be wrong by the factor of the sizes."""
    picture, path = containers.picture(8, 7), tmp_path / "a.tif"
    shown = picture[::2, ::2] if is_changed else picture
    tifffile.imwrite(path, shown, description=describe(picture), metadata=None, photometric="rgb", tile=tile)
    with open_image(path) as image:
        assert image.mpp[:3] == (4.0, 4.0, source)
        assert scales.is_plausible(image.mpp) == (not is_changed)
        if is_changed:
            words = r"a\.tif states 4 microns .* which describe an image of 350x400 pixels: .* --mpp"
            with pytest.raises(ValueError, match=words):
                cut_patches(image, MODEL)
        given = Mpp(8.0, 8.0, "user") if is_changed else None
        assert len(cut_patches(image, MODEL, given).coords) == 56


@pytest.mark.parametrize("dots", [25.4, 72, 96, 150, 300, 600, 1200])
@pytest.mark.parametrize("side", [50, 64, 200])
def test_default_resolutions_of_programs_are_refused(tmp_path, dots, side):
    """Resolutions of a screen or a printer are refused with the value, its source and the remedy."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, containers.picture(4, 4)[:side, :side], resolution=(dots, dots), resolutionunit="INCH")
    with open_image(path) as image:
        with pytest.raises(ValueError, match=rf"a.tif states {25_400 / dots:.4g} microns .* TIFF .*{dots:g}.*--mpp"):
            cut_patches(image, MODEL)
        assert len(cut_patches(image, MODEL, Mpp(4.0, 4.0, "user")).patches)


@pytest.mark.parametrize(
    ("mpp", "words"),
    [
        (Mpp(17.0, 17.0, "OME"), "cannot be true"), (Mpp(0.001, 0.001, "vendor"), "cannot be true"),
        (Mpp(2.0, 352.8, "TIFF"), "cannot be true"), (Mpp(40.0, 40.0, "user"), "enlarged 10 times"),
    ],
)  # fmt: skip
def test_impossible_resolutions_are_refused(mpp, words):
    with pytest.raises(ValueError, match=f"a.tif.*{words}"):
        resolve_scale((500, 500), mpp, MODEL, "a.tif")


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (
            {"PhysicalSizeX": "500", "PhysicalSizeXUnit": "nm", "PhysicalSizeY": "500"},
            "states 500 microns a pixel in its OME metadata (PhysicalSizeX=500 nm, PhysicalSizeY=500 µm), which",
        ),
        (
            {"PhysicalSizeX": "0.001", "PhysicalSizeY": "0.5"},
            "states 0.001 microns a pixel in its OME metadata (PhysicalSizeX=0.001 µm, PhysicalSizeY=0.5 µm), which",
        ),
        ({"PhysicalSizeX": "90"}, "states 90 microns a pixel in its OME metadata (PhysicalSizeX=90 µm), which"),
    ],
)
def test_a_refused_resolution_is_named_with_the_unit_of_each_side(attributes, words):
    """A missing unit is micrometres, whatever the other is."""
    with pytest.raises(ValueError, match=re.escape(words)):
        resolve_scale((500, 500), ome_mpp(attributes), MODEL, "a.tif")


@pytest.mark.parametrize("mpp", [1e-3, 1e-9, 1e-300])
def test_an_image_that_its_scale_makes_tiny_is_refused_before_it_is_read(monkeypatch, mpp):
    """Weights of as many pixels of the model's as its scale states would not fit into memory."""
    monkeypatch.setattr("bcgan.slides.patches.read_at_scale", None)
    with (
        open_image(containers.encode("PNG", containers.picture(4, 4)), "a.png") as image,
        pytest.raises(ValueError, match=r"a.png is smaller than a patch: 200x200 pixels .* are 1x1 at"),
    ):
        cut_patches(image, MODEL, Mpp(mpp, mpp, "user"))


def test_an_image_that_would_be_cut_needs_a_scale():
    with pytest.raises(ValueError, match=r"a.png has 800x600 pixels .* states no resolution\. .*--mpp"):
        resolve_scale((800, 600), None, MODEL, "a.png")
    assert resolve_scale((800, 600), Mpp(0.5, 0.5, "user"), MODEL, "a.png")[:2] == (8, 8)
    assumed = resolve_scale((60, 50), None, MODEL, "a.png")
    assert assumed == (1, 1, (4.0, 4.0), "assumed", True)


def test_pixels_may_differ_in_width_and_height():
    scale = resolve_scale((800, 600), Mpp(0.5, 1.0, "OME"), MODEL, "a")
    assert (scale.x, scale.y, scale.mpp) == (8, 4, (0.5, 1.0))


def test_a_model_without_a_scale_takes_images_of_its_training_size_alone():
    scale = resolve_scale((224, 192), None, WITHOUT_SCALE, "a.png")
    assert scale == (192 / 50, 192 / 50, None, "unknown", True)
    with pytest.raises(ValueError, match="--mpp cannot be used: the model does not know its own scale"):
        resolve_scale((224, 192), Mpp(1.0, 1.0, "user"), WITHOUT_SCALE, "a.png")
    with pytest.raises(ValueError, match="trained on images of 224x192 pixels, knows no scale"):
        resolve_scale((1024, 768), None, WITHOUT_SCALE, "a.png")


def test_a_model_that_was_trained_on_larger_images_takes_one_as_one_patch():
    """BreaKHis: 700x460 pixels of 0.49 microns, whose central square was brought to 50 pixels."""
    model = ModelScale(50, 0.49 * 9.2, (700, 460), 9.2)
    pixels = np.repeat(containers.picture(1, 1), 14, 1).repeat(10, 0)[:460]
    with open_image(containers.encode("PNG", pixels)) as image:
        for mpp in (None, Mpp(0.49, 0.49, "user")):
            grid = cut_patches(image, model, mpp)
            assert grid.is_single_patch
            assert [tuple(corner) for corner in grid.image_coords] == [(120, 0)]
        assert not cut_patches(image, model, Mpp(0.98, 0.98, "user")).is_single_patch


def test_invalid_numbers_give_no_resolution():
    assert [make_mpp(value, None, "vendor") for value in (None, "", "0", "nan", "-2", "inf")] == [None] * 6
    assert make_mpp("0.25", "0.5", "vendor") == Mpp(0.25, 0.5, "vendor")
    assert scales.MAX_ENLARGEMENT * MODEL.mpp < 25_400 / 1200


@pytest.mark.parametrize("keyword", ["PixelSpacing", "NominalScannedPixelSpacing"])
@pytest.mark.parametrize("is_shared", [False, True])  # by all frames: where enhanced images and slides have it
def test_a_dicom_image_states_its_resolution(tmp_path, keyword, is_shared):
    path = containers.write(tmp_path / "photo.dcm", containers.picture(1, 1), (2.0, 1.0))
    dataset = pydicom.dcmread(path)
    spacing = dataset.PixelSpacing
    del dataset.PixelSpacing
    measures, groups = pydicom.Dataset(), pydicom.Dataset()
    setattr(measures if is_shared else dataset, keyword, spacing)
    groups.PixelMeasuresSequence = [measures]
    if is_shared:
        dataset.SharedFunctionalGroupsSequence = [groups]
    dataset.save_as(path)
    with open_image(path) as image:
        assert image.mpp[:3] == (pytest.approx(2.0), pytest.approx(1.0), "DICOM")


@pytest.mark.parametrize(
    "text",
    ["MPP = 0.25|Left = 1", "MPP=0.25,AppMag=40", "MPP = 0.25, Left = 3", "MPP=0.25,0.25", "MPP = 0,25|", "MPP = .25",
     "Foo scanner\n20x40 objective|MPP = 0.25"],
)  # fmt: skip
def test_microns_in_a_description_are_read_whatever_follows(tmp_path, text):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, containers.picture(1, 1), description=text, metadata=None, photometric="rgb")
    with open_image(path) as image:
        assert image.mpp[:3] == (0.25, 0.25, "vendor")
        assert scales.is_plausible(image.mpp)


def test_a_size_that_differs_by_rounding_is_that_of_the_image():
    mpp = Mpp(1.0, 1.0, "OME")
    assert scales.doubt_size(mpp, (400, 300), [(401, 300)]) == scales.doubt_size(mpp, (400, 300), [(300, 400)]) == mpp
    assert scales.doubt_size(mpp, (400, 300), [(410, 300)]).other_size == "410x300"
