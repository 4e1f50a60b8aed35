import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bcgan import experiment
from bcgan.evaluate import probes, translations
from bcgan.models.efficientnet_lite import has_weights

RNG = np.random.default_rng(0)
PATCHES = RNG.integers(90, 200, (12, 50, 50, 3)).astype(np.uint8)


def test_a_probe_finds_what_is_linear_and_nothing_where_there_is_nothing():
    labels = RNG.integers(0, 2, 900)
    rows = np.arange(300), np.arange(300, 600), np.arange(600, 900)
    told = RNG.normal(size=(900, 20)) + 2 * labels[:, None] * (np.arange(20) == 3)
    silent = RNG.normal(size=(900, 20))
    assert roc_auc_score(labels[600:], probes.fit_and_score_probe(told, labels, *rows)) > 0.85
    assert abs(roc_auc_score(labels[600:], probes.fit_and_score_probe(silent, labels, *rows)) - 0.5) < 0.12


def test_training_patients_are_drawn_whole():
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


def test_nothing_changed_where_nothing_was_changed():
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
    found = translations.summarize(table, 200, 0.95, 0)["benign"]["flip_rate"]
    assert found == {"value": 0.5, "low": pytest.approx(0.5), "high": pytest.approx(0.5)}
    few = translations.summarize(table[table["patient"] < 3], 200, 0.95, 0)["benign"]["flip_rate"]
    assert few == {"value": 0.5, "low": None, "high": None}


@pytest.mark.skipif(not has_weights("lite2"), reason="needs the package of EfficientNet-Lite2's weights")
def test_the_truth_of_the_phantom_tells_a_translator_from_none(monkeypatch):
    """One that gives the patch back changes nothing; one that gives a patch of the other class, of the same patient,
    moves nuclei most of the way."""
    monkeypatch.setattr(translations, "NUM_PHANTOM_PATCHES", 96)
    seen, pooled = {}, translations.pooled_features

    def once(variant, images):
        """Each patch goes through the network once."""
        if new := {one.tobytes(): one for one in images if one.tobytes() not in seen}:
            seen.update(zip(new, pooled(variant, np.stack(list(new.values()))), strict=True))
        return np.stack([seen[one.tobytes()] for one in images])

    monkeypatch.setattr(translations, "pooled_features", once)
    settings = experiment.load("phantom", ("evaluate.bootstrap_samples=50",))
    others = [
        translations._render_phantom_patches(label, translations.NUM_PHANTOM_PATCHES, settings)[0] for label in (0, 1)
    ]
    monkeypatch.setattr(translations, "translate", lambda network, images: images)
    none = translations.measure_phantom_nuclei(["none", "none"], settings)
    monkeypatch.setattr(translations, "translate", lambda label, images: others[label])
    whole = translations.measure_phantom_nuclei([0, 1], settings)
    for what, found in whole.items():
        assert found["r2"] > 0.2
        for sign, name in ((1, "benign"), (-1, "malignant")):
            assert none[what][name]["value"] == pytest.approx(0, abs=1e-6 * abs(found["real_class_difference"]))
            assert 0.2 < sign * found[name]["value"] / found["real_class_difference"] < 1.5, (what, name)
    monkeypatch.setattr(translations, "has_weights", lambda variant: False)
    assert translations.measure_phantom_nuclei([0, 1], settings) is None
