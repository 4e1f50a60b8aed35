"""The report's section on a release: shown with its audit, passed or failed, and left out if it is of other files."""

import json
import shutil
from pathlib import Path

import pytest

from bcgan import __version__, cli, runs
from bcgan.artifacts import DEFINITIONS
from bcgan.release import privacy, release
from bcgan.release.privacy import Check

ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6}


def write_audit(root: Path, passed: bool, **changes) -> None:
    """An audit of the run's files, with a network's results if it passed."""
    checks = [
        Check("removed_fraction", privacy.EITHER_SPACE, 0.0123, limit=0.1, passed=passed),
        Check("membership_patients", "stain", 0.4567, 0.4, 0.6, 0.55, True),
        Check("membership_patches", "projected_discriminator", 0.6789, 0.6, 0.7),
    ]
    kinds = {
        kind: dict.fromkeys(("roc_auc", "sensitivity", "specificity", "ece"), ESTIMATE) for kind in ("released", "real")
    }
    network = kinds | {"difference": ESTIMATE | {"value": -0.0432}, "patches": 1234, "real_patches": 987}
    audit = {
        "bcgan": __version__, "definition": DEFINITIONS["release"], "inputs": release.input_digests(root),
        "number": 1234, "removed": 17, "repeats": 5,
        "candidates": 1251,
        "members": {"patients": 21}, "non_members": {"patients": 22}, "privacy": privacy.as_json(checks),
        "utility": {"networks": {"resnet34": network}, "tuning": None} if passed else None, "passed": passed,
        "most_exposed_patient": "the-patient",
    }  # fmt: skip
    folder = root / release.FOLDER
    folder.mkdir(exist_ok=True)
    runs.write_json(folder / release.AUDIT, audit | changes)


@pytest.fixture
def render(finished, tmp_path, monkeypatch, undrawn):
    """A function that writes an audit, renders the report and returns its page, its Markdown and its results."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")

    def report(passed: bool, **changes) -> tuple[str, str, dict]:
        write_audit(Path("runs/tiny"), passed, **changes)
        with pytest.raises(SystemExit) as ended:
            cli.main(["report", "tiny.yaml", "--out", "report"])
        assert ended.value.code == 0
        page, text = (Path("report", name).read_text("utf-8") for name in ("report.html", "report.md"))
        return page, text, json.loads(Path("report/results.json").read_text("utf-8"))

    return report


def test_an_audit_that_passed_is_shown_with_the_utility_of_the_patches(render):
    page, text, results = render(True)
    for document in (page, text):
        assert "Release of 1,234 synthetic patches: the audit passed" in document
        for number in ("0.457", "0.679", "-0.043", "1,234", "987"):
            assert number in document
        assert "the-patient" not in document
    assert results["release"]["passed"]
    assert "most_exposed_patient" not in results["release"]
    assert "0.679" in Path("report/tables/release_privacy.csv").read_text("utf-8")


def test_an_audit_that_failed_is_shown_without_utility(render):
    page, text, results = render(False)
    for document in (page, text):
        assert "Release of 1,234 synthetic patches: the audit FAILED" in document
        assert "0.012" in document
    assert results["release"]["utility"] is None
    assert not Path("report/tables/release_utility.csv").exists()


@pytest.mark.parametrize("changes", [{"inputs": {}}, {"bcgan": "0.0.9"}, {"definition": 0}])
def test_an_audit_of_other_files_is_left_out(render, changes, capsys):
    page, text, results = render(True, **changes)
    assert "Release of" not in page + text
    assert results["release"] is None
    assert "release/audit.json is left out" in capsys.readouterr().err
