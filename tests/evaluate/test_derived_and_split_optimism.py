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
    found = to_logits(derived.ensemble_probabilities(table, ("cnn", "resnet50")))
    np.testing.assert_allclose(found, np.mean([to_logits(table[column]) for column in table], axis=0))


def test_colour_statistics_learn_from_training_rows_alone():
    numbers = pd.DataFrame(RNG.random((300, len(COLOR_AND_TEXTURE))), columns=COLOR_AND_TEXTURE)
    numbers["label"] = (numbers["red"] > 0.5).astype(int)
    train, wanted = np.arange(200), np.arange(200, 300)
    truth = numbers["label"].to_numpy()[wanted]
    before = derived.predict_from_color_texture(numbers, train, wanted)
    assert ((before > 0.5) == truth).mean() > 0.95
    numbers.loc[wanted, "label"] = 1 - truth
    np.testing.assert_array_equal(derived.predict_from_color_texture(numbers, train, wanted), before)


def test_neighbours_are_of_the_same_slide_and_role():
    table = pd.DataFrame({
        "id": [f"{n % 4}_idx5_x{50 * n}_y0_class0.png" for n in range(80)], "x": 50 * np.arange(80), "y": 0,
        "role": np.tile(["validation", "validation_other"], 40), "label": np.arange(80) // 2 % 2,
    })  # fmt: skip
    base = np.clip(0.3 + 0.4 * table["label"] + RNG.normal(0, 0.15, 80), 0.02, 0.98).to_numpy()
    found, fitted = derived.refine_by_context(table, base, 50)
    own = (table["role"] == "validation").to_numpy()
    other, again = derived.refine_by_context(table, np.where(own, base, 1 - base), 50)
    assert fitted == again
    np.testing.assert_array_equal(found[own], other[own])
    alone, _ = derived.refine_by_context(table[own].reset_index(drop=True), base[own], 50)
    np.testing.assert_allclose(alone, found[own])


@pytest.mark.parametrize("told_apart", [True, False])
def test_the_patient_probe_knows_patients_that_differ(tmp_path, told_apart):
    index = pd.DataFrame(
        {"patient": np.repeat([f"p{n}" for n in range(6)], 40), "role": np.repeat(["train"] * 5 + ["test"], 40)}
    )
    properties = pd.DataFrame(RNG.normal(size=(240, len(COLOR_AND_TEXTURE))), columns=COLOR_AND_TEXTURE)
    properties["red"] += told_apart * 10 * np.repeat(np.arange(6), 40)
    np.savez(tmp_path / "pooled.npz", **{block: RNG.normal(size=(240, 4)) for block in ("block1", "block2")})
    found = split_optimism.patient_probe(properties, index, tmp_path, 0)
    assert (found["patients"], found["chance"]) == (5, 0.2)
    assert (found["balanced_accuracy"] > 0.95) if told_apart else (found["balanced_accuracy"] < 0.4)


def test_a_random_split_flatters_what_knows_the_patient():
    patients = np.repeat(np.arange(40), 10)
    labels = RNG.integers(0, 2, 40)[patients]  # all patches of a patient alike: to know the patient is to know it all
    features = np.eye(40)[patients] + RNG.normal(0, 0.05, (400, 40))
    settings = experiment.load("phantom", ("evaluate.bootstrap_samples=100",))
    found = split_optimism.compare(LogisticRegression(), features, labels, patients.astype(str), settings)
    assert found["random_split"]["value"] > 0.99
    assert found["patient_split"]["value"] < 0.7
    assert found["split_optimism"]["low"] > 0.2
    assert found["split_optimism"]["value"] == pytest.approx(
        found["random_split"]["value"] - found["patient_split"]["value"]
    )
