"""Cells of tables that spreadsheets changed, and names that are those of no patient."""

import datetime
import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from bcgan import data
from bcgan.data.labels import ClassNames, read_labels
from bcgan.data.patients import check_patient
from bcgan.errors import InputError
from bcgan.evaluate import embeddings
from bcgan.settings import Data
from tests.conftest import write_png

PATCH = np.full((5, 5, 3), 200, np.uint8)
ROW = {"image": "a.png", "label": "0", "patient": "p", "x": 0, "y": 0}
ERRORS = (
    "#N/A", "#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!", "#CALC!", "#NV", "#WERT!", "#BEZUG!",
    "#ÜBERLAUF!", "#N/D", "#N/D!", "#Н/Д", "#I/T", "#YOK", "#HIÁNYZIK", "#NENÍ_K_DISPOZICI", "#¡REF!", "#¿NOMBRE?",
    "Err:502", "Fehler:502", "####",
)  # fmt: skip
ABSENT = ("nan", "NaN", "None", "NONE", "NA", "na", "N/A", "n/a", "<NA>", "null", "NULL", "NaT", "TRUE", "False",
          "unknown", "-", "?", "#N/A", "2.02401E+11", "2,02401e+11", "2E+11")  # fmt: skip
PRESENT = ("N.A.", "NA1", "Naomi", "Nan-2", "Nil", "0", "007", "1E5", "12E3", "2E-5", "#1", "P#2", "x!", "Trueman")


