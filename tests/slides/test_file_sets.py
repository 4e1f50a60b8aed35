"""Each file of a set is an image by itself: its own pixels at its own scale, with or without the other files."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile

from bcgan.slides.reader import open_image

RNG = np.random.default_rng(0)
SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SIZES = {"same": (90, 90), "first is larger": (160, 90), "first is smaller": (40, 90)}


def describe(names: list[str], pixels: list[np.ndarray], own: int | None) -> bytes:
    """Return the OME metadata of a set of files with one image each, of 1, 2, ... microns per pixel.

    Args:
        own: Number of the file that has them; `None` for metadata that state names of files alone.
    """
    images = []
    for number, (name, image) in enumerate(zip(names, pixels, strict=True)):
        size = f'SizeX="{image.shape[1]}" SizeY="{image.shape[0]}" SizeC="3" SizeZ="1" SizeT="1" Type="uint8"'
        images.append(
            f'<Image ID="Image:{number}" Name="scan {number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" '
            f'{size} PhysicalSizeX="{number + 1}"><Channel ID="Channel:{number}:0" SamplesPerPixel="3"/>'
            f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number}</UUID></TiffData>'
            "</Pixels></Image>"
        )
    uuid = f' UUID="urn:uuid:{own}"' if own is not None else ""
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SCHEMA}"{uuid}>{"".join(images)}</OME>'.encode()


def write_set(folder: Path, sizes: tuple[int, ...], has_numbers: bool = True, **options) -> dict[Path, np.ndarray]:
    pixels = [RNG.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sizes]
    names = [f"scan{number}.ome.tif" for number in range(len(sizes))]
    for number, (name, image) in enumerate(zip(names, pixels, strict=True)):
        description = describe(names, pixels, number if has_numbers else None)
        tifffile.imwrite(folder / name, image, photometric="rgb", metadata=None, description=description, **options)
    return {folder / name: image for name, image in zip(names, pixels, strict=True)}


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (32, 32)}], ids=["raw", "tiles"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_file_of_a_set_has_its_own_pixels_and_scale(tmp_path, caplog, sizes, options):
    files = write_set(tmp_path, sizes, **options)
    data = {path: path.read_bytes() for path in files}
    for siblings_are_there in (True, False):
        for number, (path, pixels) in enumerate(files.items()):
            if not siblings_are_there:
                for other in files:
                    other.unlink(missing_ok=True)
                path.write_bytes(data[path])
            for source in (path, data[path]):
                with caplog.at_level(logging.WARNING), open_image(source, path.name) as image:
                    assert image.mpp[:3] == (number + 1, number + 1, "OME")
                    np.testing.assert_array_equal(image.read_region(0, 0, 0, *image.size), pixels)
    assert not caplog.records


def test_a_set_without_numbers_is_told_apart_by_the_names_of_its_files(tmp_path):
    for number, path in enumerate(write_set(tmp_path, (90, 90), has_numbers=False)):
        with open_image(path) as image:
            assert image.mpp.x == number + 1


def test_a_renamed_file_that_is_no_set_keeps_its_scale(tmp_path):
    (path,) = write_set(tmp_path, (90,), has_numbers=False)
    with open_image(path.rename(tmp_path / "other.tif")) as image:
        assert image.mpp[:3] == (1, 1, "OME")


def test_an_image_that_tifffile_leaves_out_does_not_shift_the_others(tmp_path):
    """Its size does not fit its page."""
    first, second = (RNG.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (40, 90))
    description = describe(["a.ome.tif"] * 2, [first[:-1], second], 0).replace(b"urn:uuid:1", b"urn:uuid:0")
    description = description.replace(b'IFD="0"', b'IFD="1"').replace(b'IFD="1"', b'IFD="0"', 1)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(first, photometric="rgb", metadata=None, description=description)
        tiff.write(second, photometric="rgb", metadata=None)
    with open_image(tmp_path / "a.ome.tif") as image:
        assert image.mpp.x == 2
        np.testing.assert_array_equal(image.read_region(0, 0, 0, *image.size), second)


@pytest.mark.parametrize("siblings_are_there", [True, False])
@pytest.mark.parametrize("axis", ["Z", "C"])
def test_planes_in_separate_files(tmp_path, caplog, axis, siblings_are_there):
    """Each file of a stack is its own plane; colors in separate files are refused."""
    planes = RNG.integers(0, 256, (3, 60, 70), dtype=np.uint8)
    data = "".join(
        f'<TiffData First{axis}="{number}" IFD="0" PlaneCount="1"><UUID FileName="{number}.ome.tif">urn:uuid:{number}'
        "</UUID></TiffData>"
        for number in range(3)
    )
    count = {"SizeZ": 1, "SizeC": 1, "SizeT": 1, f"Size{axis}": 3}
    size = " ".join(f'{name}="{value}"' for name, value in count.items())
    channels = "".join(f'<Channel ID="Channel:0:{number}"/>' for number in range(count["SizeC"]))
    for number, plane in enumerate(planes):
        description = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SCHEMA}" UUID="urn:uuid:{number}"><Image '
            f'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="70" SizeY="60" {size} '
            f'PhysicalSizeX="0.5">{channels}{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"{number}.ome.tif", plane, metadata=None, description=description.encode())
    for number in range(3):
        path = tmp_path / f"{number}.ome.tif"
        source = path if siblings_are_there else path.read_bytes()
        if axis == "C":
            with pytest.raises(ValueError, match=f"{number}.ome.tif has a color plane that is not in this file"):
                open_image(source, path.name)
        else:
            with open_image(source, path.name) as image:
                assert image.mpp.x == 0.5
                np.testing.assert_array_equal(image.read_region(0, 0, 0, 70, 60)[..., 0], planes[number])
            assert "the first is read" in caplog.text
