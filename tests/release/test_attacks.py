"""Attacks on synthetic sets with known results: at chance without a leak, successful with one."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from bcgan.release import attacks
from bcgan.release.attacks import RealPatches

PATIENTS, PATCHES, DIMENSIONS = 40, 20, 6


def patients_patches(seed: int, patients: int, spread: float = 0.7) -> np.ndarray:
    """Patches of patients, each patient around a center of its own, (patients * PATCHES, DIMENSIONS)."""
    rng = np.random.default_rng(seed)
    centers = np.repeat(rng.normal(size=(patients, DIMENSIONS)), PATCHES, 0)
    return (centers + spread * rng.normal(size=centers.shape)).astype(np.float32)


@pytest.fixture
def real() -> RealPatches:
    """The first half of the patients are members."""
    names = np.repeat([f"p{number:02d}" for number in range(PATIENTS)], PATCHES)
    return RealPatches(patients_patches(0, PATIENTS), names, names < f"p{PATIENTS // 2:02d}")


def scores_of(synthetic: np.ndarray, real: RealPatches) -> np.ndarray:
    return attacks.score_membership(synthetic, real, None)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(attacks, "RESAMPLES", 200)


def test_a_set_of_other_people_is_at_chance_on_average():
    areas, shares = [], []
    for seed in range(12):
        names = np.repeat([f"p{number:02d}" for number in range(PATIENTS)], PATCHES)
        real = RealPatches(patients_patches(100 + seed, PATIENTS), names, names < f"p{PATIENTS // 2:02d}")
        synthetic = patients_patches(500 + seed, 100)
        scores = scores_of(synthetic, real)
        area = attacks.roc_auc(scores, real)
        assert area["value"] == pytest.approx(roc_auc_score(real.is_member, scores))
        areas.append(area)
        shares.append(attacks.share_nearer_to_members(synthetic, real, None))
    for estimates in (areas, shares):
        assert np.mean([estimate["value"] for estimate in estimates]) == pytest.approx(0.5, abs=0.05)
        assert np.mean([estimate["low"] < 0.5 < estimate["high"] for estimate in estimates]) >= 0.75


def test_a_set_that_follows_its_training_patches_is_found(real):
    members = real.values[real.is_member]
    synthetic = members + 0.2 * np.random.default_rng(2).normal(size=members.shape).astype(np.float32)
    scores = scores_of(synthetic, real)
    area = attacks.roc_auc(scores, real)
    assert area["low"] > 0.9
    by_patient = attacks.roc_auc(*attacks.average_by_patient(scores, real))
    assert by_patient["value"] == 1
    rate = attacks.true_positive_rate(scores, real)
    assert rate["low"] > 0.3 > rate["limit"]
    assert attacks.share_nearer_to_members(synthetic, real, None)["low"] > 0.7


@pytest.mark.parametrize("patient", ["p03", "p17"])
def test_a_leak_of_one_patient_names_that_patient(real, patient):
    """One in 21 synthetic patches is near a patch of one training patient; the ROC AUC of patches is near chance."""
    patient_values = real.values[real.patients == patient]
    other_patients = patients_patches(1, 20)
    rng = np.random.default_rng(3)
    leaked = patient_values + 0.1 * rng.normal(size=patient_values.shape).astype(np.float32)
    scores = scores_of(np.concatenate([other_patients, leaked]), real)
    linkage = attacks.find_most_exposed_patient(scores, real)
    assert linkage.patient == patient
    assert linkage.value > linkage.limit
    assert attacks.roc_auc(scores, real)["value"] < 0.6


def draw_patients(seed: int, member_counts: list[int], other_counts: list[int]) -> RealPatches:
    """Patients with given numbers of patches."""
    rng = np.random.default_rng(seed)
    counts = [*member_counts, *other_counts]
    names = np.repeat([f"p{number:03d}" for number in range(len(counts))], counts)
    centers = np.repeat(rng.normal(size=(len(counts), DIMENSIONS)), counts, 0)
    values = (centers + 0.7 * rng.normal(size=centers.shape)).astype(np.float32)
    return RealPatches(values, names, names < f"p{len(member_counts):03d}")


@pytest.mark.parametrize(
    ("member_counts", "other_counts"),
    [([20] * 20, [20] * 20), ([5] * 15 + [60] * 15, [60] * 30), ([20] * 15, [5] * 20 + [40] * 20)],
    ids=["alike", "members with few patches", "others with few patches"],
)
def test_without_a_leak_few_limits_are_exceeded(member_counts, other_counts):
    linkages = rates = 0
    for seed in range(20):
        real = draw_patients(seed, member_counts, other_counts)
        scores = scores_of(patients_patches(500 + seed, 60), real)
        linkage, rate = attacks.find_most_exposed_patient(scores, real), attacks.true_positive_rate(scores, real)
        linkages += linkage.value > linkage.limit
        rates += rate["value"] > rate["limit"]
    assert linkages <= 3
    assert rates <= 3


@pytest.mark.parametrize(("num_members", "num_others"), [(60, 20), (20, 60)])
def test_more_patients_on_one_side_are_not_a_leak(num_members, num_others):
    shares = []
    for seed in range(8):
        real = draw_patients(seed, [20] * num_members, [20] * num_others)
        shares.append(attacks.share_nearer_to_members(patients_patches(500 + seed, 30), real, None)["value"])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)


def test_a_leak_of_a_few_patients_is_found_by_the_rate_of_recognised_patches():
    """60 % of the patches of three in twenty training patients are copied, which hardly changes the ROC AUC."""
    num_detected = 0
    for seed in range(6):
        real, rng = draw_patients(seed, [20] * 20, [20] * 20), np.random.default_rng(seed)
        leaked = real.values[(real.patients < "p003") & (rng.random(len(real.values)) < 0.6)]
        leaked = leaked + 0.15 * rng.normal(size=leaked.shape).astype(np.float32)
        scores = scores_of(np.concatenate([patients_patches(500 + seed, 100), leaked]), real)
        rate = attacks.true_positive_rate(scores, real)
        num_detected += rate["value"] > rate["limit"]
    assert num_detected == 6


def test_the_true_positive_rate_is_that_of_the_roc_curve(real):
    scores = np.random.default_rng(0).normal(size=len(real.values)) + real.is_member
    false_rate, true_rate, _ = roc_curve(real.is_member, scores, drop_intermediate=False)
    expected = true_rate[false_rate <= 0.01].max()
    assert attacks.true_positive_rate(scores, real)["value"] == pytest.approx(expected)


def test_patients_with_few_patches_are_not_named(real):
    keep = (real.patients != "p00") | (np.arange(len(real.patients)) < attacks.MIN_PATIENT_PATCHES - 1)
    few = RealPatches(real.values[keep], real.patients[keep], real.is_member[keep])
    scores = np.where(few.patients == "p00", 100.0, np.random.default_rng(0).normal(size=len(few.patients)))
    linkage = attacks.find_most_exposed_patient(scores, few)
    assert linkage.patient != "p00"


def test_too_few_patients_are_an_error():
    names = np.repeat(["a", "b", "c", "d"], 10)
    real = RealPatches(np.zeros((40, 2), np.float32), names, np.ones(40, bool))
    with pytest.raises(ValueError, match="4 members and 0 unseen"):
        attacks.find_most_exposed_patient(np.zeros(40), real)
