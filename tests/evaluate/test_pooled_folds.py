"""Cross-validated metrics are those of the networks, whatever the folds' calibrations, penalties and images."""

import numpy as np
import pandas as pd
import pytest

from bcgan import experiment
from bcgan.data.records import UNKNOWN
from bcgan.evaluate import cross_validation, embedding_probes, images, intervals, metrics
from bcgan.evaluate.embeddings import Embeddings
from bcgan.evaluate.paired import BootstrapSettings

NUM_FOLDS = 5
SETTINGS = experiment.load("phantom", ("evaluate.bootstrap_samples=20", f"data.num_folds={NUM_FOLDS}"))


def share_of_ordered_pairs(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
    """The ROC AUC by its definition, over pairs of one fold."""
    pair = (labels[:, None] == 1) & (labels[None] == 0) & (folds[:, None] == folds[None])
    ordered = (scores[:, None] > scores[None]) + 0.5 * (scores[:, None] == scores[None])
    return float(ordered[pair].mean())


def make_folds(scores: np.ndarray, fold_of_row: np.ndarray) -> list[dict[str, np.ndarray]]:
    rows = [np.flatnonzero(fold_of_row == fold) for fold in range(NUM_FOLDS)]
    return [
        {
            "test_rows": rows[fold], "test": scores[rows[fold]],
            "validation_rows": rows[(fold + 1) % NUM_FOLDS], "validation": scores[rows[(fold + 1) % NUM_FOLDS]],
        }
        for fold in range(NUM_FOLDS)
    ]  # fmt: skip


@pytest.mark.parametrize("num_classes", [2, 3])
def test_areas_under_curves_compare_patches_of_the_same_fold_only(num_classes):
    rng = np.random.default_rng(0)
    labels, folds = rng.integers(0, num_classes, 300), rng.integers(0, 4, 300)
    logits = rng.normal(0, 1, (300, num_classes)) + 2 * np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = metrics.second_or_all(probabilities)
    columns = {1: scores} if num_classes == 2 else dict(enumerate(scores.T))
    expected = np.mean([
        share_of_ordered_pairs((labels == label).astype(int), column, folds) for label, column in columns.items()
    ])  # fmt: skip
    computed = metrics.compute_metrics(labels, scores, 0.5, np.ones((1, 300)), folds)
    assert computed["roc_auc"][0] == pytest.approx(expected)
    whole = metrics.compute_metrics(labels, scores, 0.5, np.ones((1, 300)))
    assert {name for name in whole if whole[name] != computed[name]} <= {"roc_auc", "pr_auc"}
    one_fold = metrics.compute_metrics(labels, scores, 0.5, np.ones((1, 300)), np.zeros(300, int))
    assert one_fold == whole


def test_a_resample_counts_pairs_as_often_as_its_patients():
    rng = np.random.default_rng(1)
    labels, folds, scores = rng.integers(0, 2, 60), rng.integers(0, 3, 60), rng.random(60)
    weights = rng.integers(0, 3, (1, 60)).astype(float)
    repeated = np.repeat(np.arange(60), weights[0].astype(int))
    expected = metrics.areas_under_curves(
        labels[repeated] == 1, scores[repeated], np.ones((1, len(repeated))), folds[repeated]
    )
    computed = metrics.areas_under_curves(labels == 1, scores, weights, folds)
    assert computed["roc_auc"] == pytest.approx(expected["roc_auc"])
    assert computed["pr_auc"] == pytest.approx(expected["pr_auc"])
    none = metrics.areas_under_curves(labels == 1, scores, np.ones((1, 60)), labels)  # folds of one class each
    assert np.isnan(none["roc_auc"]).all() and np.isfinite(none["pr_auc"]).all()


def test_calibrations_on_few_patients_do_not_lower_the_roc_auc():
    """One classifier in all folds, whose calibrations are fitted on twelve images each and differ."""
    optimism, differences = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels = (rng.random(58) < 0.45).astype(int)
        scores = 1 / (1 + np.exp(-(1.5 * (2 * labels - 1) / 2 + rng.normal(0, 1, 58))))
        index = pd.DataFrame({
            "id": "patch", "image": [f"i{row}" for row in range(58)], "patient": np.arange(58).astype(str),
            "label": labels, "x": UNKNOWN, "y": UNKNOWN,
        })  # fmt: skip
        by_patient, at_random = np.arange(58) % NUM_FOLDS, rng.permutation(58) % NUM_FOLDS
        splits = dict(
            zip(cross_validation.SPLITS, (make_folds(scores, f) for f in (by_patient, at_random)), strict=True)
        )
        summary = cross_validation.summarize(SETTINGS, splits, index)
        value = summary["patient_split"]["roc_auc"]["value"]
        assert value == pytest.approx(share_of_ordered_pairs(labels, scores, by_patient))
        differences.append(value - metrics.macro_roc_auc(labels, scores))
        optimism.append(summary["split_optimism"]["roc_auc"]["value"])
    assert abs(np.mean(differences)) < 0.02 and abs(np.mean(optimism)) < 0.02


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_images_are_called_at_the_threshold_of_validation_images(share):
    """A malignant image shows it in a share of its patches, so that its mean is below the threshold of patches."""
    rng = np.random.default_rng(0)
    patients, per_image = 60, 20
    malignant = np.repeat(rng.random(patients) < 0.7, 4)  # of four images each
    shows = np.repeat(malignant, per_image) & (rng.random(len(malignant) * per_image) < share)
    scores = 1 / (1 + np.exp(-(rng.normal(-1, 1, len(shows)) + 3.5 * shows)))
    image = np.repeat(np.arange(len(malignant)), per_image)
    index = pd.DataFrame({
        "id": [f"{row}" for row in range(len(shows))], "image": [f"i{number}" for number in image],
        "patient": [f"p{number // 4}" for number in image], "label": np.repeat(malignant, per_image).astype(int),
        "x": UNKNOWN, "y": UNKNOWN,
    })  # fmt: skip
    tiled = experiment.load("breakhis", ("data.dir=x", "evaluate.bootstrap_samples=20"))
    folds = make_folds(scores, image // 4 % NUM_FOLDS)
    measured = cross_validation.summarize(tiled, dict.fromkeys(cross_validation.SPLITS, folds), index)
    assert measured["patient_split"]["image_recognition_rate"]["value"] > 0.85
    assert measured["patient_split"]["image_roc_auc"]["value"] > 0.95
    assert not set(images.NAMES) & set(measured["random_split"])  # which divides images


def test_a_probe_over_folds_finds_the_roc_auc_of_its_folds():
    """Folds select different penalties; pooled, their probabilities are on different scales."""
    values, means = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(40), 20)
        labels = (rng.random(len(patients)) < rng.beta(1, 1.5, 40)[patients]).astype(int)
        features = rng.normal(size=(len(patients), 64)) + 0.5 * rng.normal(size=(40, 64))[patients]
        features[:, :4] += labels[:, None]
        embeddings = Embeddings(features, None, labels, np.array([f"p{number:03d}" for number in patients]), None)
        estimates = embedding_probes.probe(embeddings, (0,), BootstrapSettings(20, 0.95, 0))
        scores, rows, folds = embedding_probes._probe_folds(embeddings)
        expected = share_of_ordered_pairs(labels[rows], scores["linear"][0], folds)
        values.append(estimates["linear"]["roc_auc"]["value"])
        assert values[-1] == pytest.approx(expected)
        means.append(metrics.macro_roc_auc(labels[rows], scores["linear"][0]))
    assert np.mean(values) > np.mean(means) + 0.005


def test_selected_rows_keep_their_folds():
    predictions = intervals.SeedPredictions({0: np.arange(4.0)}, {0: 0.5}, np.array([0, 0, 1, 1]))
    assert predictions.select(np.array([3, 0])).folds.tolist() == [1, 0]
    assert predictions.select(np.array([True, False, True, False])).folds.tolist() == [0, 1]
