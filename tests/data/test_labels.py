"""Classes from names of folders and from tables, magnifications, and the scale of a data set."""

import os
import re

import numpy as np
import pandas as pd
import pytest

from bcgan import data, experiment
from bcgan.data.breakhis import scan as breakhis
from bcgan.errors import InputError
from bcgan.settings import Data
from tests.conftest import write_png

PATCH = np.full((5, 5, 3), 200, np.uint8)
BACH = {"benign": ["Normal", "Benign"], "malignant": ["in situ", "Invasive"]}


def folder_of(root, *names: str):
    for name in names:
        write_png(root / name, PATCH)
    return root


def table_of(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def labelled(root, table, **settings) -> dict[str, tuple[str, int]]:
    settings = Data(name="patient_folder", dir=root, labels=table, **settings)
    return {record.key: (record.patient, record.label) for record in data.records(settings)}


def test_folders_of_other_names_are_classes_if_they_are_mapped(tmp_path, caplog):
    folder_of(tmp_path, "a/Normal/x.png", "a/benign/x.png", "b/InSitu/x.png", "b/IN SITU/y.png", "c/1/x.png")
    settings = Data(name="patient_folder", dir=tmp_path, classes=BACH)
    with caplog.at_level("WARNING", "bcgan"):
        records = data.records(settings)
    assert [(record.patient, record.label) for record in records] == [("a", 0), ("a", 0), ("b", 1), ("b", 1), ("c", 1)]
    assert "has the class 'Invasive'" in caplog.text
    assert "Normal" not in caplog.text


def test_a_folder_that_is_no_class_is_named_with_all_folder_labels(tmp_path):
    folder_of(tmp_path, "a/Normal/x.png", "b/InSitu/x.png", "c/1/x.png")
    with pytest.raises(InputError) as error:
        data.records(Data(name="patient_folder", dir=tmp_path))
    for words in ("a/Normal/x.png: label 'Normal'", "seen: 1, InSitu, Normal", "data.classes={benign: [...]"):
        assert words in str(error.value)
    settings = Data(name="patient_folder", dir=tmp_path, classes={"benign": ["1", "normal"], "malignant": "insitu"})
    assert [record.label for record in data.records(settings)] == [0, 1, 0]  # remapped


def test_a_name_mapped_to_both_classes_is_refused():
    with pytest.raises(InputError, match="'normal' is benign and malignant"):
        experiment.load("folder", ("data.classes={benign: [Normal], malignant: [normal ]}",))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_names_classes_and_patients(tmp_path, encoding, delimiter, end):
    root = folder_of(tmp_path / "data", "s/a.png", "s/t/b.png", "é.png")
    rows = [["Patient", " IMAGE", "label"], ["007", "s\\a.png", "Malignant"], ["Zoe\u0301 ", "b.png", "0"], [],
            ["007", '"e\u0301.png"', "1.0"]]  # fmt: skip
    table = table_of(tmp_path / "labels.csv", end.join(map(delimiter.join, rows)), encoding)
    assert labelled(root, table) == {"s/a.png": ("007", 1), "s/t/b.png": ("Zoé", 0), "é.png": ("007", 1)}


def test_a_workbook_names_classes_and_patients(tmp_path):
    root = folder_of(tmp_path / "data", "a.png", "b.png", "c.png")
    for patients in ([8863, "007", "8863"], [8863.0, 1.5, 8863]):
        frame = pd.DataFrame({"Image": ["a.png", "b.png", "c.png"], "Label": [0, 1, "malignant"], "PATIENT": patients})
        frame.to_excel(root / "labels.xlsx", index=False)
        middle = str(patients[1])
        expected = {"a.png": ("8863", 0), "b.png": (middle, 1), "c.png": ("8863", 1)}
        assert labelled(root, root / "labels.xlsx") == expected


def test_decimals_that_a_spreadsheet_added_are_removed(tmp_path):
    root = folder_of(tmp_path / "data", "a.png", "b.png")
    table = table_of(tmp_path / "t.csv", "image,label,patient\na.png,0.0,8863.0\nb.png,1.0,0012.0\n")
    assert labelled(root, table) == {"a.png": ("8863", 0), "b.png": ("0012", 1)}
    table = table_of(tmp_path / "t.csv", "image,label,patient\na.png,0,8863.0\nb.png,1,8863\n")
    with pytest.raises(InputError, match=r"'8863' and '8863\.0'"):
        labelled(root, table)


def test_a_table_gives_coordinates_and_classes_and_leaves_out_images_without_a_row(tmp_path, caplog):
    root = folder_of(tmp_path / "data", "a.png", "b.png", "c.png", "d.png")
    text = "image,label,patient,x,y\na.png,InSitu,1,100,50.0\nb.png,normal,2,,\n"
    settings = Data(name="patient_folder", dir=root, labels=table_of(tmp_path / "t.csv", text), classes=BACH, mpp=0.5)
    with caplog.at_level("INFO", "bcgan"):
        records = data.records(settings)
    assert [record[3:7] for record in records] == [("1", 1, 100, 50), ("2", 0, -1, -1)]
    assert {record.mpp for record in records} == {0.5}
    assert f"2 images have no row and are left out, the first: {root}/c.png" in caplog.text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("gone.png,0,p\ns/a.png,0,p", "row 2: not in data.dir: gone.png"),
        ("s/a.png,0,p\ns\\a.png,1,p", "rows 2 and 3 say different things of s\\a.png"),
        ("s/a.png,0,p\ns/a.png,0,q", "rows 2 and 3"),
        ("a.png,0,p", "row 2: a.png is the name of"),
        ("s/a.png,2,p", "row 2: label '2' is none of"),
        ("s/a.png,0,", "row 2: no patient"),
        ("s/a.png,0,p\n,1,q", "row 3: no image"),
    ],
)
def test_a_table_that_does_not_fit_names_the_row(tmp_path, rows, words):
    root = folder_of(tmp_path / "data", "s/a.png", "t/a.png")
    table = table_of(tmp_path / "t.csv", f"image,label,patient\n{rows}\n")
    with pytest.raises(InputError, match=re.escape(words)):
        labelled(root, table)


