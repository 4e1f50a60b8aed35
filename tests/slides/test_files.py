"""The images in arguments, folders and archives: one entry per image or slide."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bcgan import outputs, runs
from bcgan.errors import InputError
from bcgan.slides.files import find_images, iterate_images, list_children, printable, sniff, strip_suffixes
from bcgan.slides.fingerprints import fingerprint

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, PIXELS)[1].tobytes()


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def dicom(path: Path, series: str, side: int, kind: str = "VOLUME", sop_class: str = WHOLE_SLIDE) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.ImageType = series, ["ORIGINAL", "PRIMARY", kind, "NONE"]
    file.Rows = file.Columns = 16
    if sop_class == WHOLE_SLIDE:
        file.TotalPixelMatrixColumns = file.TotalPixelMatrixRows = side
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def names(images) -> list[str]:
    return [image.name for image in images]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".png", "png"), (".jpg", "jpeg"), (".tif", "tiff"), (".bmp", "bmp"), (".webp", "webp"), (".jp2", "jp2")],
)
def test_images_are_known_by_their_content(suffix, kind):
    assert sniff(encoded(suffix)[:512]) == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"II+\0\x08\0", "tiff"), (b"MM\0+\0\x08", "tiff"), (b"MM\0*", "tiff"), (bytes(128) + b"DICM", "dicom"),
        (b"\xff\x4f\xff\x51", "jp2"), (b"PK\3\4", "zip"), (b"GIF89a", "gif"), (b"\x1f\x8b\x08", "gzip"),
        (b"BZh91AY&SY", "bzip2"), (b"\xfd7zXZ\0", "xz"), (bytes(257) + b"ustar\0", "tar"),
        (b"", None), (b"BMI,age\n23,40\n" + b" " * 40, None), (b"BZh", None), (b"RIFF0000WAVE", None), (b"text", None),
    ],
)  # fmt: skip
def test_other_types_are_known_by_their_first_bytes(head, kind):
    assert sniff(head) == kind


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("P001.ome.tif", "P001"), ("P1_2.SVS", "P1_2"), ("P1.2.ome.btf", "P1.2"), ("a.OME.TIFF", "a"),
        ("scan", "scan"), ("x.tif.svs", "x"), ("a.b.c", "a.b.c"), (".png", ".png"), ("x.ome", "x"),
    ],
)  # fmt: skip
def test_suffixes_of_images_are_removed_and_other_dots_stay(name, stem):
    assert strip_suffixes(name) == stem


def test_a_folder_is_searched_by_suffix_and_by_content(tmp_path, caplog):
    write(tmp_path / "b/scan", encoded(".png"))
    write(tmp_path / "b/x.dat", encoded(".jpg"))
    write(tmp_path / "a/y.QPTIFF", b"whatever")
    for name in ("notes.txt", "c/table.csv", "c/empty"):
        write(tmp_path / name, b"" if name.endswith("empty") else b"text")
    for name in (".x.png", "._y.png", "__MACOSX/z.png", "Thumbs.db", ".git/w.png"):
        write(tmp_path / name, encoded(".png"))
    with caplog.at_level("INFO", "bcgan"):
        images = find_images([str(tmp_path)])
    assert names(images) == ["a/y.QPTIFF", "b/scan", "b/x.dat"]
    assert images[1].read() == encoded(".png")
    assert images[1].local == tmp_path / "b/scan"
    assert images[1].size == len(encoded(".png"))
    assert {image.source for image in images} == {tmp_path.name}
    assert f"3 files are no images and are left out, the first: {tmp_path}/c/empty" in caplog.text
    assert names(iterate_images((tmp_path,))) == names(images)


def test_a_file_that_is_named_as_argument_is_always_taken(tmp_path, monkeypatch):
    write(tmp_path / "notes.txt")
    write(tmp_path / "four [x].png")
    with zipfile.ZipFile(tmp_path / "table.xlsx", "w") as document:
        document.writestr("[Content_Types].xml", "")
        document.writestr("xl/media/image1.png", encoded(".png"))
    assert names(find_images([str(tmp_path / "notes.txt")])) == ["notes.txt"]
    assert names(find_images([str(tmp_path / "four [x].png")])) == ["four [x].png"]
    assert names(find_images([str(tmp_path / "table.xlsx")])) == ["table.xlsx"]  # no archive
    assert names(find_images([str(tmp_path / "*.txt")])) == ["notes.txt"]
    assert names(find_images([str(tmp_path)])) == ["four [x].png"]
    monkeypatch.chdir(tmp_path)
    assert find_images(["notes.txt"])[0].source == tmp_path.name
    for argument in ("nowhere", str(tmp_path / "no*"), "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "notes.txt").unlink(missing_ok=True)
        with pytest.raises(InputError, match="no image there"):
            find_images([argument])


def test_a_list_may_name_files_in_any_bytes_and_files_that_are_not_there(tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.png")
    write(Path(name), b"content")
    images = find_images(["-"], [f"{name}\r\n", "\n", str(tmp_path / "gone.png")])
    assert images[0].name == "\\xff\\xfe.png"
    assert images[0].path == f"{tmp_path}/\\xff\\xfe.png" == printable(name)
    assert images[0].read() == b"content"
    with pytest.raises(FileNotFoundError):
        images[1].read()
    with pytest.raises(InputError, match="No image was named"):
        find_images(["-"], [])


def test_links_are_followed_once_and_broken_ones_cannot_be_read(tmp_path):
    write(tmp_path / "data/p1/x.png")
    write(tmp_path / "elsewhere/p2/y.png")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/again").symlink_to(tmp_path / "data/p1")
    (tmp_path / "data/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data/far")
    (tmp_path / "data/gone.png").symlink_to(tmp_path / "nowhere.png")
    images = find_images([str(tmp_path / "data")])
    assert names(images) == ["far/p2/y.png", "gone.png", "p1/x.png"]
    with pytest.raises(FileNotFoundError):
        images[1].read()
    before = fingerprint((tmp_path / "data",))
    write(tmp_path / "elsewhere/p2/z.png")
    assert fingerprint((tmp_path / "data",)) != before


def test_a_copied_zip_archive_has_the_hash_of_the_original(tmp_path):
    def make(path, data, time):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo("p1/x.png", (2020, 1, 1, 0, 0, 0)), data)
        os.utime(path, (time, time))
        return fingerprint((path,))

    original = make(tmp_path / "a.zip", b"x", 1e9)
    assert make(tmp_path / "a.zip", b"x", 1.1e9) == make(tmp_path / "b.zip", b"x", 1.2e9) == original
    assert make(tmp_path / "a.zip", b"y", 1e9) != original  # the same size and time
    loose = write(tmp_path / "x.png")
    os.utime(loose, (1e9, 1e9))
    before = fingerprint((loose,))
    os.utime(loose, (1.1e9, 1.1e9))
    assert fingerprint((loose,)) != before
    damaged = write(tmp_path / "damaged.zip", (tmp_path / "a.zip").read_bytes()[:60])
    assert fingerprint((damaged,)) != original
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 99  # a version that no program reads
    fingerprint((write(tmp_path / "future.zip", bytes(data)),))


def test_folders_that_bcgan_writes_are_no_part_of_a_data_set_around_them(tmp_path, monkeypatch, caplog):
    """A run with --data-dir . must not make its own data new, nor read its own pictures."""
    monkeypatch.setattr(runs, "_home", tmp_path / "home")
    write(tmp_path / "home/p1/0/x.png")
    write(tmp_path / "home/p1/runs/0/x.png")  # another folder of that name
    for root in (tmp_path, tmp_path / "home"):
        before = fingerprint((root,))
        for folder in ("runs/x/gan", "reports/x", "models/x"):
            write(tmp_path / "home" / folder / "picture.png")
        outputs.make_folder(tmp_path / "home/p1/maps")
        write(tmp_path / "home/p1/maps/map.png")
        assert fingerprint((root,)) == before
        with caplog.at_level("WARNING", "bcgan"):
            read = [image.path for image in iterate_images((root,))]
        assert read == [f"{tmp_path}/home/p1/0/x.png", f"{tmp_path}/home/p1/runs/0/x.png"]
        assert "home/reports was written by bcgan and is left out; name it to read it" in caplog.text
        write(tmp_path / "home/p1/0/x.png", b"changed")
        assert fingerprint((root,)) != before
        shutil.rmtree(tmp_path / "home/runs")
        shutil.rmtree(tmp_path / "home/p1/maps")
    assert names(iterate_images((tmp_path / "home/reports",))) == ["x/picture.png"]  # named by the user


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    assert names(find_images(["-"], ["\ufeffa.png\r\n", "b.png\r\n"])) == ["a.png", "b.png"]
    assert find_images(["-"], ["\ufeffa.png\n"])[0].read() == (tmp_path / "a.png").read_bytes()


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "x.png")
    assert names(find_images([str(tmp_path)])) == ["x.png"]


def test_a_damaged_archive_in_a_folder_does_not_stop_a_prediction(tmp_path):
    write(tmp_path / "x.png")
    write(tmp_path / "broken.zip", b"PK\3\4 and nothing more")
    images = find_images([str(tmp_path)])
    assert names(images) == ["broken.zip", "x.png"]
    assert images[0].local is None
    with pytest.raises(ValueError, match="is not a readable zip archive"):
        images[0].read()
    with pytest.raises(InputError, match="is not a readable zip archive"):
        list(iterate_images((tmp_path,)))


def test_a_dicom_series_in_a_folder_is_one_slide(tmp_path):
    instances = ("a.dcm", 100, "THUMBNAIL"), ("b", 400, "VOLUME"), ("c.dcm", 400, "VOLUME"), ("d.dcm", 900, "LABEL")
    paths = [dicom(tmp_path / "s" / name, "1.2.3", side, kind) for name, side, kind in instances]
    dicom(tmp_path / "s/e.dcm", "1.2.4", 50)
    dicom(tmp_path / "t/a.dcm", "1.2.3", 50)
    write(tmp_path / "s/f.dcm", b"no DICOM")
    for number in (1, 2):  # photographs of one series are separate images
        dicom(tmp_path / f"u/{number}.dcm", "1.2.5", 0, sop_class="1.2.840.10008.5.1.4.1.1.77.1.2")
    images = find_images([str(tmp_path)])
    assert names(images) == ["s/b", "s/e.dcm", "s/f.dcm", "t/a.dcm", "u/1.dcm", "u/2.dcm"]
    assert images[0].parts == (paths[0], paths[2], paths[3])
    assert not any(image.parts for image in images[1:])
    for arguments in (map(str, paths), [str(tmp_path / "s/[a-d]*")]):
        (image,) = find_images(list(arguments))
        assert (image.local, image.parts) == (paths[1], (paths[0], paths[2], paths[3]))


def test_a_dicom_series_in_an_archive_is_one_slide(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, side in (("x.dcm", 100), ("y.dcm", 400), ("z/x.dcm", 10)):
            archive.write(dicom(tmp_path / "made.dcm", "1.2.3", side), name)
    images = find_images([str(tmp_path / "a.zip")])
    assert names(images) == ["y.dcm", "z/x.dcm"]
    assert images[0].parts == ()


def test_the_files_of_mirax_and_hamamatsu_slides_are_their_parts(tmp_path):
    for name in ("m.mrxs", "m/Data0000.dat", "m/Slidedat.ini", "other/x.png", "v-0.jpg", "v.opt", "v_map.jpg", "w.jpg"):
        write(tmp_path / name)
    write(tmp_path / "m/preview.png", encoded(".png"))
    write(tmp_path / "v.vms", b"[Virtual Microscope Specimen]\r\nImageFile=v-0.jpg\r\nMapFile=v_map.jpg\r\n"
          b"OptimisationFile=v.opt\r\nImageFile(1,0)=v-1.jpg\r\nMacro=../x.jpg\r\n")  # fmt: skip
    images = find_images([str(tmp_path)])
    assert names(images) == ["m.mrxs", "other/x.png", "v.vms", "w.jpg"]
    assert images[0].parts == (tmp_path / "m/Data0000.dat", tmp_path / "m/Slidedat.ini", tmp_path / "m/preview.png")
    assert images[2].parts == (tmp_path / "v-0.jpg", tmp_path / "v.opt", tmp_path / "v_map.jpg")
    assert [(child.name, child.kind) for child in list_children(tmp_path)] == [
        ("m.mrxs", "image"), ("other", "folder"), ("v.vms", "image"), ("w.jpg", "image"),
    ]  # fmt: skip
    assert names(find_images([str(tmp_path / "*")])) == names(images)[:1] + ["x.png"] + names(images)[2:]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".zip"):
            archive.write(path, path.relative_to(tmp_path))
    assert names(find_images([str(tmp_path / "a.zip")])) == names(images)


@pytest.mark.parametrize(
    "folder",
    ["@eaDir/scan.png", "@EADIR", "#recycle/p1", "@Recycle", "$RECYCLE.BIN/S-1-5", "$Recycle.Bin", "#snapshot",
     "System Volume Information", "lost+found", "p1/@eaDir/scan.png", "__MACOSX"],
)  # fmt: skip
def test_what_systems_keep_beside_files_is_left_out(tmp_path, folder):
    """Thumbnails and deleted files, in folders, archives and patterns; not where they are named."""
    data = tmp_path / "data"
    for name in ("p1/scan.png", f"{folder}/SYNOPHOTO_THUMB_M.png", "recycled/#1.png"):
        write(data / name, encoded(".png"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(path for path in data.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(data))
    for source in (data, tmp_path / "a.zip"):
        assert names(find_images([str(source)])) == ["p1/scan.png", "recycled/#1.png"]
        assert names(iterate_images((source,))) == ["p1/scan.png", "recycled/#1.png"]
    assert names(find_images([f"{data}/**/*.png"])) == ["scan.png", "#1.png"]
    assert names(find_images([str(data / folder)])) == names(find_images([f"{data / folder}/*.png"]))
    assert len(find_images([f"{data / folder}/*.png"])) == 1


def test_children_of_a_folder_are_images_folders_and_archives(tmp_path):
    write(tmp_path / "b.svs")
    write(tmp_path / "a/x.png")
    write(tmp_path / ".hidden/x.png")
    write(tmp_path / "notes.txt")
    write(tmp_path / "scan", encoded(".png"))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("x.png", b"")
    children = [(child.name, child.path, child.kind) for child in list_children(tmp_path)]
    assert children == [
        ("a", tmp_path / "a", "folder"), ("b.svs", tmp_path / "b.svs", "image"),
        ("c.zip", tmp_path / "c.zip", "archive"), ("scan", tmp_path / "scan", "image"),
    ]  # fmt: skip
    assert list_children(tmp_path)[1].image.name == "b.svs"


def test_a_file_that_is_too_large_to_read_at_once_is_refused(tmp_path, monkeypatch):
    from bcgan.slides import archives

    (image,) = find_images([str(write(tmp_path / "x.svs", bytes(2000)))])
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="has 2000 bytes, more than 1000"):
        image.read()


def test_an_image_without_a_suffix_is_read_unchanged(tmp_path):
    write(tmp_path / "scan", encoded(".png"))
    (image,) = find_images([str(tmp_path)])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.read())))[..., ::-1], PIXELS)
