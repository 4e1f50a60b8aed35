"""Tables of resolutions are read by the names in their header, or refused."""

from pathlib import Path

import pytest

from bcgan.errors import InputError
from bcgan.slides.files import ImageFile
from bcgan.slides.mpp_table import MppChoice, read_table


def image(path: str) -> ImageFile:
    return ImageFile(Path(path).name, path, "", Path(path), 0, lambda: b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tif,0.5\n", (0.5, 0.5)), ("file,mpp\na.tif,0.5\n", (0.5, 0.5)),
        ("\ufefffile;mpp\r\na.tif;0,5\r\n", (0.5, 0.5)),
        ("mpp,slide\n0.5,a\n", (0.5, 0.5)), ("file,mpp,patient\na.tif,0.5,7\n", (0.5, 0.5)),
        ("file,mpp,mpp_y\na.tif,0.5,0.25\n", (0.5, 0.25)), ("name\tmpp\na\t0.5\n", (0.5, 0.5)),
        ("file,mpp\n./m/a.tif,0.5\n", (0.5, 0.5)), ("file,mpp\nm\\a.tif,0.5\n", (0.5, 0.5)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_is_read_by_its_header(tmp_path, text, expected, encoding):
    (tmp_path / "t.csv").write_text(text, encoding)
    mpp = MppChoice(table=tmp_path / "t.csv")(image("m/a.tif"))
    assert (mpp.x, mpp.y, mpp.source) == (*expected, "user")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.tif,0,5\n", "more cells than columns"), ("file,mpp\na.tif,0,5\n", "more cells"),
        ("a.tif,nan\n", "no positive"),
        ("a.tif,inf\n", "no positive"), ("a.tif,-1\n", "no positive"), ("a.tif,x\n", "microns per pixel"),
        ("file,resolution\na.tif,1\n", "0 columns mpp"), ("a.tif,1\na.tif,2\n", "two resolutions"), ("", "no row"),
        ("file,mpp,mpp\na.tif,1,2\n", "2 columns mpp"), ("file,mpp,mpp_y,MPP_Y\na.tif,1,2,3\n", "2 columns mpp_y"),
        ('file,mpp\n"a.tif,1\nb.tif,2\n', "line 2: a quotation mark is not closed"),
        ("mpp,file\n0.5\n", "line 2: no file"), ("file,mpp\n,0.5\n", "line 2: no file"),
        ("file,mpp\n#N/A,1\n", "line 2: file is '#N/A', an error value"), ("a.tif,#REF!\n", "no file with its"),
    ],
)  # fmt: skip
def test_ambiguous_or_invalid_tables_are_refused(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text, "utf-8")
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / "t.csv")


def test_names_are_found_in_composed_and_decomposed_unicode(tmp_path):
    (tmp_path / "t.csv").write_text("Mu\u0308ller.tif,0.5\n", "utf-8")
    assert MppChoice(table=tmp_path / "t.csv")(image("M\u00fcller.tif")).x == 0.5


def test_a_single_value_applies_to_images_that_are_not_in_the_table(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("a.tif,0.5\nz.tif,1\n", "utf-8")
    choice = MppChoice(4.0, tmp_path / "t.csv")
    assert [choice(image(name)).x for name in ("a.tif", "b.tif")] == [0.5, 4.0]
    choice.check_images([image("a.tif"), image("b.tif")])
    assert "1 of 2 files are none of the images, such as z.tif" in caplog.text


@pytest.mark.parametrize(
    ("rows", "name"),
    [("slide.png,1", "slide.png"), ("slide,1", "slide"), ("slide,1\nP2/slide.png,2", "slide"), ("P1/slide.png,1", None),
     ("P1/slide.png,1\nP2/slide.png,2\nslide.tif,3", None)],
)  # fmt: skip
def test_a_row_that_names_two_images_is_refused(tmp_path, rows, name):
    (tmp_path / "t.csv").write_text(f"file,mpp\n{rows}\n", "utf-8")
    choice = MppChoice(9.0, tmp_path / "t.csv")
    images = [image(path) for path in ("P1/slide.png", "P2/slide.png", "P1/slide.tif", "P1/other.png")]
    if name is None:
        choice.check_images(images)
        assert choice(images[0]).x == 1 and choice(images[3]).x == 9
        return
    with pytest.raises(InputError, match=rf"{name} is the name of P1/slide\.png and of P\d/slide\.\w+\. Write a row"):
        choice.check_images(images)


@pytest.mark.parametrize("mpp", [float("nan"), float("inf")])
def test_a_resolution_that_is_no_finite_number_is_refused(mpp):
    with pytest.raises(InputError, match="--mpp"):
        MppChoice(mpp)
