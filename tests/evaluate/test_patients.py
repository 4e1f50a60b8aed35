import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from bcgan.evaluate import patients

RNG = np.random.default_rng(0)
PATIENTS = np.repeat([f"patient{number:02}" for number in range(30)], 20)
SHARES = np.concatenate([np.zeros(9), RNG.uniform(0.1, 0.9, 21)])
LABELS = (RNG.random(600) < np.repeat(SHARES, 20)).astype(int)
SCORES = np.clip(np.repeat(SHARES, 20) * 0.6 + LABELS * 0.3 + RNG.normal(0, 0.05, 600), 0, 1)


def test_metrics_of_patients_are_those_of_scipy_and_scikit_learn():
    true, estimated, count = patients.malignant_fractions(LABELS, SCORES, PATIENTS)
    assert count.tolist() == [20] * 30
    assert estimated[3] == pytest.approx(SCORES[PATIENTS == "patient03"].mean())
    computed = patients.patient_metrics(LABELS, {0: SCORES}, PATIENTS, 200, 0.95, 0)
    assert computed["patient_fraction_mae"]["value"] == pytest.approx(np.abs(true - estimated).mean())
    assert computed["patient_fraction_pearson"]["value"] == pytest.approx(stats.pearsonr(true, estimated).statistic)
    assert computed["patient_roc_auc"]["value"] == pytest.approx(roc_auc_score(true > 0, estimated))
    for figures in computed.values():
        assert figures["low"] <= figures["value"] <= figures["high"]


def test_intervals_are_by_patient():
    """Repeating every patch a hundred times does not change the intervals."""
    single, repeated = (
        patients.patient_metrics(
            *(np.repeat(values, times) if isinstance(values, np.ndarray) else {0: np.repeat(SCORES, times)}
                           for values in (LABELS, None, PATIENTS)), 200, 0.95, 0)["patient_fraction_mae"]
        for times in (1, 100)
    )  # fmt: skip
    assert single["low"] == pytest.approx(repeated["low"])
    assert single["high"] == pytest.approx(repeated["high"])


def test_patients_of_one_class_have_no_auc():
    computed = patients.patient_metrics(np.ones_like(LABELS), {0: SCORES}, PATIENTS, 50, 0.95, 0)
    assert computed["patient_roc_auc"]["value"] is None
    assert computed["patient_fraction_pearson"]["value"] is None
    assert computed["patient_fraction_mae"]["value"] > 0


def test_an_auc_of_fewer_than_five_patients_of_a_class_is_null():
    """With 4 patients of a class, a single one changes it by up to a quarter."""
    for without, is_given in ((4, False), (5, True)):
        labels = np.where(f"patient{without:02}" > PATIENTS, 0, 1)
        computed = patients.patient_metrics(labels, {0: SCORES}, PATIENTS, 50, 0.95, 0)
        assert (computed["patient_roc_auc"]["value"] is not None) == is_given
        assert computed["patient_roc_auc"]["low"] is None  # an interval takes 8 patients of each kind


def test_fractions_of_three_classes_are_means_over_the_classes():
    labels = (LABELS + (PATIENTS > "patient15")).astype(int)
    scores = RNG.dirichlet([1, 1, 1], 600)
    computed = patients.patient_metrics(labels, {0: scores}, PATIENTS, 20, 0.95, 0)
    errors = [
        np.abs(np.subtract(*patients.malignant_fractions(labels == label, scores[:, label], PATIENTS)[:2])).mean()
        for label in range(3)
    ]
    assert computed["patient_fraction_mae"]["value"] == pytest.approx(np.mean(errors))
    assert computed["patient_roc_auc"]["value"] is not None


def test_a_role_without_the_last_of_three_classes_is_not_one_of_two_classes():
    """Six patients have patches of class 0: its area has no interval, though eight have patches of class 1."""
    labels = np.where(np.char.replace(PATIENTS, "patient", "").astype(int) < 6, 0, 1)
    three = patients.patient_metrics(labels, {0: RNG.dirichlet([1, 1, 1], 600)}, PATIENTS, 50, 0.95, 0)
    assert three["patient_roc_auc"]["value"] is not None and three["patient_roc_auc"]["low"] is None
    assert patients._patients_of_rarest_kind(labels, PATIENTS, 3).tolist() == [
        f"patient0{number}" for number in range(6)
    ]
