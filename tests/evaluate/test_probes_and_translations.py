import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bcgan import experiment, runs
from bcgan.classify.train import Patches
from bcgan.evaluate import probes, synthetic, translations
from bcgan.models.efficientnet_lite import has_weights

RNG = np.random.default_rng(0)
PATCHES = RNG.integers(90, 200, (12, 50, 50, 3)).astype(np.uint8)


def test_a_probe_separates_classes_that_differ_linearly_and_is_at_chance_on_noise():
    labels = RNG.integers(0, 2, 900)
    rows = np.arange(300), np.arange(300, 600), np.arange(600, 900)
    separable = RNG.normal(size=(900, 20)) + 2 * labels[:, None] * (np.arange(20) == 3)
    noise = RNG.normal(size=(900, 20))
    assert roc_auc_score(labels[600:], probes.fit_and_score_probe(separable, labels, *rows)) > 0.85
    assert abs(roc_auc_score(labels[600:], probes.fit_and_score_probe(noise, labels, *rows)) - 0.5) < 0.12


def test_training_patients_are_resampled_with_all_their_patches():
    patients = np.repeat(["a", "b", "c", "d"], 5)
    labels = np.arange(20) % 2
    drawn = probes.resample_patients(patients, labels, np.arange(20), seed=1)
    assert len(drawn) == 20
    counts = pd.Series(drawn).value_counts()
    for patient in "abcd":
        assert len(set(counts.reindex(np.flatnonzero(patients == patient), fill_value=0))) == 1
    assert not np.array_equal(drawn, probes.resample_patients(patients, labels, np.arange(20), seed=2))
    by_patient = np.repeat([0, 0, 0, 1], 5)
    for seed in range(20):
        assert set(by_patient[probes.resample_patients(patients, by_patient, np.arange(20), seed)]) == {0, 1}


def test_identical_patches_have_no_changes():
    table = translations.measure_changes(PATCHES, PATCHES, 0.15)
    assert (table[[f"change_{name}" for name in translations.PROPERTIES]] == 0).all(axis=None)
    np.testing.assert_allclose(table["cielab_shift"], 0)
    np.testing.assert_allclose(table[["layout_correlation", "ssim"]], 1)


def test_a_bluer_darker_patch_has_another_colour_and_the_same_layout():
    darker = (PATCHES * (0.5, 0.5, 0.8)).astype(np.uint8)
    table = translations.measure_changes(PATCHES, darker, 0.15)
    assert (table["cielab_shift"] > 10).all()
    assert (table["change_haematoxylin"] > 0).all()
    assert (table["layout_correlation"] > 0.95).all()
    upside_down = translations.measure_changes(PATCHES, PATCHES[:, ::-1], 0.15)
    assert upside_down["layout_correlation"].mean() < 0.6
    np.testing.assert_allclose(upside_down["cielab_shift"], 0, atol=1e-5)


def test_intervals_are_by_patient_and_unknown_flips_do_not_count():
    table = pd.DataFrame(
        {"class": "benign", "patient": np.repeat(np.arange(10), 4), "flip_rate": np.tile([1, 0, np.nan, np.nan], 10)}
    )
    estimate = translations.summarize(table, 200, 0.95, 0)["benign"]["flip_rate"]
    assert estimate == {"value": 0.5, "low": pytest.approx(0.5), "high": pytest.approx(0.5)}
    few_patients = translations.summarize(table[table["patient"] < 3], 200, 0.95, 0)["benign"]["flip_rate"]
    assert few_patients == {"value": 0.5, "low": None, "high": None}


@pytest.mark.skipif(not has_weights("lite2"), reason="needs the package of EfficientNet-Lite2's weights")
def test_phantom_nuclei_distinguish_a_translator_from_the_identity(monkeypatch):
    """The identity changes nothing. A translator that returns a patch of the other class, of the same patient, changes
    the nuclei by most of the difference of the classes."""
    monkeypatch.setattr(translations, "NUM_PHANTOM_PATCHES", 96)
    cached, pooled_features = {}, translations.pooled_features

    def pooled_once(variant, images):
        """Each patch goes through the network once."""
        if missing := {patch.tobytes(): patch for patch in images if patch.tobytes() not in cached}:
            cached.update(zip(missing, pooled_features(variant, np.stack(list(missing.values()))), strict=True))
        return np.stack([cached[patch.tobytes()] for patch in images])

    monkeypatch.setattr(translations, "pooled_features", pooled_once)
    settings = experiment.load("phantom", ("evaluate.bootstrap_samples=50",))
    patches_by_class = [
        translations._render_phantom_patches(label, translations.NUM_PHANTOM_PATCHES, settings)[0] for label in (0, 1)
    ]
    monkeypatch.setattr(translations, "translate", lambda network, images: images)
    unchanged = translations.measure_phantom_nuclei(["none", "none"], settings)
    monkeypatch.setattr(translations, "translate", lambda label, images: patches_by_class[label])
    exchanged = translations.measure_phantom_nuclei([0, 1], settings)
    for quantity, measured in exchanged.items():
        assert measured["r2"] > 0.2
        for sign, name in ((1, "benign"), (-1, "malignant")):
            assert unchanged[quantity][name]["value"] == pytest.approx(
                0, abs=1e-6 * abs(measured["real_class_difference"])
            )
            assert 0.2 < sign * measured[name]["value"] / measured["real_class_difference"] < 1.5, (quantity, name)
    monkeypatch.setattr(translations, "has_weights", lambda variant: False)
    assert translations.measure_phantom_nuclei([0, 1], settings) is None


def test_patches_of_three_classes_are_called_after_calibration(tmp_path, monkeypatch):
    """As the report calls them: a class that is rare in validation patients may lose by its calibration."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    monkeypatch.setattr(translations.weights, "load_model", lambda path: path.name)
    monkeypatch.setattr(translations, "predict_probabilities", lambda *arguments: probabilities)
    calibration = {"temperature": [1.0, 1.0, 1.0], "shift": [-2.0, 0.0, 0.0]}
    metrics = {"thresholds": {"0": None}, "calibration": {"0": calibration}}
    settings = experiment.load("phantom_96", ("data.size=50",))
    runs.write_json(tmp_path / "metrics.json", {settings.proposed: metrics})
    predict_labels = translations._load_classifier(settings, tmp_path, tmp_path)
    assert predict_labels(np.zeros((2, 50, 50, 3), np.uint8)).tolist() == [1, 2]


def test_a_first_class_that_is_rare_among_validation_patients_is_scored():
    """`benign_only`, the first class alone, then has fewer patches than the sets that it stands beside."""
    counts = {"real": (90, 90, 90), "validation": (20, 90, 90), "synthetic": (60, 60, 60)}
    sets = [
        Patches(RNG.integers(0, 256, (sum(numbers), 32, 32, 3), np.uint8), np.repeat([0, 1, 2], numbers))
        for numbers in counts.values()
    ]
    patches = synthetic._sample_patch_sets(*sets, 60, 0)
    assert len(patches["benign_only"]) < len(patches["training"]) / 2
    features = {name: images.reshape(len(images), -1)[:, :8] / 255 for name, images in patches.items()}
    assert np.isfinite(list(synthetic._kid(features, 0).values())).all()
