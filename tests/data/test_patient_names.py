"""Spellings of a patient in archives and lists are recognized as one patient, or both spellings are named."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bcgan import cli, data
from bcgan.data import splits
from bcgan.data.patients import check_spellings, escape_patient, normalize_patient
from bcgan.errors import InputError
from bcgan.settings import Data
from tests.conftest import write_png
from tests.slides.test_archives import tarred, without_flag, zipped

PATIENTS = [f"Zoé {number}" for number in range(1, 13)]
ROLES = {"train": PATIENTS[:8], "validation": PATIENTS[8:10], "test": PATIENTS[10:]}
SPELLINGS = {
    "composed": lambda name: unicodedata.normalize("NFC", name),
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "no-break space": lambda name: f"{name}\u00a0",
    "byte order mark": lambda name: f"\ufeff{name}",
    "zero width": lambda name: f"\u200b {name}\u2060",
}
ENCODINGS = {
    "utf-8": "utf-8", "utf-8-sig": "utf-8-sig", "utf-16": "utf-16", "utf-16-le": "utf-16-le", "utf-16-be": "utf-16-be",
}  # fmt: skip
ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r", "blank lines": "\n\n", "spreadsheet": ",\r\n", "spaces": " \t\n"}


def files_of(spelling: str) -> dict[str, bytes]:
    names = (f"{SPELLINGS[spelling](patient)}/{label}/{number}.png" for patient in PATIENTS
             for label in (0, 1) for number in range(2))  # fmt: skip
    return {name: name.encode() for name in names}


PLACES = {
    "data.zip": zipped, "backslash.zip": lambda files: zipped(files, "\\"),
    "data.tar": lambda files: tarred(files, "w"),
    "data.tar.gz": lambda files: tarred(files, "w:gz"), "nested.zip": lambda files: zipped({"data.zip": zipped(files)}),
    "no-flag.zip": lambda files: without_flag(zipped(files)),
}  # fmt: skip


def place_of(folder: Path, place: str, files: dict[str, bytes]) -> Path:
    path = folder / place
    if place in PLACES:
        path.write_bytes(PLACES[place](files))
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_lists(folder: Path, encoding: str, end: str, spell=lambda name: name, roles=None) -> Path:
    folder.mkdir(exist_ok=True)
    for role, patients in (roles or ROLES).items():
        text = "".join(f"{spell(patient)}{end}" for patient in patients)
        mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
        (folder / f"{role}.txt").write_bytes((mark + text).encode(encoding))
    return folder


def split_of(settings: Data) -> dict[str, str]:
    index = pd.DataFrame(data.records(settings))
    index["role"] = splits.assign_roles(index, settings, 0)
    written = splits.describe(index, settings, 0)
    assert written["absent"] == []
    return written["patients"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", ["folder", *PLACES])
def test_every_spelling_archive_and_list_gives_the_same_split(tmp_path, place, spelling):
    path = place_of(tmp_path, place, files_of(spelling))
    for encoding in ENCODINGS.values():
        for end in ENDS.values():
            lists = write_lists(tmp_path / "lists", encoding, end)
            settings = Data(name="patient_folder", dir=path, protocol="official", split_dir=lists)
            assert split_of(settings) == {patient: role for role, several in ROLES.items() for patient in several}


def test_spellings_that_are_mixed_in_one_data_set_are_one_patient_too(tmp_path):
    files = [files_of(spelling) for spelling in SPELLINGS]
    path = place_of(tmp_path, "data.zip", {name: b"" for several in files for name in several})
    every = data.records(Data(name="patient_folder", dir=path))
    assert {record.patient for record in every} == set(PATIENTS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("P1", "p1"), ("P1", "P 1"), ("P1", "P_1"), ("P1", "P-1"), ("P1", "P01"), ("P001", "P001.tif"),
        ("8863", "8863.0"), ("8863", "08863"), ("P1", "Ｐ１"), ("P 1", "P\u00a01"), ("P1", "P\u200b1"),
        ("straße", "STRASSE"), ("A B", "AB"), ("P1.ome.tif", "p-01"),
    ],
)  # fmt: skip
def test_two_similar_spellings_are_refused_and_both_named(tmp_path, first, second):
    for names in ([first, second], [second, first, "Q7"]):
        with pytest.raises(InputError) as error:
            check_spellings(names, "here")
        assert all(
            word in str(error.value) for word in (repr(first), repr(second), "here", "data.similar_patients=allow")
        )
    path = place_of(tmp_path, "folder", {f"{name}/{label}/x.png": b"" for name in (first, second) for label in (0, 1)})
    with pytest.raises(InputError, match=r"data\.similar_patients=allow"):
        data.records(Data(name="patient_folder", dir=path))
    assert len({record.patient for record in data.records(
        Data(name="patient_folder", dir=path, similar_patients="allow"))}) == 2  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [["1-11", "11-1", "111"], ["P1", "P10", "P100"], ["1.5", "15"], ["A1B2", "A12B"], ["0", "10"], ["é1", "e1"],
     ["TCGA-A1-A0SB", "TCGA-A1-A0SD"], ["22549", "2254"]],
)  # fmt: skip
def test_different_patients_are_not_confused(names):
    check_spellings(names, "here")


def test_a_list_with_another_spelling_is_refused_and_both_are_named(tmp_path):
    path = place_of(tmp_path, "folder", files_of("composed"))
    lists = write_lists(tmp_path / "lists", "utf-8", "\n", str.upper)
    settings = Data(name="patient_folder", dir=path, protocol="official", split_dir=lists)
    with pytest.raises(InputError, match=r"lists and the data: patients 'ZOÉ 1' and 'Zoé 1' differ"):
        split_of(settings)
    roles = splits.read_lists(lists)
    assert roles["ZOÉ 12"] == "test"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("P1\r", "P1"), ("\ufeffP1", "P1"), ("\u200b\u00a0P1 \u2009", "P1"), ("e\u0301", "é"), ("a\\b", "a/b"),
        ("p\\xff", "p\\xff"), ("0012", "0012"), ("P  1", "P  1"), ("\t", ""),
    ],
)  # fmt: skip
def test_names_are_normalized(text, name):
    assert normalize_patient(text) == name
    assert normalize_patient(name) == name


@pytest.mark.parametrize("name", ["A_2", "Müller, K", "50 %", "a/b", "p\\xff", "A%41", "1+1", "P1", "Zoé~1", "日本"])
def test_names_that_bcgan_tile_escaped_are_the_patients(name):
    escaped = escape_patient(name)
    assert escaped.isascii() and not set("_/ ,") & set(escaped)
    assert normalize_patient(escaped) == normalize_patient(name) == name


@pytest.mark.parametrize("name", ["A%41", "50%", "%zz", "a%5f2", "100%25_a", "%C3", "A%5F2_b", "%ff"])
def test_another_name_with_a_percent_sign_stays(name):
    assert normalize_patient(name) == name


@pytest.mark.parametrize("data_set", ["idc", "patient_folder"])
def test_escaped_and_plain_names_of_a_patient_have_one_role(tmp_path, data_set):
    """In archives that `bcgan tile` wrote, beside folders that name the patients, with lists of their names."""
    roles = {"train": ["A_1", "Müller, K"], "validation": ["B_1"], "test": ["C_1"]}
    names = [name for several in roles.values() for name in several]
    spellings = {"tiled": escape_patient, "plain": str}
    for number, (folder, spell) in enumerate(spellings.items()):
        files = (f"{spell(name)}/{label}/{spell(name)}_idx{number}_x1_y51_class{label}.png" for name in names
                 for label in (0, 1))  # fmt: skip
        place_of(tmp_path, folder, dict.fromkeys(files, b""))
    for spell in spellings.values():
        lists = write_lists(tmp_path / "lists", "utf-8", "\n", spell, roles)
        paths = [tmp_path / folder for folder in spellings]
        settings = Data(name=data_set, dir=paths, protocol="official", split_dir=lists)
        assert len(data.records(settings)) == 4 * len(names)
        assert split_of(settings) == {name: role for role, several in roles.items() for name in several}


def test_lists_may_hold_quotes_and_comments_and_patients_without_data(tmp_path, caplog):
    roles = ROLES | {"train": ["# of the trial", "#", *PATIENTS[:8], *(f"Away {n}" for n in range(12))]}
    lists = write_lists(tmp_path / "lists", "utf-8", "\n", lambda name: name if "#" in name else f'"{name}";', roles)
    path = place_of(tmp_path, "folder", files_of("composed"))
    settings = Data(name="patient_folder", dir=path, protocol="official", split_dir=lists)
    index = pd.DataFrame(data.records(settings))
    with caplog.at_level("WARNING", "bcgan"):
        index["role"] = splits.assign_roles(index, settings, 0)
    assert "12 patients of the lists have no image in the data: Away 0, Away 1, Away 10" in caplog.text
    assert caplog.text.count("Away") == 10
    written = splits.describe(index, settings, 0)
    assert len(written["absent"]) == 12
    assert written["counts"]["train"]["patients"] == 8


def test_a_list_in_another_encoding_is_refused(tmp_path):
    for content in ("Zoé 1\n".encode("latin-1"), "P1\n".encode("utf-16-le")):
        lists = write_lists(tmp_path / "lists", "utf-8", "\n")
        (lists / "test.txt").write_bytes(content)
        with pytest.raises(InputError, match=r"test\.txt cannot be read as text .* Save it as UTF-8"):
            splits.read_lists(lists)


def test_a_patient_in_several_archives_and_classes_counts_once(tmp_path):
    for number, label in enumerate((0, 1, 1)):
        place_of(tmp_path, "folder", {f"{number}/P1/{label}/{number}.png": b""})
        (tmp_path / f"folder/{number}.zip").write_bytes(zipped({f"P1/{label}/in{number}.png": b""}))
    paths = [tmp_path / f"folder/{number}{kind}" for number in range(3) for kind in ("", ".zip")]
    every = data.records(Data(name="patient_folder", dir=paths))
    assert len(every) == 6
    assert {record.patient for record in every} == {"P1"}


def test_patient_names_of_the_public_archive_may_hold_any_character(tmp_path):
    names = ["P_1", "Q_1", "Zoe\u0301", "1-11"]
    path = place_of(tmp_path, "data.zip", {f"{name}/0/{name}_idx5_x1_y51_class0.png": b"" for name in names})
    every = data.records(Data(name="idc", dir=path))
    assert [record.patient for record in every] == ["1-11", "P_1", "Q_1", "Zoé"]
    assert every[3].key == "Zoé_idx5_x1_y51_class0"


CASES = Path(__file__).parents[3] / "shared/cases"


@pytest.mark.skipif(not CASES.exists(), reason="the cases lie beside the repository, on some machines only")
@pytest.mark.parametrize(
    ("place", "settings", "counts"),
    [
        ("idc_plain.zip", ["data.protocol=kfold"], None), ("idc_backslash.zip", ["data.protocol=kfold"], None),
        ("idc_plain.zip", ["data.protocol=official", f"data.split_dir={CASES}/lists_bom"], [8, 2, 2]),
    ],
)  # fmt: skip
def test_shared_cases_are_preprocessed(in_folder, place, settings, counts):
    (in_folder / "idc.yaml").write_text("name: idc\ndata: {name: idc}\n")
    options = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "idc.yaml", "--until", "preprocess", "--data-dir", str(CASES / place), *options])
    assert stop.value.code == 0
    (path,) = in_folder.rglob("split.json")
    split = json.loads(path.read_text())
    assert len(split["patients"]) == 12
    if counts:
        assert [split["counts"][role]["patients"] for role in splits.LIST_ROLES] == counts


@pytest.mark.parametrize(
    ("left", "right"),
    [("P-1", "P\u20131"), ("P-1", "P\u20111"), ("P-1", "P\u22121"), ("8863", "8863.00"), ("P01", "P01.gif"),
     ("P01", "P01,"), ("P1", "P\u0661")],
)  # fmt: skip
def test_variants_that_office_programs_write_are_similar_spellings(left, right):
    with pytest.raises(InputError, match="differ in spelling alone"):
        check_spellings([left, right], "here")


@pytest.mark.parametrize("text", ["'8863", '="8863"', "\ufeff8863 ", "8863\r"])
def test_quotes_and_marks_around_a_number_are_removed(text):
    assert normalize_patient(text) == "8863"
    assert normalize_patient("O'Brien") == "O'Brien"


def test_names_of_images_are_not_decoded(tmp_path):
    """A file that was downloaded may have a name in which percent signs stand for other characters."""
    for number, name in enumerate(("Slide%201.png", "A%5F2.png")):
        write_png(tmp_path / "images" / name, np.full((50, 50, 3), 90 + number, np.uint8))
    (tmp_path / "labels.csv").write_text("image,label,patient\nSlide%201.png,0,p\nA%5F2.png,1,B%5F2\n")
    settings = Data(name="patient_folder", dir=tmp_path / "images", labels=tmp_path / "labels.csv")
    assert {record.patient for record in data.records(settings)} == {"p", "B_2"}
