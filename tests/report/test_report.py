"""The report of a small run: the contract's names, honest nulls, no patients' tissue where it may not be."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from bcgan import cli, experiment
from bcgan.errors import InputError
from bcgan.evaluate import metrics, synthetic
from bcgan.report import tables
from bcgan.report.results import GAN_SCORES
from bcgan.report.run import read

FIGURES = (
    "fig01_examples", "fig03_system_architecture", "fig04_gan", "fig05_resnet_features", "fig06_integration",
    "embedding", "fig07_count_plot", "fig08_image_properties", "fig09_density", "fig10_accuracy_loss",
    "fig11_convergence", "gan_samples", "gan_evolution", "gan_scores", "confusion_matrix", "roc",
    "precision_recall", "reliability", "per_patient", "latent_walk", "attribute_sweep", "steering", "translations",
    "counterfactuals", "probes", "decision_curve", "comparisons", "slide_maps", "explanations", "explanation_tests",
    "stain_variation", "nearest", "feature_maps", "patient_shares", "patient_balance",
)  # fmt: skip
TABLES = (
    "table1_resnet_summary", "table2_comparison", "leak_audit", "audit", "counts", "results_test", "selection",
    "comparisons_summary", "operating_points", "inflation", "worst_calls", "model_card", "data_card", "claim",
    "patients",
)  # fmt: skip


def render(folder, *options):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "tiny.yaml", *options])
    assert stop.value.code == 0
    return folder / "reports/tiny"


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        return render(finished, "--no-patient-images")


def test_every_name_of_the_contract_is_there(report):
    for name in FIGURES:
        for path in (f"figures/{name}.png", f"figures/{name}.svg"):
            assert (report / path).stat().st_size > 1000
        assert len((report / f"tables/{name}.csv").read_text().splitlines()) > 1
    for name in TABLES:
        assert (report / f"tables/{name}.csv").stat().st_size > 50


def test_the_page_is_self_contained_small_and_alive(report):
    page = (report / "report.html").read_text()
    assert len(page) < 5_000_000
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count("<img") == len(FIGURES) == page.count('src="data:image/webp;base64,')
    for link in re.findall(r'href="((?:tables|figures)/[^"]+)"', page):
        assert (report / link).exists()
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert f'id="{anchor}"' in page
    for words in ("Research use only", "What this does not show", "Be careful", "make train EXPERIMENT=tiny"):
        assert words in page
    assert "{{" not in page


def test_results_hold_the_contracts_keys_and_invent_nothing(report):
    results = json.loads((report / "results.json").read_text())
    assert set(results) >= {"schema", "experiment", "protocol", "table1", "classifiers", "gan", "leak_audit", "seconds"}
    assert results["table1"]["parameters"] == 308_323
    assert set(results["protocol"]["roles"]) == {"train", "validation", "test"}
    for name in ("gan_resnet", "gan_only"):
        for metric in metrics.NAMES:
            assert set(results["classifiers"][name]["test"][metric]) == {"value", "low", "high", "seeds"}
        assert set(results["classifiers"][name]["calibration"]["0"]) == {"temperature", "shift"}
    for name in GAN_SCORES:
        assert set(results["gan"][name]) >= {"value", "floor", "ceiling", "samples"}
    assert results["gan"]["tstr_roc_auc"]["samples"] == 20


def test_what_is_unknown_is_null(finished, report, tmp_path, monkeypatch):
    """Without the package of ImageNet weights their score is unknown, and the report says so."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(synthetic, "installed", lambda variant: False)
    with pytest.raises(SystemExit):
        cli.main(["run", "tiny.yaml", "--force", "evaluate"])
    results = json.loads((render(tmp_path / "work") / "results.json").read_text())
    assert {results["gan"]["kid_efficientnet_lite2"][key] for key in ("value", "floor", "ceiling")} == {None}
    assert results["gan"]["kid"]["value"] is not None


def test_without_patient_images_only_synthetic_patches_are_shown(report):
    for name in ("fig01_examples", "gan_samples"):
        ids = (report / f"tables/{name}.csv").read_text().splitlines()[1:]
        assert ids
        assert all("synthetic" in line for line in ids)
    assert "No pictures of patients" in (report / "report.html").read_text()


