import json
import shutil

import numpy as np
import pandas as pd
import pytest

from bcgan import cli, experiment
from bcgan.artifacts import Cache, StageRun
from bcgan.data.records import UNKNOWN
from bcgan.data.rows import ImageRows
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import cross_validation
from bcgan.models import cnn, resnet_table1
from bcgan.preprocess import store

SETTINGS = experiment.load("phantom", ("evaluate.bootstrap_samples=100", "data.num_folds=4"))


def index_of(patients: int, patches: int) -> pd.DataFrame:
    count = patients * patches
    return pd.DataFrame({
        "id": [f"patch{number}" for number in range(count)],
        "patient": np.repeat(np.arange(patients), patches).astype(str),
        "label": np.arange(count) % 2, "official_split": "", "source": "one", "path": "one",
    })  # fmt: skip


def test_every_patch_is_tested_once_and_only_the_random_split_divides_patients():
    index = index_of(12, 6)
    for split, splits_patients in (("patient_split", False), ("random_split", True)):
        roles = np.array([cross_validation.assign_fold_roles(SETTINGS, index, split, fold) for fold in range(4)])
        assert ((roles == "test").sum(0) == 1).all()
        assert ((roles == "validation").sum(0) == 1).all()
        patients_by_role = index.groupby(pd.Series(roles[0]).where(roles[0] == "test", "other"))["patient"].unique()
        assert bool(set(patients_by_role["test"]) & set(patients_by_role["other"])) is splits_patients


def test_fewer_patients_than_folds_name_the_fold():
    with pytest.raises(
        InputError, match="cross_validation: patient_split, fold 1 of 4: data.num_folds: 4 folds need as many"
    ):
        cross_validation.assign_fold_roles(SETTINGS, index_of(3, 6), "patient_split", 0)


def test_networks_trained_on_every_fold_are_refused():
    with pytest.raises(InputError, match="gan_resnet contains a discriminator that was trained on patients of every"):
        experiment.load("phantom", ("cross_validation.models=[gan_resnet]",))


def test_weights_pretrained_on_these_patients_are_refused(tmp_path):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "pretraining_patients.json").write_text('{"patches": 9, "patients": ["3", "none"]}')
    settings = experiment.load(
        "phantom", ("cross_validation.models=[efficientnet_lite0_simclr]", "pretrain.weights=shipped")
    )
    patches = store.Store(ImageRows(np.zeros((24, 50, 50, 3), np.uint8)), index_of(8, 3))
    run = StageRun(settings, tmp_path, tmp_path / "folds", {}, Cache(tmp_path, "cross_validation"))
    with pytest.raises(InputError, match=r"was pretrained on 1 of these patients \(first: 3\)"):
        cross_validation.evaluate(run, patches, False)


def test_folds_of_different_scales_are_pooled_by_their_own_calibration():
    """Each fold's log odds are shifted and scaled: pooled without calibration, their ROC AUC would be far off."""
    rng = np.random.default_rng(0)
    labels, patients = (rng.random(800) < 0.25).astype(int), np.repeat(np.arange(40), 20).astype(str)
    odds = 2 * labels - 1 + rng.normal(0, 1, 800)
    fold_numbers, folds = np.arange(800) % 4, []
    for fold in range(4):
        test_rows, validation_rows = (
            np.flatnonzero(fold_numbers == fold),
            np.flatnonzero(fold_numbers == (fold + 1) % 4),
        )
        scale, shift = (0.5, 1, 2, 3)[fold], (-6, 4, 0, 3)[fold]
        predictions = {name: 1 / (1 + np.exp(-(scale * odds[chosen] + shift))) for name, chosen in
                (("test", test_rows), ("validation", validation_rows))}  # fmt: skip
        folds.append(predictions | {"test_rows": test_rows, "validation_rows": validation_rows})
    index = pd.DataFrame({"id": "patch", "patient": patients, "label": labels, "x": UNKNOWN, "y": UNKNOWN})
    summary = cross_validation.summarize(SETTINGS, dict.fromkeys(cross_validation.SPLITS, folds), index)
    plain = cross_validation.metrics.compute_metrics(labels, odds, 0.0, np.ones((1, 800)))["roc_auc"][0]
    assert summary["patient_split"]["roc_auc"]["value"] == pytest.approx(plain, abs=0.01)
    assert summary["split_optimism"]["roc_auc"]["value"] == 0
    # The threshold for accuracy is that of the fold's validation patches; calibration changes no order.
    correct = 0
    for fold in folds:
        threshold = cross_validation.metrics.operating_points(labels[fold["validation_rows"]], fold["validation"])
        correct += ((fold["test"] >= threshold["accuracy"]) == labels[fold["test_rows"]]).sum()
    best_accuracy = summary["patient_split"][cross_validation.BEST_ACCURACY]["value"]
    assert best_accuracy == pytest.approx(correct / 800)
    assert best_accuracy > summary["patient_split"]["accuracy"]["value"] + 0.01
    assert (summary["patients"], summary["patches"]) == (40, 800)
    assert cross_validation.NEIGHBORS not in summary
    # Each slide has a region of malignant patches: neighbours help, unless they are of another slide.
    ids = [f"{patient}_x0_y0_" for patient in patients]
    index = index.assign(id=ids, image=ids, x=50 * np.arange(800), y=labels * 1000)
    adjacent = cross_validation.summarize(SETTINGS, dict.fromkeys(cross_validation.SPLITS, folds), index)
    assert adjacent["patient_split"] == summary["patient_split"]
    assert adjacent[cross_validation.NEIGHBORS]["roc_auc"]["value"] > plain + 0.02
    ids = [f"{number}_x0_y0_" for number in range(800)]
    one_slide_per_patch = index.assign(id=ids, image=ids)
    scattered = cross_validation.summarize(SETTINGS, dict.fromkeys(cross_validation.SPLITS, folds), one_slide_per_patch)
    assert scattered[cross_validation.NEIGHBORS]["roc_auc"]["value"] == pytest.approx(plain, abs=0.01)


