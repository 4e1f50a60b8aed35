import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from bcgan import experiment
from bcgan.classify.calibration import to_logits
from bcgan.evaluate import derived, split_optimism
from bcgan.evaluate.probes import COLOR_AND_TEXTURE

RNG = np.random.default_rng(0)


def test_columns_are_classifiers_and_seeds():
    table = pd.DataFrame(columns=["id", "label", "gan_resnet-seed0", "gan_resnet-seed2", "ensemble-seed0"])
    assert derived.seeds_by_classifier(table) == {"gan_resnet": [0, 2], "ensemble": [0]}


def test_the_ensemble_is_the_mean_of_the_log_odds():
    table = pd.DataFrame({"cnn-seed0": [0.2, 0.9], "cnn-seed1": [0.4, 0.9], "resnet50-seed0": [0.1, 0.9]})
    logits = to_logits(derived.ensemble_probabilities(table, ("cnn", "resnet50")))
    np.testing.assert_allclose(logits, np.mean([to_logits(table[column]) for column in table], axis=0))


def test_colour_statistics_learn_from_training_rows_alone():
    numbers = pd.DataFrame(RNG.random((300, len(COLOR_AND_TEXTURE))), columns=COLOR_AND_TEXTURE)
    numbers["label"] = (numbers["red"] > 0.5).astype(int)
    train_rows, test_rows = np.arange(200), np.arange(200, 300)
    truth = numbers["label"].to_numpy()[test_rows]
    before = derived.predict_from_color_texture(numbers, train_rows, test_rows)
    assert ((before > 0.5) == truth).mean() > 0.95
    numbers.loc[test_rows, "label"] = 1 - truth
    np.testing.assert_array_equal(derived.predict_from_color_texture(numbers, train_rows, test_rows), before)


def test_neighbours_are_of_the_same_slide_and_role():
    table = pd.DataFrame({
        "id": [f"{n % 4}_idx5_x{50 * n}_y0_class0.png" for n in range(80)], "x": 50 * np.arange(80), "y": 0,
        "patient": [str(n % 4) for n in range(80)],
        "role": np.tile(["validation", "validation_other"], 40), "label": np.arange(80) // 2 % 2,
    })  # fmt: skip
    table["image"] = table["id"]
    base = np.clip(0.3 + 0.4 * table["label"] + RNG.normal(0, 0.15, 80), 0.02, 0.98).to_numpy()
    refined, fitted = derived.refine_by_context(table, base, 50, ())
    is_validation = (table["role"] == "validation").to_numpy()
    refined_changed, fitted_changed = derived.refine_by_context(table, np.where(is_validation, base, 1 - base), 50, ())
    assert fitted == fitted_changed
    np.testing.assert_array_equal(refined[is_validation], refined_changed[is_validation])
    alone, _ = derived.refine_by_context(table[is_validation].reset_index(drop=True), base[is_validation], 50, ())
    np.testing.assert_allclose(alone, refined[is_validation])


@pytest.mark.parametrize("patients_differ", [True, False])
def test_the_patient_probe_identifies_patients_that_differ(tmp_path, patients_differ):
    index = pd.DataFrame(
        {"patient": np.repeat([f"p{n}" for n in range(6)], 40), "role": np.repeat(["train"] * 5 + ["test"], 40)}
    )
    properties = pd.DataFrame(RNG.normal(size=(240, len(COLOR_AND_TEXTURE))), columns=COLOR_AND_TEXTURE)
    properties["red"] += patients_differ * 10 * np.repeat(np.arange(6), 40)
    np.savez(tmp_path / "pooled.npz", **{block: RNG.normal(size=(240, 4)) for block in ("block1", "block2")})
    probe = split_optimism.patient_probe(properties, index, tmp_path, 0)
    assert (probe["patients"], probe["chance"]) == (5, 0.2)
    assert (probe["balanced_accuracy"] > 0.95) if patients_differ else (probe["balanced_accuracy"] < 0.4)


def test_a_random_split_overestimates_features_that_identify_patients():
    patients = np.repeat(np.arange(40), 10)
    labels = RNG.integers(0, 2, 40)[
        patients
    ]  # all patches of a patient have one label: to identify the patient is enough
    features = np.eye(40)[patients] + RNG.normal(0, 0.05, (400, 40))
    settings = experiment.load("phantom", ("evaluate.bootstrap_samples=100",))
    comparison = split_optimism.compare(LogisticRegression(), features, labels, patients.astype(str), settings)
    assert comparison["random_split"]["value"] > 0.99
    assert comparison["patient_split"]["value"] < 0.7
    assert comparison["split_optimism"]["low"] > 0.2
    assert comparison["split_optimism"]["value"] == pytest.approx(
        comparison["random_split"]["value"] - comparison["patient_split"]["value"]
    )