def test_a_table_that_is_missing_or_lacks_a_column_is_named(tmp_path):
    root = folder_of(tmp_path / "data", "a.png")
    with pytest.raises(InputError, match=r"no column patient; its columns: image, label, case"):
        labelled(root, table_of(tmp_path / "t.csv", "image,label,case\na.png,0,p\n"))
    with pytest.raises(InputError, match=r"gone\.csv does not exist"):
        labelled(root, tmp_path / "gone.csv")
    (tmp_path / "t.xlsx").write_bytes(b"no workbook")
    with pytest.raises(InputError, match=r"t\.xlsx is no readable workbook"):
        labelled(root, tmp_path / "t.xlsx")


HEADER = "image,label,patient"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEADER},Label\na.png,0,p,1\n", "has 2 columns label"),
        (f"{HEADER},IMAGE\na.png,0,p,b.png\n", "has 2 columns image"),
        (f"{HEADER},x,y,X\na.png,0,p,1,2,3\n", "has 2 columns x"),
        (f"{HEADER}\na.png,0,Doe, John\nb.png,1,Doe, Jane\n", "row 2: a.png, 0, Doe, John has more cells"),
        (f"{HEADER},,\na.png,0,p,,\nb.png,1,Doe, Jane,\n", "row 3: b.png, 1, Doe, Jane,  has more cells"),
        (f'{HEADER}\na.png,0,"p\nb.png,1,q\n', "line 2: a quotation mark is not closed"),
        (f'{HEADER}\na.png,0,p\nb.png,1,"q"r\n', "line 3: a quotation mark"),
        (f'{HEADER}\na.png,0,"p\nb.png,1,q"\n', "row 2: its patient has a line break"),
        (f"{HEADER}\n\n,,\n", "has a header and no row"),
    ],
)
def test_a_table_that_can_be_misread_is_refused(tmp_path, text, words):
    root = folder_of(tmp_path / "data", "a.png", "b.png")
    with pytest.raises(InputError, match=re.escape(words)):
        labelled(root, table_of(tmp_path / "t.csv", text))


def test_a_workbook_with_cells_beyond_its_header_is_refused(tmp_path):
    root = folder_of(tmp_path / "data", "a.png")
    table = pd.DataFrame([["image", "label", "patient"], ["a.png", "0", "Doe", "John"]])
    table.to_excel(tmp_path / "t.xlsx", index=False, header=False)
    with pytest.raises(InputError, match="row 2: a.png, 0, Doe, John has more cells than columns"):
        labelled(root, tmp_path / "t.xlsx")


def test_quoted_cells_other_columns_and_empty_cells_at_the_end_are_read(tmp_path):
    root = folder_of(tmp_path / "data", "a.png", "b.png")
    text = f',{HEADER},note,note\n0,a.png,0,"Doe, John","two\nlines",,,\n1,b.png,1,"Doe, Jane"\n'
    assert labelled(root, table_of(tmp_path / "t.csv", text)) == {"a.png": ("Doe, John", 0), "b.png": ("Doe, Jane", 1)}


def test_an_image_on_two_rows_that_agree_counts_once(tmp_path):
    root = folder_of(tmp_path / "data", "s/a.png", "t/b.png")
    table = table_of(tmp_path / "t.csv", "image,label,patient\ns/a.png,0,p\na.png,benign,p\nb.png,1,p\n")
    assert labelled(root, table) == {"s/a.png": ("p", 0), "t/b.png": ("p", 1)}


def test_mixed_magnifications_are_refused_unless_allowed(tmp_path):
    for scale, count in ((40, 2), (400, 1)):
        for number in range(count):
            write_png(tmp_path / f"SOB_B_A-14-22549AB-{scale}-00{number}.png", PATCH)
    with pytest.raises(InputError, match=r"\(40X: 2, 400X: 1\).*Set data\.magnification=40"):
        data.records(Data(name="breakhis", dir=tmp_path))
    assert len(data.records(Data(name="breakhis", dir=tmp_path, magnification=40))) == 2
    every = data.records(Data(name="breakhis", dir=tmp_path), mixed=True)
    assert [round(record.mpp, 4) for record in every] == [0.49, 0.49, 0.049]
    assert [record.mpp for record in breakhis.records((tmp_path,), 400)] == [pytest.approx(0.049)]


def test_records_have_the_microns_per_pixel_of_their_data_set(tmp_path, idc_folder):
    assert {record.mpp for record in data.records(Data(name="idc", dir=idc_folder))} == {4.0}
    folder_of(tmp_path, "p/0/x.png")
    assert data.records(Data(name="patient_folder", dir=tmp_path))[0].mpp is None


def test_names_that_are_not_utf_8_are_patients_and_images(tmp_path):
    write_png(tmp_path / os.fsdecode(b"p\xff/0/x\xfe.png"), PATCH)
    (record,) = data.records(Data(name="patient_folder", dir=tmp_path))
    assert (record.patient, record.key) == ("p\\xff", "p\\xff/0/x\\xfe.png")
    assert len(record.read()) > 0
