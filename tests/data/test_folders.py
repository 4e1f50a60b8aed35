"""Folders that are read as patients are patients: not slides, sites or classes."""

import zipfile

import numpy as np
import pytest

from bcgan.data.breakhis import scan as breakhis
from bcgan.data.idc import scan as idc
from bcgan.data.patient_folder import scan as patient_folder
from bcgan.errors import InputError
from bcgan.preprocess.images import encode_png

PATCH = encode_png(np.full((5, 5, 3), 200, np.uint8), None)


def write(root, *names: str, packed: bool = False):
    """Write an image under each name, in a folder or an archive, and return its path."""
    if packed:
        with zipfile.ZipFile(root / "data.zip", "w") as archive:
            for name in names:
                archive.writestr(name, PATCH)
        return root / "data.zip"
    for name in names:
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PATCH)
    return root / "data"


def patients(*paths, classes=()) -> list[str]:
    return [record.patient for record in patient_folder.records(paths, classes)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("p1/S1/benign/a.png", "p1/S2/malignant/a.png", "p2/S3/benign/a.png"), "'S1' and 'S3' may be slides"),
        (("p1/slide1/benign/a.png", "p2/slide1/benign/a.png"), "'slide1' and 'slide1' may be slides"),
        (("site1/001/benign/a.png", "site2/001/benign/a.png"), "list the folders above them in data.dir"),
        (("p1/benign/a.png", "p2/slide/benign/a.png"), "folders above <patient>/<class>/ differ"),
        (("root/p1/benign/a.png", "root/p2/s/benign/a.png"), r"root/p1/benign/a\.png and .*root/p2/s/benign/a\.png"),
        (("benign/0/a.png", "malignant/1/a.png"), "patient would be 'benign', which is a class"),
        (("p0/Benign/0/a.png", "p1/benign/1/a.png"), "patient would be 'Benign', which is a class"),
    ],
)
def test_folders_that_may_be_no_patients_are_refused(tmp_path, names, words, packed):
    with pytest.raises(InputError, match=words):
        patients(write(tmp_path, *names, packed=packed))


def test_a_folder_of_a_configured_class_is_no_patient(tmp_path):
    source = write(tmp_path, "In Situ/0/a.png", "normal/1/a.png")
    with pytest.raises(InputError, match="patient would be 'In Situ'"):
        patients(source, classes=(("normal", ()), ("dcis", ("insitu",))))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("root", ["", "root/", "BACH/images/"])
def test_folders_that_all_images_have_in_common_are_no_patients(tmp_path, root, packed):
    source = write(tmp_path, *(f"{root}{name}/0/a.png" for name in ("0", "1", "p1")), packed=packed)
    assert patients(source) == ["0", "1", "p1"]


def test_every_entry_of_data_dir_and_every_archive_has_its_own_common_folder(tmp_path, caplog):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    paths = (
        write(tmp_path / "0", "site1/001/benign/a.png", "site1/003/benign/a.png"),
        write(tmp_path / "1", "below/site2/002/benign/a.png", packed=True),
        write(tmp_path / "2", "004/benign/a.png", "005/benign/a.png"),
    )
    assert sorted(patients(*paths)) == ["001", "002", "003", "004", "005"]
    assert not caplog.messages
    assert patients(*paths, paths[0]).count("001") == 2
    write(tmp_path / "2", "001/benign/a.png")
    caplog.clear()
    assert patients(*paths).count("001") == 2
    assert "1 patients lie in several folders or archives and count once, the first: 001 in" in caplog.text


KINDS = (".png", ".PNG", ".tif", ".TIFF", ".jpg", ".ome.tif", "")
BREAKHIS, IDC = "SOB_M_DC-14-2523-40-00{}", "8863_idx5_x{}_y1_class1"


@pytest.mark.parametrize(("scan", "name"), [(breakhis, BREAKHIS), (idc, IDC)])
def test_every_suffix_of_an_image_is_read_and_other_names_are_counted(tmp_path, caplog, scan, name):
    source = write(tmp_path, *(name.format(number) + kind for number, kind in enumerate(KINDS)))
    records = scan.records((source,))
    assert [record.key for record in records] == [name.format(number) for number in range(len(KINDS))]
    assert {(record.patient, record.label) for record in records} == {(records[0].patient, 1)}
    assert not caplog.messages
    write(tmp_path, "overview.tif", "map.png")
    assert len(scan.records((source,))) == len(KINDS)
    assert "2 images" in caplog.text and f"left out, the first: {source}/map.png" in caplog.text
