import json
import shutil

import numpy as np
import pandas as pd
import pytest

from bcgan import cli, execution, experiment
from bcgan.errors import InputError
from bcgan.evaluate import learning_curve
from bcgan.evaluate.learning_curve import Cell
from bcgan.report import page
from bcgan.report.run_files import read
from tests.conftest import PATCHES

CURVE = (
    "learning_curve={train_fractions: [0.5], arms: [classic, gan, selected], seeds: [0], train_steps: 2, "
    "num_validations: 1, num_synthetic: 40, gan_steps: 2}"
)


def test_drawn_patients_are_whole_nested_and_hold_both_classes():
    patients = np.repeat(np.arange(20), 6)
    labels = np.tile([0, 0, 0, 0, 1, 1], 20)
    few, many = (learning_curve.draw_patients(patients, labels, share, 3) for share in (0.1, 0.5))
    assert len(few) == 12
    assert len(many) == 60
    assert set(few) <= set(many)
    assert not np.array_equal(few, learning_curve.draw_patients(patients, labels, 0.1, 4))
    rare = np.where(patients < 2, labels, 0)
    assert set(patients[learning_curve.draw_patients(patients, rare, 0.1, 0)]) & {0, 1}
    with pytest.raises(InputError, match="1 of|is 1, and no draw"):
        learning_curve.draw_patients(patients, np.zeros(120, int), 0.05, 0)


def test_differences_are_paired():
    """Both arms err on the same hard patients: the interval of the difference is narrower than that of either arm."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 20)
    labels = np.tile([0, 1], 400)
    hard = (patients % 4 == 0) * 0.35
    noise = rng.normal(0, 0.2, 800)

    def arm(shift):
        scores = np.clip(0.5 + (labels - 0.5) * (0.5 + shift - hard) + noise, 0.01, 0.99)
        return {
            "validation": scores,
            "test": scores,
            "patients": np.array(40),
            "patches": np.array(800),
            "short": np.array(False),
        }

    settings = experiment.load(
        "phantom", ("learning_curve={train_fractions: [1.0], arms: [classic, gan], seeds: [0]}",)
    )
    predictions = {Cell(1.0, "classic", 0): arm(0.0), Cell(1.0, "gan", 0): arm(0.1)}
    summary = learning_curve.summarize(settings, predictions, {"validation": labels, "test": labels}, patients)
    gain = next(d for d in summary["differences"] if d["metric"] == "roc_auc")
    levels = {cell["arm"]: cell["figures"]["roc_auc"] for cell in summary["cells"]}
    assert gain["value"] == pytest.approx(levels["gan"]["value"] - levels["classic"]["value"])
    assert gain["low"] > 0
    assert gain["high"] - gain["low"] < levels["gan"]["high"] - levels["gan"]["low"]


def test_the_stage_runs_cell_by_cell_and_reaches_the_report(finished, tmp_path, monkeypatch, eagerly):
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")

    def bcgan(*arguments) -> int:
        with pytest.raises(SystemExit) as stop:
            cli.main([*arguments])
        return stop.value.code

    patch_counts = []

    def copy_gan(images, labels, settings, seed, folder, xla, class_names):
        """Copy the run's networks instead of training: only the number of patches is tested."""
        patch_counts.append(len(images))
        for path in (finished / "runs/tiny/gan").glob("*.keras"):
            shutil.copy(path, folder)

    monkeypatch.setattr(learning_curve, "train_gan", copy_gan)
    run = ("run", "tiny.yaml", "--set", CURVE, "--until", "learning_curve")
    assert bcgan(*run) == 0
    folder = tmp_path / "work/runs/tiny/learning_curve"
    cells = sorted(path.parent.name[:-17] for path in folder.parent.glob("cache/learning_curve/*/predictions.npz"))
    assert cells == ["0.5-classic-seed0", "0.5-gan-seed0", "0.5-selected-seed0"]
    table = pd.read_csv(folder / "learning_curve.csv")
    assert list(table["arm"]) == ["classic", "gan", "selected"]
    assert set(table["patients"]) == {2}
    (folder / "manifest.json").unlink()
    assert read(*execution.load_finished_run(experiment.load("tiny.yaml", (CURVE,))), True).learning_curve is None
    assert bcgan(*run) == 0
    monkeypatch.setattr(
        page, "FIGURES", {"gan_effect": {"learning_curve": page.FIGURES["gan_effect"]["learning_curve"]}}
    )
    assert bcgan("report", "tiny.yaml", "--set", CURVE) == 0
    results = json.loads((tmp_path / "work/reports/tiny/results.json").read_text())
    assert len(results["learning_curve"]["cells"]) == 3
    assert patch_counts == [2 * PATCHES]  # the patches of the drawn patients; the two arms share a GAN
    assert (tmp_path / "work/reports/tiny/figures/learning_curve.png").stat().st_size > 5000
