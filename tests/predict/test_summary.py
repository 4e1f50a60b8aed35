"""Summary rows of slides and patients: counts, fractions with their bounds, and areas."""

import csv
from collections import Counter

import numpy as np
import pandas as pd
import pytest

import bcgan
from bcgan.errors import InputError
from bcgan.predict import predict, summary
from bcgan.predict.model import VERDICTS, ConfidenceThreshold
from tests.conftest import write_png
from tests.predict.conftest import command


@pytest.fixture(scope="module")
def card():
    return bcgan.load().card  # patches of 50 pixels at 4 microns: 0.04 square millimetres


def read(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_fractions_are_of_patches_with_a_label_and_limits_of_all(card):
    counts = Counter({
        "scored": 8, "abstained": 2, "called_malignant": 2, "called_benign": 6, "out_of_distribution": 3,
        "no_tissue": 5, "scored_area": 10 * 2500, "area_malignant": 2 * 2500, "area_benign": 6 * 2500,
    })  # fmt: skip
    row = summary.summary_columns(counts, 1, card)
    assert (row["patches"], row["tissue_mm2"], row["malignant_mm2"]) == (10, pytest.approx(0.4), pytest.approx(0.08))
    assert row["malignant_fraction"] == 0.25
    assert (row["malignant_fraction_low"], row["malignant_fraction_high"]) == (
        pytest.approx(2 / 13, abs=1e-6), pytest.approx(7 / 13, abs=1e-6),  # abstained and out of distribution: 5
    )  # fmt: skip
    assert (row["abstained"], row["out_of_distribution"], row["no_tissue"], row["unreadable"]) == (2, 3, 5, 0)
    assert "benign_fraction" not in row


def test_fraction_and_area_are_empty_without_patches_or_scale(card):
    empty = summary.summary_columns(Counter({"unreadable": 1}), 1, card)
    assert empty["malignant_fraction"] is None
    assert empty["tissue_mm2"] == 0
    unscaled = card.model_copy(update={"microns_per_pixel": None})
    assert summary.summary_columns(Counter({"scored": 1, "called_benign": 1}), 1, unscaled)["tissue_mm2"] is None


def test_more_than_two_classes_have_columns_each(card):
    classes = {"classes": ("a", "b", "c"), "thresholds": ConfidenceThreshold(min_confidence=0.5)}
    classes_of_card = card.model_copy(update=classes)
    row = summary.summary_columns(Counter({"scored": 4, "called_a": 1, "called_c": 3}), 1, classes_of_card)
    assert [row[f"{name}_fraction"] for name in "abc"] == [0.25, 0, 0.75]


def test_a_pattern_with_a_slash_finds_the_patient_among_the_folders(card):
    benign_patch = Counter({"scored": 1, "called_benign": 1})
    names = ("cohort/p1/benign/a.png", "cohort/p1/malignant/b.png", "cohort.zip!p2/benign/a.png")
    counts = dict.fromkeys(names, benign_patch)
    rows = summary.summarize(counts, card, r"cohort(?:\.zip)?/([^/]+)/")
    assert [(row["patient"], row["slides"]) for row in rows if not row["slide"]] == [("p1", 2), ("p2", 1)]
    in_names = dict.fromkeys(
        ("slides/p1_a.svs", "slides/p2_b.svs"), benign_patch
    )  # an excluded slash does not count as a slash
    assert set(summary.find_patients(in_names, "^[^_/]+").values()) == {"p1", "p2"}
    with pytest.raises(InputError, match=r"no patient in a.png: p\\d matches none. .*a pattern with a slash"):
        summary.find_patients(counts, r"p\d")


def test_slides_of_a_patient_are_added_up(card):
    counts = {
        "p1_a.svs": Counter({"scored": 2, "called_malignant": 2}), "p2.svs": Counter({"scored": 1, "called_benign": 1}),
        "p1_b.svs": Counter({"scored": 6, "called_benign": 6}),
    }  # fmt: skip
    table = pd.DataFrame(summary.summarize(counts, card, r"^p\d"))
    slides, patients = table[table["slide"] != ""], table[table["slide"] == ""]
    assert slides["patient"].tolist() == ["p1", "p2", "p1"]
    assert patients[["patient", "slides", "patches"]].to_numpy().tolist() == [["p1", 2, 8], ["p2", 1, 1]]
    assert patients["malignant_fraction"].tolist() == [0.25, 0]
    assert len(summary.summarize(counts, card)) == 3
    with pytest.raises(InputError, match="--patient"):
        summary.summarize(counts, card, "nobody")


def test_predict_writes_the_sums_of_its_rows(model, patches, idc_folder, tmp_path):
    write_png(tmp_path / "in" / "slide.png", np.concatenate([np.concatenate(patches[i : i + 4], 1) for i in (0, 4)]))
    out, path = tmp_path / "rows.csv", tmp_path / "summary.csv"
    arguments = ("--out", out, "--summary", path, "--patient", "^[^_.]+")
    assert command(tmp_path / "in", idc_folder, "--mpp", "4", *arguments) in (0, 3)
    rows, lines = pd.read_csv(out), read(path)
    slides = [line for line in lines if line["slide"]]
    for verdict in ("scored", "abstained", "out_of_distribution"):
        assert sum(int(line[verdict]) for line in slides) == (rows["verdict"] == verdict).sum()
    called = round(sum(float(line["malignant_mm2"]) for line in slides) / 0.04)
    assert called == (rows["label"] == "malignant").sum()
    assert {line["patient"] for line in lines if not line["slide"]} == {"slide", *map(str, range(100, 108))}
    assert command(tmp_path / "in", "--patient", "x", "--out", out) == 2


def test_batch_adds_fractions_to_its_summary_and_rows_of_patients(exported, idc_folder, tmp_path):
    from bcgan import cli

    arguments = ["batch", idc_folder, "--out", tmp_path / "out", "--model", exported, "--patient", "^[0-9]+"]
    for _ in range(2):  # the second time everything is up to date
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        assert stop.value.code in (0, 3)
        slides, patients = read(tmp_path / "out/summary.csv"), read(tmp_path / "out/patients.csv")
        assert len(slides) == len(patients) == 8
        rows = pd.concat([pd.read_csv(path) for path in (tmp_path / "out/slides").glob("*.csv")])
        malignant = sum(float(line["malignant_mm2"]) for line in patients)
        assert round(malignant / 0.04) == (rows["label"] == "malignant").sum()
        assert [line["patches"] for line in slides] == [line["patches"] for line in patients]


def test_tiles_of_one_name_in_two_folders_are_two_slides(model, patches, tmp_path):
    for folder, count in (("P01", 4), ("P02", 2)):
        for index in range(count):
            write_png(tmp_path / folder / f"core1_x{50 * (index % 2)}_y{50 * (index // 2)}.png", patches[index])
    path = tmp_path / "summary.csv"
    arguments = ("--mpp", "4", "--out", tmp_path / "rows.csv", "--summary", path)
    assert command(tmp_path / "P01", tmp_path / "P02", *arguments) in (0, 3)
    lines = read(path)
    assert [line["slide"].rpartition("/")[2] for line in lines] == ["core1", "core1"]
    counts = [sum(int(line[verdict]) for verdict in VERDICTS) for line in lines]
    assert counts == [4, 2]


def test_patients_are_found_before_anything_is_predicted(model, idc_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "predict", lambda *_: pytest.fail("predicted"))
    for pattern in ("(", "nobody"):
        assert command(idc_folder, "--summary", tmp_path / "s.csv", "--patient", pattern) == 2
        assert "--patient" in capsys.readouterr().err


def test_patients_of_files_in_archives_are_found_in_the_files_names():
    slides = ["data/a.zip!10253_1.png", "data/b.zip!folder/10253_2.png", "10254.svs"]
    assert list(summary.find_patients(slides, r"^\d+").values()) == ["10253", "10253", "10254"]


def test_two_spellings_of_a_patient_are_refused_with_a_remedy_that_the_command_has():
    with pytest.raises(InputError, match=r"'P07' and 'P7' .*or change --patient: one name for one patient"):
        summary.find_patients(["P7_a.svs", "P07_b.svs"], "^[^_]+")