def test_with_them_real_ones_are(finished, report, tmp_path, monkeypatch):
    monkeypatch.chdir(finished)
    render(finished, "--out", str(tmp_path))
    assert "_class1" in (tmp_path / "tables/fig01_examples.csv").read_text()
    assert (tmp_path / "figures/error_gallery.png").exists()
    assert not (report / "figures/error_gallery.png").exists()
    assert "No pictures of patients" not in (tmp_path / "report.html").read_text()


def test_the_same_run_renders_the_same_bytes(finished, report, tmp_path, monkeypatch):
    monkeypatch.chdir(finished)
    render(finished, "--no-patient-images", "--out", str(tmp_path))
    for path in sorted(report.rglob("*.svg")) + sorted(report.rglob("*.csv")):
        assert (tmp_path / path.relative_to(report)).read_bytes() == path.read_bytes(), path.name


def test_the_patients_of_the_figure_are_those_of_the_probabilities(finished, report):
    shown = pd.read_csv(report / "tables/patient_shares.csv", dtype={"patient": str}).set_index("patient")
    scored = pd.read_csv(finished / "runs/tiny/evaluate/probabilities.csv", dtype={"patient": str})
    test = scored[scored["role"] == "test"].groupby("patient")["label"].agg(["mean", "size"])
    np.testing.assert_allclose(shown["annotated"], test["mean"])
    assert (shown["patches"] == test["size"]).all()
    assert shown["estimated"].between(0, 1).all()


def test_a_run_of_an_older_bcgan_is_named(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished)
    root = shutil.copytree(finished / "runs/tiny", tmp_path / "tiny")
    path = root / "evaluate/metrics.json"
    path.write_text(path.read_text().replace("patient_roc_auc", "something_else"))
    with pytest.raises(InputError, match="older bcgan.*bcgan run tiny --force evaluate"):
        read(experiment.load("tiny.yaml"), root, False)


def test_cross_validated_networks_stand_beside_the_features(finished, monkeypatch):
    monkeypatch.chdir(finished)
    found = {"value": 0.8, "low": 0.7, "high": 0.9}
    sides = {split: dict.fromkeys(metrics.NAMES, found) for split in tables.INFLATION}
    networks = {"resnet_table1": {"patients": 8, "patches": 80, **sides}}
    whole = read(experiment.load("tiny.yaml"), finished / "runs/tiny", False)
    run = whole._replace(folds={"folds": 4, "epochs": 1, "networks": networks})
    assert tables.inflation(run).iloc[-1].tolist() == ["ResNet of Table 1", *["0.800 (0.700 to 0.900)"] * 3]
    assert len(tables.inflation(run)) == len(tables.inflation(whole)) + 1
    row = tables.folds(run).iloc[0]
    assert (row["Patients"], row["Patches"], row["ROC AUC"]) == (8, 80, "0.800 (0.700 to 0.900)")


def test_compare_puts_reports_side_by_side(report, tmp_path, capsys):
    other, results = tmp_path / "other", json.loads((report / "results.json").read_text())
    other.mkdir()
    results["classifiers"]["gan_resnet"]["test"]["roc_auc"]["value"] += 0.125
    del results["classifiers"]["gan_only"]
    (other / "results.json").write_text(json.dumps(results))
    for arguments, code in (((report, other), 0), ((report, tmp_path), 2), ((report,), 2)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", *(str(place / "results.json") for place in arguments), "--out", str(tmp_path / "c")])
        assert stop.value.code == code
    assert "does not exist" in capsys.readouterr().err
    rows = (tmp_path / "c/test_patients.csv").read_text().splitlines()
    (area,) = (row for row in rows if row.startswith("GAN+ResNet (proposed): ROC AUC"))
    assert area.endswith(",+0.125")
    assert any("unknown" in row for row in rows if row.startswith("GAN alone"))
    assert "research use only" in (tmp_path / "c/index.html").read_text().lower()


def test_tables_print_the_papers_totals(capsys):
    with pytest.raises(SystemExit):
        cli.main(["tables"])
    printed = capsys.readouterr().out
    assert "parameters: 308,323 (the paper: 308,323)" in printed
    assert "11 of the 11 listed rows agree" in printed


def test_doctor_gives_reasons(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "phantom", "--set", "precision=float32"])
    assert stop.value.code == 0
    assert "precision: float32 (the experiment says so)" in capsys.readouterr().out
