"""Two runs are compared on the test patches that both have."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from bcgan.errors import InputError
from bcgan.evaluate.paired import BootstrapSettings, Grid, compare_runs

SETTINGS = BootstrapSettings(200, 0.95, 0)


def make_table(noise: float, seed: int) -> pd.DataFrame:
    """Return held-out predictions of 12 test and 12 validation patients, 20 patches each, by two classifiers."""
    count = 480
    labels = np.arange(count) % 2
    rng = np.random.default_rng(seed)
    logits = (2 * labels - 1) + noise * rng.normal(size=(2, count))
    return pd.DataFrame({
        "id": [f"patch{number:03d}" for number in range(count)], "image": "",
        "patient": [f"p{number // 20:02d}" for number in range(count)], "x": -1, "y": -1, "label": labels,
        "role": np.where(np.arange(count) < count // 2, "validation", "test"),
        "cnn-seed0": 1 / (1 + np.exp(-logits[0])), "cnn-seed1": 1 / (1 + np.exp(-logits[1])),
        "resnet34-seed0": 1 / (1 + np.exp(-logits.mean(0))),
    })  # fmt: skip


def write(folder, table: pd.DataFrame):
    folder.mkdir()
    table.to_csv(folder / "probabilities.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    """A noisy run, and a better one in another order, without two of its patches and with one additional patch."""
    noisy, better = make_table(4.0, 0), make_table(1.0, 1)
    extra = better.iloc[-1:].assign(id="extra")
    better = pd.concat([better, extra]).drop(columns="resnet34-seed0")
    better = better[~better["id"].isin(["patch300", "patch301"])].sample(frac=1, random_state=0)
    return noisy, better, write(tmp_path / "noisy", noisy), write(tmp_path / "better", better)


def test_a_difference_is_that_of_the_shared_test_patches(runs):
    noisy, better, reference, candidate = runs
    differences = compare_runs(reference, candidate, SETTINGS)
    assert [(row["classifier"], row["metric"]) for row in differences] == [
        ("cnn", "roc_auc"), ("cnn", "balanced_accuracy"), ("cnn", "f1")
    ]  # fmt: skip
    shared = sorted(set(noisy["id"][noisy["role"] == "test"]) & set(better["id"]))
    areas = []
    for table in (noisy, better):
        rows = table.set_index("id").loc[shared]
        areas.append(np.mean([roc_auc_score(rows["label"], rows[f"cnn-seed{seed}"]) for seed in (0, 1)]))
    assert differences[0]["value"] == pytest.approx(areas[1] - areas[0])
    assert 0 < differences[0]["low"] < differences[0]["value"] < differences[0]["high"] and differences[0]["p"] < 0.05
    assert (differences[0]["patches"], differences[0]["patients"]) == (238, 12)
    assert compare_runs(candidate, reference, SETTINGS)[0]["value"] == pytest.approx(-differences[0]["value"])


def test_a_run_does_not_differ_from_itself(runs):
    _, _, reference, _ = runs
    for row in compare_runs(reference, reference, SETTINGS):
        assert row["value"] == 0 and row["low"] <= 0 <= row["high"] and row["p"] > 0.5


@pytest.mark.parametrize(("change", "message"), [
    ({"label": lambda table: 1 - table["label"]}, "has another patient or label in"),
    ({"patient": lambda table: table["patient"] + "b"}, "has another patient or label in"),
    ({"id": lambda table: "other" + table["id"]}, "have no test patch in common"),
    ({"role": "validation"}, "have no test patch in common"),
])  # fmt: skip
def test_runs_of_other_data_are_not_compared(runs, tmp_path, change, message):
    noisy, _, reference, _ = runs
    with pytest.raises(InputError, match=message):
        compare_runs(reference, write(tmp_path / "changed", noisy.assign(**change)), SETTINGS)


def at_two_scales(noisy, better, tmp_path, **places) -> tuple:
    """Return the folders of a coarse run and a fine one, whose coordinates are four times as large, with other ids."""
    coarse, fine = noisy.assign(**places), better[better["id"] != "extra"].assign(**places)
    fine = fine.assign(x=4 * fine["x"], y=4 * fine["y"], id="fine" + fine["id"])
    return write(tmp_path / "coarse", coarse), write(tmp_path / "fine", fine)


def test_patches_at_two_scales_are_matched_by_their_places(runs, tmp_path):
    noisy, better, reference, _ = runs
    column = noisy["id"].str[-3:].astype(int) % 20
    folders = at_two_scales(noisy, better, tmp_path, x=50 * column, y=0, image=noisy["patient"])
    at_places = compare_runs(*folders, SETTINGS, (Grid(4.0, 50), Grid(1.0, 200)))
    shared = better[better["id"] != "extra"]
    by_id = compare_runs(reference, write(tmp_path / "same", shared), SETTINGS, (Grid(4.0, 50), Grid(4.0, 50)))
    assert [row["value"] for row in at_places] == pytest.approx([row["value"] for row in by_id])
    assert at_places[0]["patches"] == by_id[0]["patches"] == 238
    for grid in (Grid(1.0, 128), Grid(2.0, 50)):
        with pytest.raises(
            InputError, match=r"shows 200 microns and one of .* (128|100)\. Compare runs whose data\.size"
        ):
            compare_runs(*folders, SETTINGS, (Grid(4.0, 50), grid))


def test_the_same_corner_of_two_images_of_a_patient_is_two_places(runs, tmp_path):
    """Every image begins at (0, 0): by coordinates alone a patch would match patches of all images."""
    noisy, better, _, _ = runs
    grids = Grid(4.0, 50), Grid(1.0, 200)
    images = noisy["patient"] + "-" + (noisy["id"].str[-3:].astype(int) % 20).astype(str)
    folders = at_two_scales(noisy, better, tmp_path, x=0, y=0, image=images)
    assert compare_runs(*folders, SETTINGS, grids)[0]["patches"] == 238
    (tmp_path / "again").mkdir()
    folders = at_two_scales(noisy, better, tmp_path / "again", x=0, y=0, image=noisy["patient"])
    with pytest.raises(InputError, match=r"Two test patches of a run have the same place, p12/p12 at 0, 0 microns"):
        compare_runs(*folders, SETTINGS, grids)


def test_cross_validated_runs_are_compared_with_the_threshold_of_each_fold(tmp_path):
    """Every patch is a test patch; folds differ in their thresholds, and their scores are on other scales."""
    rng, tables = np.random.default_rng(0), []
    labels, folds = np.arange(400) % 2, np.arange(400) // 200
    for noise in (3.0, 1.0):
        scores = 1 / (1 + np.exp(-(2 * labels - 1 + noise * rng.normal(size=400) + 5 * folds)))
        tables.append(pd.DataFrame({
            "id": [f"patch{number:03d}" for number in range(400)], "image": "", "source": "one",
            "patient": [f"p{number // 20:02d}" for number in range(400)], "x": -1, "y": -1, "label": labels,
            "role": "test", "fold": folds, "cnn-seed0": scores, "threshold:cnn": np.where(folds == 0, 0.5, 2.0),
        }))  # fmt: skip
    reordered = tables[1].sample(frac=1, random_state=1)
    folders = write(tmp_path / "reference", tables[0]), write(tmp_path / "candidate", reordered)
    differences = {row["metric"]: row for row in compare_runs(*folders, SETTINGS)}
    assert set(differences) == {"roc_auc", "balanced_accuracy", "f1"}
    assert (differences["roc_auc"]["patches"], differences["roc_auc"]["patients"]) == (400, 20)
    areas = [
        np.mean([roc_auc_score(labels[folds == fold], table["cnn-seed0"][folds == fold]) for fold in (0, 1)])
        for table in tables
    ]
    assert differences["roc_auc"]["value"] == pytest.approx(areas[1] - areas[0])
    accuracies = [  # the threshold of the second half is above every score
        balanced_accuracy_score(labels, (table["cnn-seed0"] >= table["threshold:cnn"]).astype(int)) for table in tables
    ]
    assert differences["balanced_accuracy"]["value"] == pytest.approx(accuracies[1] - accuracies[0])


def test_cross_validated_runs_of_three_classes_have_no_thresholds(tmp_path):
    rng, tables = np.random.default_rng(0), []
    labels = np.arange(300) % 3
    for noise in (2.0, 0.5):
        logits = np.eye(3)[labels] + noise * rng.normal(size=(300, 3))
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        columns = {f"cnn-seed0:{name}": scores[:, label] for label, name in enumerate("abc")}
        tables.append(pd.DataFrame({
            "id": [f"patch{number:03d}" for number in range(300)], "image": "", "source": "one",
            "patient": [f"p{number // 15:02d}" for number in range(300)], "x": -1, "y": -1, "label": labels,
            "role": "test", "fold": np.arange(300) // 150, **columns,
        }))  # fmt: skip
    folders = write(tmp_path / "reference", tables[0]), write(tmp_path / "candidate", tables[1])
    differences = {row["metric"]: row["value"] for row in compare_runs(*folders, SETTINGS)}
    assert differences["roc_auc"] > 0.1 and differences["balanced_accuracy"] > 0.1