def write_table(path: Path, *rows: dict) -> Path:
    """Write rows as CSV, with semicolons, or as a workbook, whose error values have their type."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    if path.suffix == ".csv":
        path.write_text("".join(";".join(map(str, line)) + "\n" for line in lines), "utf-8")
        return path
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(line)
    for cell in (cell for line in book.active.iter_rows() for cell in line):
        if cell.value in openpyxl.cell.cell.ERROR_CODES:
            cell.data_type = "e"
    book.save(path)
    return path


def places(path: Path) -> list[tuple[int, int]]:
    return [(row.x, row.y) for row in read_labels(path, ClassNames(()))]


@pytest.mark.parametrize("column", ROW)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_an_error_value_is_refused_in_every_column_that_is_read(tmp_path, column, error, suffix):
    table = write_table(tmp_path / f"t{suffix}", ROW, ROW | {column: error})
    with pytest.raises(InputError, match=re.escape(f"row 3: {column} is {error!r}, an error value")):
        read_labels(table, ClassNames(()))


def test_an_error_value_in_another_column_is_not_read(tmp_path):
    (row,) = read_labels(write_table(tmp_path / "t.xlsx", ROW | {"age": "#N/A"}), ClassNames(()))
    assert (row.patient, row.label, row.x) == ("p", 0, 0)


@pytest.mark.parametrize("name", ABSENT)
def test_a_missing_value_is_no_patient(tmp_path, name):
    """In a table and a workbook, in the array of `probe`, and as a folder where it can be one."""
    for suffix in (".csv", ".xlsx"):
        with pytest.raises(InputError, match=re.escape(f"row 3: patient is {name!r}")):
            read_labels(write_table(tmp_path / f"t{suffix}", ROW, ROW | {"patient": name}), ClassNames(()))
    np.savez(tmp_path / "f.npz", features=np.eye(2), labels=[0, 1], patients=["p", name])
    with pytest.raises(InputError, match=re.escape(f"patient of patch 1, counted from 0, is {name!r}")):
        embeddings.read(tmp_path / "f.npz")
    if "/" in name:
        return
    for data_set, path in (("patient_folder", f"{name}/0/a.png"), ("idc", f"{name}_idx5_x1_y1_class0.png")):
        write_png(tmp_path / data_set / path, PATCH)
        with pytest.raises(InputError, match=re.escape(f"{path}: the patient is {name!r}")):
            data.records(Data(name=data_set, dir=tmp_path / data_set))


@pytest.mark.parametrize("name", PRESENT)
def test_names_that_only_resemble_missing_values_are_patients(name):
    check_patient(name, "here")


@pytest.mark.parametrize(
    ("number", "name"), [(8863, "8863"), (8863.0, "8863"), (1.5, "1.5"), (123456789012345.0, "123456789012345")]
)
def test_numbers_of_a_workbook_are_patients(tmp_path, number, name):
    (row,) = read_labels(write_table(tmp_path / "t.xlsx", ROW | {"patient": number}), ClassNames(()))
    assert row.patient == name


def test_numbers_with_more_digits_than_a_spreadsheet_keeps_are_refused(tmp_path):
    """Excel stores 202401012345678901 as this float, and 202401012345678902 too."""
    with pytest.raises(InputError, match=r"patient is '2\.02401012345678\d*e\+17', a number in scientific notation"):
        read_labels(write_table(tmp_path / "t.xlsx", ROW | {"patient": 2.02401012345678901e17}), ClassNames(()))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (datetime.datetime(2026, 3, 5), "2026-03-05 00:00:00"), (datetime.date(2026, 3, 5), "2026-03-05 00:00:00"),
        (datetime.time(1, 5), "01:05:00"), (datetime.timedelta(days=1, minutes=5), "1 day, 0:05:00"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["patient", "image", "label"])
def test_names_that_a_workbook_stores_as_dates_are_refused(tmp_path, value, name, column):
    """Other cells of the column stay names: patient 5-3 would count as two."""
    with pytest.raises(InputError, match=f"row 3: {column} is {re.escape(repr(name))}, a date or a time"):
        read_labels(write_table(tmp_path / "t.xlsx", ROW, ROW | {column: value}), ClassNames(()))


@pytest.mark.parametrize("name", ["5-Mar", "05-Mar", "Mar-05", "5. Mrz", "05. Juni", "5-May-26", "5-sept", "01:30:00"])
def test_names_that_a_spreadsheet_wrote_as_dates_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"row 3: patient is {re.escape(repr(name))}, a date or a time"):
        read_labels(write_table(tmp_path / "t.csv", ROW, ROW | {"patient": name}), ClassNames(()))


NO_DATES = (
    "MAR-05", "mai-12", "5-3", "2026-03-05", "Marta-05", "12-Maren", "12 Mayer", "12-Maria", "3 Junker", "7 Decker",
    "Jan 12", "p5-Mar",
)  # fmt: skip


@pytest.mark.parametrize("name", NO_DATES)
def test_names_that_only_resemble_dates_are_patients(tmp_path, name):
    (row,) = read_labels(write_table(tmp_path / "t.csv", ROW | {"patient": name}), ClassNames(()))
    assert row.patient == name
    check_patient("5-Mar", "a folder")  # no spreadsheet has changed its name


def test_a_hidden_sheet_is_not_read(tmp_path):
    path = write_table(tmp_path / "t.xlsx", ROW | {"patient": "shown"})
    workbook = openpyxl.load_workbook(path)
    hidden = workbook.copy_worksheet(workbook.active)
    workbook.move_sheet(hidden, -1)
    hidden.sheet_state = "hidden"
    hidden.cell(2, list(ROW).index("patient") + 1).value = "hidden"
    workbook.save(path)
    assert [row.patient for row in read_labels(path, ClassNames(()))] == ["shown"]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize(
    ("value", "x"),
    [(0, 0), (1251, 1251), ("1251", 1251), (12.0, 12), ("12.0", 12), ("12.", 12), ("1251.000", 1251), ("0.000", 0),
     ("", -1)],
)  # fmt: skip
def test_whole_numbers_are_places(tmp_path, value, x, suffix):
    assert places(write_table(tmp_path / f"t{suffix}", ROW | {"x": value, "y": value})) == [(x, x)]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(value, "no whole number") for value in ("1.251", "50.9", 50.5, "1,251", "1.000.000", "-5", "12.01", "x")]
    + [(value, "thousands") for value in ("1.000", "12.000", "512.000")]  # without another number that tells
    + [("1E+05", "rounded")],
)
def test_fractions_and_points_between_thousands_are_no_places(tmp_path, axis, value, words, suffix):
    table = write_table(tmp_path / f"t{suffix}", ROW, ROW | {axis: value})
    for read in (places, embeddings.read_places):
        with pytest.raises(InputError, match=f"row 3: {axis} is {re.escape(repr(str(value)))}, .*{words}"):
            read(table)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("telling", ["0.000", "1024.000", "7.0"])
def test_decimals_of_another_number_tell_what_a_point_is(tmp_path, telling, suffix):
    """As pandas and R write floats: 512.000 is not half a million."""
    table = write_table(tmp_path / f"t{suffix}", ROW | {"x": "512.000"}, ROW | {"x": telling}, ROW | {"x": ""})
    assert [x for x, _ in places(table)] == [512, int(float(telling)), -1]


@pytest.mark.parametrize(
    ("labels", "classes", "meaning"),
    [
        (["0", "1"], ["Malignant", "Benign"], "0 = benign, 1 = malignant"),
        (["0", "1.0"], ["tumor", "normal"], "0 = tumor, 1 = normal"),
        (["1", "2"], {"benign": ["1"], "malignant": ["2"]}, "1 = benign, 2 = malignant"),
        (["normal", "tumor"], ["normal", "tumor"], None),
    ],
)
@pytest.mark.parametrize("is_table", [False, True])
def test_the_class_of_each_number_is_logged_once_where_labels_are_numbers(
    tmp_path, caplog, labels, classes, meaning, is_table
):
    for label in labels:
        for number in range(2):
            write_png(tmp_path / f"d/p/{label.removesuffix('.0')}/{number}.png", PATCH)
    rows = [{"image": f"p/{label.removesuffix('.0')}/0.png", "label": label, "patient": "p"} for label in labels]
    table = write_table(tmp_path / "t.csv", *rows) if is_table else None
    with caplog.at_level("INFO", "bcgan"):
        data.records(Data(name="patient_folder", dir=tmp_path / "d", classes=classes, labels=table))
    logged = [message for message in caplog.messages if "are numbers" in message]
    assert logged == ([f"the labels of {table or tmp_path / 'd'} are numbers: {meaning}"] if meaning else [])