def test_a_stopped_cross_validation_goes_on(finished, tmp_path, monkeypatch, capsys):
    """Trainings are replaced here; the tests of `ablation` run real ones."""
    work, trained = tmp_path / "work", []

    def stand_in(trial, tta_views, folder):
        if len(trained) == 5 and "stopped" not in trained:
            trained.append("stopped")
            raise WorkError("stopped")
        model = trial.recipe.classifier
        assert (trial.synthetic, model.synthetic_fraction, model.epochs) == (None, 0, 2)
        assert trial.network.name == "cnn_classifier"
        assert not set(trial.arrays["test_rows"]) & set(trial.arrays["validation_rows"])
        trained.append(folder.name)
        write_predictions(trial, folder)

    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(cross_validation.trials, "train_trial", stand_in)
    arguments = [
        "run",
        "tiny.yaml",
        "--set",
        "cross_validation={models: [cnn], epochs: 2}",
        "--until",
        "cross_validation",
    ]
    for code in (1, 0, 0):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == code
    assert len(trained) == 2 * 4 + 1  # two splits of four folds, each once, and the stop
    assert "cross_validation: skipped, up to date" in capsys.readouterr().err
    results = json.loads((work / "runs/tiny/cross_validation/cross_validation.json").read_text())
    assert results["models"]["cnn"]["patches"] == len(store.load(work / "runs/tiny/preprocess").index)
    assert results["models"]["cnn"]["patient_split"]["roc_auc"]["value"] == 1
    table = pd.read_csv(work / "runs/tiny/cross_validation/probabilities.csv")
    assert sorted(table["id"]) == sorted(store.load(work / "runs/tiny/preprocess").index["id"])
    assert table["cnn-seed0"][table["label"] == 1].min() > table["cnn-seed0"][table["label"] == 0].max()
    calls = (table["cnn-seed0"] >= table["threshold:cnn"]).astype(int)
    assert (calls == table["label"]).all()


def test_an_added_network_is_the_only_one_that_is_trained(finished, tmp_path, monkeypatch, eagerly):
    """The result of a trial is reused if, and only if, its settings and files are the same."""
    work, trained = tmp_path / "work", []

    def stand_in(trial, tta_views, folder):
        trained.append(trial.network.name)
        write_predictions(trial, folder)

    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(cross_validation.trials, "train_trial", stand_in)
    monkeypatch.setattr(resnet_table1, "resnet_table1", cnn.cnn)  # no trial trains it, and 32 build it
    both_networks = {"cnn_classifier", "resnet_table1_classifier"}
    for networks, epochs, options, expected in (
        ("cnn", 2, [], {"cnn_classifier"}),
        ("cnn,resnet_table1", 2, [], {"resnet_table1_classifier"}),
        ("cnn,resnet_table1", 2, ["--force", "cross_validation"], both_networks),
        ("resnet_table1,cnn", 3, [], both_networks),
        ("cnn", 2, [], set()),  # trained before, three settings ago
        ("cnn", 4, ["--force", "cross_validation"], {"cnn_classifier"}),
    ):
        trained.clear()
        settings = f"cross_validation={{models: [{networks}], epochs: {epochs}}}"
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "tiny.yaml", "--set", settings, "--until", "cross_validation", *options])
        assert stop.value.code == 0
        assert set(trained) == expected
        assert len(trained) == 2 * 4 * len(expected)
    assert not list((work / "runs/tiny").glob("*.partial"))


def write_predictions(trial, folder):
    probabilities = {role: (patches.labels + 0.5) / 2 for role, patches in trial.held_out.items()}
    np.savez(folder / cross_validation.trials.PREDICTIONS, **trial.arrays, **probabilities)
