"""95 % intervals hold the true value in about 95 of 100 simulations, however few the trainings are."""

import numpy as np
import pytest

from bcgan.evaluate import intervals

PATIENTS, RESAMPLES, SIMULATIONS = np.arange(40), 200, 400


def simulate(rng: np.random.Generator, trainings: np.ndarray, patient_error: float) -> np.ndarray:
    """A metric whose true value is 0, (trainings, 1 + resamples); all trainings have the same error of the patients."""
    resampled = np.concatenate([[0.0], rng.normal(size=RESAMPLES)])
    return trainings[:, None] + patient_error + resampled


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 2.0])  # of trainings, in standard errors of the patients
@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_of_a_few_trainings_holds_the_true_value(count, spread):
    rng, covered = np.random.default_rng(0), []
    for _ in range(SIMULATIONS):
        values = simulate(rng, spread * rng.normal(size=count), rng.normal())
        estimate = intervals.percentile_interval(values, PATIENTS, 0.95)
        covered.append(estimate["low"] <= 0 <= estimate["high"])
    assert 0.90 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize("same_seeds", [True, False])
@pytest.mark.parametrize(("count", "spread", "least"), [(2, 0.5, 0.90), (3, 0.3, 0.91), (3, 1.4, 0.90), (5, 1.4, 0.91)])
def test_a_difference_of_two_recipes_that_are_alike_has_an_interval_with_zero(count, spread, least, same_seeds):
    """The patients' error of a difference is common to its trainings; with the same seeds, draws are common too."""
    rng, covered, ps = np.random.default_rng(1), [], []
    for _ in range(SIMULATIONS):
        draws = rng.normal(size=count) * 5 * same_seeds
        candidate, reference = (draws + spread * rng.normal(size=count) for _ in range(2))
        values = simulate(rng, candidate, rng.normal())
        estimate = intervals.paired_difference(
            values, np.repeat(reference[:, None], values.shape[1], 1), PATIENTS, 0.95, same_seeds
        )
        covered.append(estimate["low"] <= 0 <= estimate["high"])
        ps.append(estimate["p"])
    assert least <= np.mean(covered) <= 0.985
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(1 - np.mean(covered), abs=0.02)


@pytest.mark.parametrize("spread", [0.3, 1.4])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("single_is_candidate", [True, False])
def test_a_single_training_is_taken_to_vary_as_those_that_it_is_compared_with(count, spread, single_is_candidate):
    rng, covered, without = np.random.default_rng(6), [], []
    for _ in range(SIMULATIONS):
        values = simulate(rng, spread * rng.normal(size=count), rng.normal())
        single = np.full((1, values.shape[1]), spread * rng.normal())
        pair = (single, values) if single_is_candidate else (values, single)
        for estimates, are_trainings in ((covered, True), (without, False)):
            estimate = intervals.paired_difference(*pair, PATIENTS, 0.95, are_trainings=are_trainings)
            estimates.append(estimate["low"] <= 0 <= estimate["high"])
    assert (0.85 if count == 2 else 0.89) <= np.mean(covered) <= 0.985
    assert np.mean(without) < 0.85 or spread < 1
    first = intervals.paired_difference(single, single + 1, PATIENTS, 0.95, are_trainings=True)
    assert first == intervals.paired_difference(single, single + 1, PATIENTS, 0.95)  # nothing is known of two


def test_small_p_values_are_as_rare_as_they_say():
    """A p that is corrected for the number of differences is read far from 0.05."""
    rng, ps = np.random.default_rng(5), []
    for _ in range(4000):
        values = simulate(rng, 1.4 * rng.normal(size=3), rng.normal())
        ps.append(intervals.paired_difference(values, np.zeros_like(values), PATIENTS, 0.95)["p"])
    assert np.mean(np.array(ps) < 0.005) < 0.01
    assert np.mean(np.array(ps) < 0.001) < 0.004 and min(ps) < 2 / (RESAMPLES + 1)


def test_one_training_or_equal_ones_have_the_percentiles_of_the_patients():
    values = np.random.default_rng(2).normal(0.5, 0.1, (1, 1001))
    low, high = np.percentile(values[0, 1:], (2.5, 97.5))
    for trainings in (values, np.repeat(values, 3, 0)):
        estimate = intervals.percentile_interval(trainings, PATIENTS, 0.95)
        assert (estimate["low"], estimate["high"]) == pytest.approx((low, high))


def test_an_interval_stays_within_the_limits_of_its_metric():
    values = np.clip(np.random.default_rng(3).normal(0.98, 0.01, (2, 501)), 0, 1) - np.array([[0.1], [0.0]])
    estimate = intervals.percentile_interval(values, PATIENTS, 0.95, intervals.limits_of("roc_auc"))
    assert estimate["high"] == 1.0 and 0 <= estimate["low"] < 0.8
    gains = values - 0.9  # all above 0, as a share less chance may be: not limited
    assert intervals.mean_with_interval(gains[:, :40], PATIENTS, 200, 0.95, 0)["low"] < -0.2
    gain = intervals.paired_difference(values, np.zeros_like(values), PATIENTS, 0.95)
    assert gain["high"] > 1.0  # a difference has no such limit


def test_trainings_alone_vary_where_every_patient_is_called_alike():
    values = np.repeat([[0.7], [0.8], [0.9]], 1001, 1)
    estimate = intervals.percentile_interval(values, PATIENTS, 0.95, intervals.limits_of("f1"))
    half_width = 4.303 * 0.1 / np.sqrt(3)  # of Student's t with two degrees of freedom
    assert (estimate["low"], estimate["high"]) == pytest.approx((0.8 - half_width, 1.0), abs=0.01)


def test_resamples_without_the_metric_stay_undefined():
    values = np.random.default_rng(4).normal(0.5, 0.1, (3, 101))
    values[:, 5] = np.nan
    widened = intervals.widen(values[:, 1:].mean(0), intervals.training_noise(values[:, 0]), 40, 0.95)
    assert np.isnan(widened[4]) and np.isfinite(np.delete(widened, 4)).all()
    estimate = intervals.percentile_interval(np.full((3, 101), np.nan), PATIENTS, 0.95)
    assert estimate == {"value": None, "low": None, "high": None}
