"""Output files that a user names are written whole, and never over a file that is read."""

import os
import threading
from contextlib import suppress

import pytest

from bcgan import outputs
from bcgan.errors import InputError


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "slide.tif"
    path.write_text("pixels")
    return path


def names_of_the_slide(slide):
    """Return other names of the same file: relative, by links of either kind, through a linked folder."""
    (slide.parent / "soft.tif").symlink_to(slide)
    os.link(slide, slide.parent / "hard.tif")
    (slide.parent / "folder").symlink_to(slide.parent, target_is_directory=True)
    return [str(slide), "slide.tif", "./slide.tif", "soft.tif", "hard.tif", "folder/slide.tif"]


def test_an_output_that_is_an_input_is_refused_by_whatever_name(slide):
    for name in names_of_the_slide(slide):
        with pytest.raises(InputError, match=r"--out .*tif would replace .*slide\.tif, which is read\. Name another"):
            outputs.check({"--out": name, "--summary": None}, [slide.parent / "other.tif", slide])
    assert slide.read_text() == "pixels"


@pytest.mark.parametrize("second", ["calls.csv", "./calls.csv", "here/calls.csv"])
def test_two_outputs_in_one_file_are_refused(slide, second):
    (slide.parent / "here").symlink_to(slide.parent, target_is_directory=True)
    with pytest.raises(InputError, match=r"--summary .*calls\.csv is the file of --out too"):
        outputs.check({"--out": "calls.csv", "--summary": second}, [slide])
    outputs.check({"--out": "calls.csv", "--summary": "slides.csv"}, [slide])
    outputs.check({"--out": "-", "--summary": "-"}, [slide])


def test_a_folder_is_no_output_file(slide):
    with pytest.raises(InputError, match=r"--out .* is a folder\. Name a file"):
        outputs.check({"--out": str(slide.parent)}, [])


def test_an_earlier_file_is_replaced_when_the_new_one_is_complete(slide):
    with suppress(KeyboardInterrupt), outputs.open_text(slide) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert slide.read_text() == "pixels"
    with outputs.open_text(slide.parent / "new" / "calls.csv") as file:
        file.write("a,b\n")
    assert (slide.parent / "new" / "calls.csv").read_bytes() == b"a,b\n"


def test_a_link_is_followed(slide):
    link = slide.parent / "link.csv"
    link.symlink_to(slide.parent / "target.csv")
    with outputs.open_text(link) as file:
        file.write("rows")
    assert link.is_symlink()
    assert (slide.parent / "target.csv").read_text() == "rows"


def test_a_pipe_is_written_to_and_stays_a_pipe(slide):
    pipe = slide.parent / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    outputs.check({"--out": str(pipe), "--summary": str(pipe)}, [slide])
    with outputs.open_text(pipe) as file:
        file.write("rows")
    reader.join(timeout=10)
    assert received == ["rows"]
    assert pipe.is_fifo()
