import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bcgan.classify import calibration, context
from bcgan.data.records import UNKNOWN

RNG = np.random.default_rng(0)


def test_calibration_recovers_the_scale_and_shift_of_distorted_odds():
    odds = RNG.normal(-1, 2, 20_000)
    labels = (RNG.random(20_000) < calibration.to_probabilities(odds)).astype(int)
    distorted = calibration.to_probabilities((odds - 0.7) * 3)  # some are beyond the limits of to_logits
    fitted = calibration.fit(distorted, labels)
    assert fitted.temperature == pytest.approx(3, rel=0.05)
    assert fitted.shift == pytest.approx(0.7, abs=0.05)
    calibrated = calibration.apply(fitted, distorted)
    assert np.abs(calibrated - calibration.to_probabilities(odds)).max() < 0.03
    assert roc_auc_score(labels, calibrated) == pytest.approx(roc_auc_score(labels, distorted), abs=1e-3)


def test_calibration_does_not_change_probabilities_that_fall_with_the_label():
    labels = np.repeat([0, 1], 50)
    assert calibration.fit(1 - labels * 0.8 - 0.1, labels) == calibration.Calibration(1.0, 0.0)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("count", [6, 12, 60])
def test_few_patches_that_are_told_apart_without_error_do_not_make_every_probability_0_or_1(num_classes, count):
    """Platt's targets: with n patches of a class, the fit aims at (n + 1) / (n + 2)."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % num_classes
    logits = 2 * np.eye(num_classes)[labels] + rng.uniform(-0.5, 0.5, (count, num_classes))
    probabilities = calibration.to_probabilities(logits if num_classes > 2 else logits[:, 1] - logits[:, 0])
    fitted = calibration.fit(probabilities, labels)
    calibrated = calibration.apply(fitted, probabilities)
    of_class = calibrated[np.arange(count), labels] if num_classes > 2 else np.where(labels, calibrated, 1 - calibrated)
    target = (count / num_classes + 1) / (count / num_classes + 2)
    assert np.mean(of_class) == pytest.approx(target, abs=0.02) and of_class.max() < 1 - 0.1 * (1 - target)
    if num_classes == 2:  # the order does not change
        np.testing.assert_array_equal(calibrated.argsort(), probabilities.argsort())


def field(noise: float):
    """A slide of 20 x 20 patches whose right half is malignant, with noisy probabilities."""
    places = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2) * 50
    labels = (places[:, 0] >= 500).astype(int)
    return places, labels, calibration.to_probabilities(labels * 2 - 1 + RNG.normal(0, noise, 400))


def test_neighbours_improve_noisy_probabilities():
    places, labels, alone = field(2.0)
    fitted = context.fit(alone, places, np.zeros(400), labels, 50)
    places, labels, alone = field(2.0)
    refined = context.apply(fitted, alone, places, np.zeros(400), 50)
    assert roc_auc_score(labels, refined) > roc_auc_score(labels, alone) + 0.1


def test_neighbours_are_of_the_same_slide_and_patches_at_unknown_places_have_none():
    places, _, alone = field(1.0)
    features = context.context_features(alone, places, np.arange(400), 50)
    assert (features[:, 1:] == 0).all()
    features = context.context_features(alone, np.full((400, 2), UNKNOWN), np.zeros(400), 50)
    assert (features[:, 1:] == 0).all()
    assert not context.has_coordinates(np.full((4, 2), UNKNOWN))


def test_the_average_of_neighbours_is_the_weighted_mean_computed_by_hand(monkeypatch):
    places, slides = np.array([[0, 0], [50, 0], [0, 100]]), np.zeros(3)
    probabilities = np.array([0.5, 0.8, 0.3])
    odds = calibration.to_logits(probabilities)
    reach = context.RADII[0]
    near, far = np.exp(-1 / reach), np.exp(-2 / reach)
    expected = (near * odds[1] + far * odds[2]) / (near + far + context.SHRINKAGE)
    assert context.context_features(probabilities, places, slides, 50)[0, 1] == pytest.approx(expected)
    in_one_chunk = context.context_features(probabilities, places, slides, 50)
    monkeypatch.setattr(context, "CHUNK_PATCHES", 1)
    np.testing.assert_allclose(context.context_features(probabilities, places, slides, 50), in_one_chunk)


def test_vector_scaling_recovers_distorted_probabilities_of_three_classes():
    logits = RNG.normal(0, 2, (20_000, 3))
    distorted = calibration.to_probabilities(logits)
    true = calibration.Calibration([2.0, 0.5, 1.0], [1.0, -1.5, 0.5])
    truth = calibration.apply(true, distorted)
    labels = (truth.cumsum(1) < RNG.random((20_000, 1))).sum(1)
    fitted = calibration.fit(distorted, labels)
    np.testing.assert_allclose(fitted.temperature, true.temperature, rtol=0.1)
    np.testing.assert_allclose(fitted.shift, true.shift, atol=0.1)
    assert np.abs(calibration.apply(fitted, distorted) - truth).max() < 0.03
    identity = calibration.Calibration([1.0] * 3, [0.0] * 3)
    np.testing.assert_allclose(calibration.apply(identity, truth), truth, atol=1e-4)
    np.testing.assert_array_equal(calibration.from_outputs(logits), distorted)
    np.testing.assert_allclose(calibration.from_outputs(logits[:, :1]), 1 / (1 + np.exp(-logits[:, 0])))


def test_neighbors_improve_three_classes_and_the_fit_survives_json():
    places = 50 * np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2)
    labels = (places[:, 0] // 350).clip(0, 2)
    noisy = calibration.to_probabilities(1.5 * np.eye(3)[labels] + RNG.normal(0, 2, (400, 3)))
    slides = np.zeros(400, int)
    fitted = context.fit(noisy, places, slides, labels, 50)
    refined = context.apply(fitted, noisy, places, slides, 50)
    assert (refined.argmax(1) == labels).mean() > (noisy.argmax(1) == labels).mean() + 0.2
    np.testing.assert_allclose(refined.sum(1), 1)
    read_back = context.Context(*json.loads(json.dumps(fitted)))
    np.testing.assert_array_equal(context.apply(read_back, noisy, places, slides, 50), refined)
