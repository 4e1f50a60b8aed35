"""`bcgan compare`: the numbers of several reports, and differences where their runs are available."""

import json
import shutil
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from bcgan import cli
from bcgan.report import comparability
from bcgan.report.style import CLASSIFIER_NAMES


@pytest.fixture
def report(finished, report_in_full, tmp_path) -> Path:
    """A copy of the report's folder, next to a copy of its run."""
    folder = shutil.copytree(finished, tmp_path / "here", symlinks=True) / "reports" / "tiny"
    folder.mkdir(parents=True)
    shutil.copy(report_in_full / "results.json", folder)
    return folder


def test_compare_puts_reports_side_by_side(report, tmp_path, capsys):
    changed_report, results = tmp_path / "other", json.loads((report / "results.json").read_text())
    changed_report.mkdir()
    results["classifiers"]["gan_resnet"]["test"]["roc_auc"]["value"] += 0.125
    del results["classifiers"]["gan_only"]
    assert "dir" not in results["settings"]["data"]  # a path on somebody's machine
    results["settings"]["classify"]["batch_size"] += 8
    (changed_report / "results.json").write_text(json.dumps(results))
    for arguments, code in (((report, changed_report), 0), ((report, tmp_path), 2), ((report,), 2)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", *(str(place / "results.json") for place in arguments), "--out", str(tmp_path / "c")])
        assert stop.value.code == code
    assert "does not exist" in capsys.readouterr().err
    rows = (tmp_path / "c/test_patients.csv").read_text().splitlines()
    (area,) = (row for row in rows if row.startswith("GAN+ResNet (proposed): ROC AUC"))
    assert area.endswith(",+0.125")
    settings = (tmp_path / "c/settings_that_differ.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in settings[1:]] == ["classify.batch_size"]
    assert any("unknown" in row for row in rows if row.startswith("GAN alone"))
    assert "research use only" in (tmp_path / "c/index.html").read_text().lower()


def test_compare_has_differences_on_the_test_patches_where_the_runs_are_here(report, tmp_path, monkeypatch, capsys):
    """Only if the run still has the results of its report: it may have been trained again since."""
    title = "Differences on the same test patches"
    monkeypatch.chdir(report.parents[1])
    changed_report, results = tmp_path / "other", json.loads((report / "results.json").read_text())
    changed_report.mkdir()
    for change in (0.0, 0.125):
        results["classifiers"]["gan_resnet"]["test"]["roc_auc"]["value"] += change
        (changed_report / "results.json").write_text(json.dumps(results))
        names = (str(report / "results.json"), str(changed_report / "results.json"))
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", *names, "--out", str(tmp_path / str(change))])
        assert stop.value.code == 0
    table = pd.read_csv(tmp_path / "0.0/differences_on_the_same_test_patches.csv", dtype=str)
    assert set(table["Classifier"]) == {CLASSIFIER_NAMES[name] for name in results["classifiers"]}
    assert table.iloc[:, 2].str.startswith("0.000").all() and {"ROC AUC", "F1"} <= set(table["Metric"])
    assert title in (tmp_path / "0.0/index.md").read_text()
    assert title not in (tmp_path / "0.125/index.md").read_text()
    assert "has other results than the report other. Render it again: bcgan report" in capsys.readouterr().err


def test_compare_has_cross_validated_differences_where_both_runs_have_them(report, tmp_path, monkeypatch, capsys):
    work = shutil.copytree(report.parents[1], tmp_path / "work", symlinks=True)
    monkeypatch.chdir(work)
    folder = work / "runs" / "tiny" / "cross_validation"
    folder.mkdir()
    measured = {"num_folds": 4, "epochs": 1, "models": {}}
    (folder / "cross_validation.json").write_text(json.dumps(measured))
    table = pd.read_csv(work / "runs/tiny/evaluate/probabilities.csv", dtype={"id": str, "patient": str})
    table = table[["id", "image", "source", "patient", "x", "y", "label", "gan_resnet-seed0"]]
    results = json.loads((report / "results.json").read_text())
    names = [tmp_path / f"{name}.json" for name in ("one", "two")]
    for path in names:
        path.write_text(json.dumps(results | {"cross_validation": measured}))
    arguments = ["compare", *map(str, names), "--out", str(tmp_path / "c")]
    csv = tmp_path / "c/differences_by_cross-validation.csv"
    table = table.assign(role="test", **{"threshold:gan_resnet": 0.5})
    for _ in ("no table", "one without folds"):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
        assert "an earlier version wrote it. Run bcgan run tiny --until cross_val" in capsys.readouterr().err
        assert not csv.exists()
        table.to_csv(folder / "probabilities.csv", index=False)
    table.assign(fold=0).to_csv(folder / "probabilities.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    differences = pd.read_csv(csv, dtype=str)
    assert set(differences["Patches"]) == {str(len(table))}
    assert differences.iloc[:, 2].str.startswith("0.000").all()
    assert "Every patient is tested once" in (tmp_path / "c/index.html").read_text()


def _compare(report: Path, tmp_path: Path, change) -> tuple[Path, dict]:
    """Compare a report with a copy in which `change` has changed results.json; return the page's folder."""
    results = json.loads((report / "results.json").read_text())
    for kid in (results["gan"]["kid"], results["gan"]["kid_efficientnet_lite2"]):
        kid |= {"value": 0.5, "samples": 100}
    (report / "results.json").write_text(json.dumps(results))
    change(results)
    path = tmp_path / "changed" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(results))
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", str(report / "results.json"), str(path), "--out", str(tmp_path / "c")])
    assert stop.value.code == 0
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("change", "has_own", "has_imagenet"),
    [
        (lambda results: results["settings"]["classify"].update(batch_size=99), True, True),
        (lambda results: results["settings"]["gan"].update(steps=99), True, True),  # another GAN, the same scores
        (lambda results: results["settings"].update(seed=99), False, True),
        (lambda results: results["settings"]["features"]["quality_filter"].update(steps=99), False, True),
        (lambda results: results["protocol"].update(data_sha256="0"), False, True),
        (lambda results: results["protocol"].update(split_sha256="0"), False, True),
        (lambda results: results["gan"]["kid"].update(samples=99), False, True),
        (lambda results: results["gan"]["kid_efficientnet_lite2"].update(samples=99), True, False),
    ],
)
def test_scores_of_other_networks_or_samples_are_not_subtracted(report, tmp_path, change, has_own, has_imagenet):
    folder = _compare(report, tmp_path, change)
    table = pd.read_csv(folder / "synthetic_patches.csv", index_col="Figure", dtype=str)
    difference = table.get("changed less tiny", pd.Series(dtype=str))
    rows = {"KID": has_own, "KID on EfficientNet-Lite2, ImageNet": has_imagenet}
    for title, has_difference in rows.items():
        assert (difference.get(title) == "+0") == has_difference, title
        assert table.at[title, "tiny"] == table.at[title, "changed"] == "0.5"
    for name in ("index.html", "index.md"):
        assert (comparability.OTHER_SCORES in unescape((folder / name).read_text())) == (not (has_own and has_imagenet))


def test_metrics_of_other_classes_are_not_subtracted(report, tmp_path):
    def change(results):
        results["settings"]["data"]["classes"] = [["benign", []], ["in_situ", []], ["malignant", []]]

    folder = _compare(report, tmp_path, change)
    for name in ("test_patients", "synthetic_patches"):
        table = pd.read_csv(folder / f"{name}.csv", index_col="Figure", dtype=str)
        assert list(table) == ["tiny", "changed"]
    for name in ("index.html", "index.md"):
        page = unescape((folder / name).read_text())
        assert comparability.OTHER_CLASSES in page and comparability.OTHER_SCORES in page
