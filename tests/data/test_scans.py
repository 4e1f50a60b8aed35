"""Data sets are read from the layouts of the public archives."""

import inspect
import json
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bcgan import data, experiment
from bcgan.data.breakhis import scan as breakhis
from bcgan.data.idc import scan as idc
from bcgan.data.patient_folder import scan as patient_folder
from bcgan.data.records import UNKNOWN
from bcgan.errors import InputError
from bcgan.predict import sample
from bcgan.preprocess.images import encode_png
from bcgan.release import dataset
from bcgan.settings import Data
from bcgan.slides import archives
from bcgan.slides.files import iterate_images
from bcgan.slides.kinds import is_synthetic
from tests.conftest import PATCHES, PATIENTS, write_png

PATCH = np.full((50, 50, 3), 200, np.uint8)


@pytest.fixture
def archive(tmp_path, idc_folder):
    """An archive like the public one: every file twice, the second copy in a folder, and a file of macOS."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(idc_folder.rglob("*.png")):
            name = image.relative_to(idc_folder).as_posix()
            file.write(image, name)
            file.write(image, f"IDC_regular_ps50_idx5/{name}")
        file.writestr("__MACOSX/100/0/._100_idx5_x1_y51_class0.png", b"junk")
    return path


def test_folder_and_archive_hold_the_same_patches(idc_folder, archive):
    from_folder, from_archive = idc.records((idc_folder,)), idc.records((archive,))
    assert len(from_folder) == len(from_archive) == PATIENTS * PATCHES
    for loose, archived in zip(from_folder, from_archive, strict=True):
        assert loose[:1] + loose[3:8] == archived[:1] + archived[3:8]
        assert loose.read() == archived.read()
    assert from_archive[0].source == "archive.zip"
    assert "archive.zip!" in from_archive[0].path


def test_a_patch_in_several_archives_and_folders_counts_once(idc_folder, archive):
    assert len(idc.records((archive.parent, idc_folder))) == PATIENTS * PATCHES


def write_archive(path, **images: bytes):
    with zipfile.ZipFile(path, "w") as file:
        for name, image in images.items():
            file.writestr(f"7/0/{name}.png", image)
    return path


def test_different_images_of_one_name_are_refused_and_copies_count_once(tmp_path):
    """As two outputs of `bcgan tile` from cohorts with the same names of slides."""
    name, dark = "7_idx5_x1_y1_class0", PATCH // 2
    write_png(tmp_path / f"a/7/0/{name}.png", PATCH)
    write_png(tmp_path / f"b/7/0/{name}.png", dark)
    bright = (tmp_path / f"a/7/0/{name}.png").read_bytes()
    first = write_archive(tmp_path / "first.zip", **{name: bright})
    second = write_archive(tmp_path / "second.zip", **{name: (tmp_path / f"b/7/0/{name}.png").read_bytes()})
    for sources in ((tmp_path / "a", tmp_path / "b"), (first, second), (tmp_path / "a", second)):
        with pytest.raises(InputError) as error:
            idc.records(sources)
        assert f"{name}.png and " in str(error.value)
        assert str(sources[0]) in str(error.value) and str(sources[1]) in str(error.value)
    third = write_archive(tmp_path / "third.zip", **{name: encode_png(PATCH, 4.0)})  # other bytes of the same pixels
    for sources in ((first, tmp_path / "a"), (first, third), (third, tmp_path / "a")):
        assert len(idc.records(sources)) == 1


def test_checksums_of_archives_spare_reading_copies(archive, monkeypatch):
    monkeypatch.setattr(archives, "read_member", lambda *arguments: pytest.fail("a copy was read"))
    assert len(idc.records((archive,))) == PATIENTS * PATCHES


def test_breakhis_images_of_one_name_have_to_be_copies(tmp_path):
    for part in "ab":
        write_png(tmp_path / part / "SOB_B_A-14-22549CD-40-003.png", PATCH)
    assert len(breakhis.records((tmp_path,))) == 1
    write_png(tmp_path / "b/SOB_B_A-14-22549CD-40-003.png", PATCH // 2)
    with pytest.raises(InputError, match="are different images of one name"):
        breakhis.records((tmp_path,))


def test_a_patch_in_the_folder_of_another_class_is_refused(tmp_path):
    write_png(tmp_path / "8/1/8_idx5_x1_y1_class1.png", PATCH)
    write_png(tmp_path / "1/1_idx5_x1_y1_class0.png", PATCH)  # the folder is the patient's
    write_png(tmp_path / "other/2_idx5_x1_y1_class0.png", PATCH)
    assert [record.label for record in idc.records((tmp_path,))] == [0, 0, 1]
    write_png(tmp_path / "8/1/8_idx5_x51_y1_class0.png", PATCH)
    write_png(tmp_path / "1/1/1_idx5_x51_y1_class0.png", PATCH)
    with pytest.raises(InputError, match=r"1/1/1_idx5_x51_y1_class0\.png: its folder names another .* of 2 patches"):
        idc.records((tmp_path,))


def test_names_give_patient_coordinates_and_label(idc_folder):
    places = {record[3:7] for record in idc.records((idc_folder,))}
    assert ("100", 0, 1, 51) in places
    assert ("107", 1, 451, 51) in places


@pytest.mark.parametrize("label", ["2", "x"])
def test_a_label_outside_0_and_1_is_named(tmp_path, label):
    write_png(tmp_path / "9/0" / f"9_idx5_x1_y1_class{label}.png", PATCH)
    with pytest.raises(InputError, match=rf"class{label}\.png: label '{label}'.*Rename or remove"):
        idc.records((tmp_path,))


def test_missing_empty_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        idc.records((tmp_path / "nowhere",))
    with pytest.raises(InputError, match="DATA_DIR"):
        idc.records(())
    with pytest.raises(InputError, match="has no file named"):
        idc.records((tmp_path,))
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"broken\.zip is not a readable zip"):
        list(iterate_images((tmp_path,)))


@pytest.mark.parametrize("name", ["../../100_idx5_x1_y1_class0.png", "/100_idx5_x1_y1_class0.png"])
def test_an_archive_is_read_and_never_unpacked(tmp_path, idc_folder, name):
    """The name of a member may be a path outside the folder: nothing is written there."""
    image = next(idc_folder.rglob("*.png")).read_bytes()
    place = tmp_path / "a/b"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "archive.zip", "w") as file:
        file.writestr(name, image)
    (record,) = idc.records((place / "archive.zip",))
    assert record.read() == image
    assert [path.name for path in tmp_path.rglob("*.*")] == ["archive.zip"]
    assert not Path("/100_idx5_x1_y1_class0.png").exists()


def test_a_damaged_member_of_an_archive_is_an_error_of_that_file_alone(archive):
    archive_bytes = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        member = next(info for info in file.infolist() if info.filename.endswith(".png"))
    start = member.header_offset + 30 + len(member.filename)
    archive_bytes[start : start + 64] = b"\xff" * 64
    archive.write_bytes(archive_bytes)
    broken = [record for record in idc.records((archive,)) if record.path.endswith(member.filename)]
    with pytest.raises((OSError, ValueError)):
        broken[0].read()


def test_breakhis_names_carry_class_tumour_patient_and_magnification(tmp_path):
    folder = tmp_path / "BreaKHis_v1/histology_slides/breast"
    write_png(folder / "malignant/SOB/ductal_carcinoma/SOB_M_DC_14-13412/40X/SOB_M_DC-14-13412-40-001.png", PATCH)
    write_png(folder / "malignant/SOB/lobular_carcinoma/SOB_M_LC_14-13412/100X/SOB_M_LC-14-13412-100-002.png", PATCH)
    write_png(folder / "benign/SOB/adenosis/SOB_B_A_14-22549CD/40X/SOB_B_A-14-22549CD-40-003.png", PATCH)
    records = breakhis.records((tmp_path,))
    assert [record.label for record in records] == [0, 1, 1]
    assert {record.patient for record in records} == {"13412", "22549"}
    assert records[0].x == UNKNOWN
    assert len(breakhis.records((tmp_path,), 100)) == 1
    with pytest.raises(InputError, match="at 400X"):
        breakhis.records((tmp_path,), 400)


def test_a_folder_by_patient_and_class_is_read(tmp_path):
    write_png(tmp_path / "p1/benign/a.png", PATCH)
    write_png(tmp_path / "p2/1/a.png", PATCH)
    assert [(r.patient, r.label) for r in patient_folder.records((tmp_path,))] == [("p1", 0), ("p2", 1)]
    write_png(tmp_path / "p2/unsure/a.png", PATCH)
    with pytest.raises(InputError, match="label 'unsure'"):
        patient_folder.records((tmp_path,))


@pytest.mark.parametrize("packed", [False, True])
def test_synthetic_patches_are_no_patients(tmp_path, packed, caplog):
    """As `bcgan sample` writes them, samples/<class>/, which looks like <patient>/<class>/ from the folder above."""
    write_png(tmp_path / "data/p1/benign/a.png", PATCH)
    (tmp_path / "data/p1/benign/manifest.json").write_text('{"what": "a list of patches"}')
    for label in ("benign", "malignant"):
        write_png(tmp_path / f"data/samples/{label}/{label}_00001.png", PATCH)
        (tmp_path / f"data/samples/{label}/manifest.json").write_text('{"what": "synthetic patches of tissue"}')
    source = tmp_path / "data"
    if packed:
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "data"))
    with caplog.at_level("WARNING", "bcgan"):
        assert [record.patient for record in patient_folder.records((source,))] == ["p1"]
    assert "2 folders of synthetic patches, which are of no patient, are left out, the first: " in caplog.text
    with pytest.raises(InputError, match="has no image"):
        patient_folder.records((tmp_path / "data/samples",))


def test_the_manifests_that_bcgan_writes_are_recognised():
    for module in (sample, dataset):
        (text,) = re.findall(r'"what": "([^"]+)"', inspect.getsource(module))
        assert is_synthetic(lambda text=text: json.dumps({"what": text}).encode())
    for content in (b"", b"[]", b"{}", b'{"what": 1}', b"\xff", b"[" * 100_000):
        assert not is_synthetic(lambda content=content: content)


def test_patches_of_the_same_name_in_several_folders_are_all_read(tmp_path):
    places = [tmp_path / part / "patches" for part in "abc"]
    for place in places:
        write_png(place / "p1/0/a.png", PATCH)
    assert len({record.key for record in patient_folder.records(tuple(places))}) == 3


@pytest.mark.parametrize(
    ("setting", "count"),
    [
        ({"max_patches_per_class": 2}, 2), ({"subsample_fraction": 0.5}, 3), ({"subsample_fraction": 0.01}, 1),
        ({"max_patches_per_class": 1}, 1), ({"max_patches_per_class": 1000}, 5),
    ],
)  # fmt: skip
def test_subset_is_by_patient_and_class(idc_folder, setting, count):
    every = data.records(Data(name="idc", dir=(idc_folder,)))
    subset = data.records(Data(name="idc", dir=(idc_folder,), **setting))
    assert set(Counter((record.patient, record.label) for record in subset).values()) == {count}
    assert len(subset) == PATIENTS * 2 * count
    assert [record.key for record in subset] == sorted(record.key for record in subset)
    groups = pd.DataFrame(every).groupby(["patient", "label"])["key"]
    first = set(groups.head(count))
    assert ({record.key for record in subset} == first) == (count == 5)  # a random draw, not the first names


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("data.max_patches_per_class=2.5",), "max_patches_per_class"), (("data.max_patches_per_class=0",), "greater"),
        (("data.subsample_fraction=1",), "subsample_fraction"), (("data.subsample_fraction=0",), "greater"),
        (("data.subsample_fraction=0.5", "data.max_patches_per_class=2"), "set one of them"),
        (("data.limit=4",), r"data\.limit .* is now called data\.max_patches_per_class, or data\.subsample_fraction"),
    ],
)  # fmt: skip
def test_impossible_subsets_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        experiment.load("idc", settings)


def test_real_archives(real_idc):
    records = data.records(Data(name="idc", dir=(real_idc,)))
    assert len(records) == 31_469
    assert len({record.patient for record in records}) == 254
