import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from bcgan import experiment
from bcgan.classify import calibration
from bcgan.evaluate import derived, intervals, leaks, metrics, score

RNG = np.random.default_rng(0)
LABELS = (RNG.random(400) < 0.3).astype(int)
SCORES = np.round(np.clip(RNG.normal(0.35 + 0.25 * LABELS, 0.2), 0, 1), 2)  # rounded, so that there are ties
PATIENTS = RNG.integers(0, 20, 400)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_metric_is_that_of_scikit_learn(weighted):
    weights = RNG.integers(0, 4, 400).astype(float) if weighted else np.ones(400)
    called = SCORES >= 0.5
    expected = {
        "roc_auc": reference.roc_auc_score(LABELS, SCORES, sample_weight=weights),
        "pr_auc": reference.average_precision_score(LABELS, SCORES, sample_weight=weights),
        "balanced_accuracy": reference.balanced_accuracy_score(LABELS, called, sample_weight=weights),
        "accuracy": reference.accuracy_score(LABELS, called, sample_weight=weights),
        "sensitivity": reference.recall_score(LABELS, called, sample_weight=weights),
        "specificity": reference.recall_score(LABELS, called, pos_label=0, sample_weight=weights),
        "f1": reference.f1_score(LABELS, called, sample_weight=weights),
        "brier": reference.brier_score_loss(LABELS, SCORES, sample_weight=weights),
        "loss": reference.log_loss(LABELS, np.clip(SCORES, 1e-7, 1 - 1e-7), sample_weight=weights),
    }
    computed = metrics.compute_metrics(LABELS, SCORES, 0.5, weights[None])
    for name, value in expected.items():
        assert computed[name][0] == pytest.approx(value), name


def test_calibration_error_of_known_cases():
    scores = np.repeat([0.05, 0.95], 100)
    labels = np.concatenate([np.arange(100) < 5, np.arange(100) < 95]).astype(int)
    weights = np.ones((1, 200))
    assert metrics.compute_metrics(labels, scores, 0.5, weights)["ece"][0] == pytest.approx(0, abs=1e-9)
    assert metrics.compute_metrics(1 - labels, scores, 0.5, weights)["ece"][0] == pytest.approx(0.9)


def test_youden_threshold_is_the_best_one():
    threshold = metrics.operating_points(LABELS, SCORES)["youden"]

    def index(t):
        return reference.balanced_accuracy_score(LABELS, t <= SCORES)

    assert index(threshold) == pytest.approx(max(index(t) for t in np.unique(SCORES)))


def test_the_bootstrap_draws_whole_patients():
    drawn = intervals.patient_weights(PATIENTS, 30, seed=0)
    for patient in np.unique(PATIENTS):
        assert (drawn[:, patient == PATIENTS].std(axis=1) == 0).all()
    np.testing.assert_array_equal(drawn, intervals.patient_weights(PATIENTS, 30, seed=0))


def test_intervals_hold_the_value_and_widen_with_clustering():
    noisier = SCORES + np.random.default_rng(0).normal(0, 0.05, len(SCORES))
    scored = intervals.SeedPredictions({0: SCORES, 1: noisier}, {0: 0.5, 1: 0.5})

    def width(patients):
        estimates = intervals.metrics_with_intervals(LABELS, scored, patients, 300, 0.95, 0)
        auc = estimates["roc_auc"]
        assert auc["low"] <= auc["value"] <= auc["high"]
        assert auc["seeds"] == 2
        return auc["high"] - auc["low"]

    clustered = np.argsort(np.argsort(SCORES)) // 20
    assert width(clustered) > width(np.arange(400))


def test_too_few_patients_have_no_interval():
    estimates = intervals.metrics_with_intervals(
        LABELS, intervals.SeedPredictions({0: SCORES}, {0: 0.5}), PATIENTS % 3, 50, 0.95, 0
    )
    assert estimates["roc_auc"]["value"] is not None
    assert estimates["roc_auc"]["low"] is estimates["roc_auc"]["high"] is None


def test_one_class_alone_has_no_roc_auc():
    estimates = intervals.metrics_with_intervals(
        np.zeros(10, int), intervals.SeedPredictions({0: np.linspace(0, 1, 10)}, {0: 0.5}), np.arange(10), 20, 0.95, 0
    )
    assert estimates["roc_auc"]["value"] is None
    assert estimates["specificity"]["value"] == 0.5


def clean_index() -> pd.DataFrame:
    rows = [
        (f"p{p}", role, f"{p}-{i}", 1000 * p + i)
        for p, role in enumerate(["train", "validation", "test"])
        for i in range(4)
    ]
    table = pd.DataFrame(rows, columns=["patient", "role", "pixels", "perceptual"])
    return table.assign(width=50, height=50)


SPLIT = {"patients": {"p0": "train", "p1": "validation", "p2": "test"}}


NOISE = np.random.default_rng(1).integers(0, 256, (13, 50, 50, 3), np.uint8)


def test_a_clean_split_passes():
    assert leaks.audit(clean_index(), NOISE[:12], SPLIT)["passed"]


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("patient", "p0", "patients_in_two_roles"),
        ("role", "train", "patients_against_split_file"),
        ("pixels", "0-0", "identical_pixels_across_roles"),
    ],
)
def test_every_check_can_fail(column, value, check):
    index = clean_index()
    index.loc[11, column] = value
    audit = leaks.audit(index, NOISE[:12], SPLIT)
    assert not audit["passed"]
    assert not audit["checks"][check]["passed"]


def test_a_patch_that_was_saved_anew_is_found():
    index, images = clean_index(), NOISE[:12].copy()
    images[11] = np.clip(images[0] + np.int16(2), 0, 255)
    index.loc[11, "perceptual"] = index.loc[0, "perceptual"] ^ 5
    assert leaks.audit(index, images, SPLIT)["checks"]["near_identical_across_roles"]["count"] == 1
    images[[0, 11]] = 240  # only glass
    assert leaks.audit(index, images, SPLIT)["passed"]


def test_thin_patches_at_edges_are_not_called_copies():
    """One line of pixels on a white square looks like any other, by hash and thumbnail."""
    index, images = clean_index(), NOISE[:12].copy()
    images[[0, 11]] = 255
    images[0, 0], images[11, 0] = 120, 140
    index.loc[11, "perceptual"] = index.loc[0, "perceptual"]
    assert leaks.audit(index, images, SPLIT)["checks"]["near_identical_across_roles"]["count"] == 1
    index.loc[[0, 11], "height"] = 1
    assert leaks.audit(index, images, SPLIT)["passed"]
    index.loc[11, "pixels"] = index.loc[0, "pixels"]
    assert not leaks.audit(index, images, SPLIT)["passed"]  # identical pixels are found whatever the height


def test_a_threshold_or_a_calibration_fitted_on_test_patients_is_found():
    table = pd.DataFrame({"role": ["validation", "test"] * 200, "label": LABELS[:400], "cnn-seed0": SCORES[:400]})

    def fitted(role: str) -> tuple[float, dict]:
        rows = table[table["role"] == role]
        scores = rows["cnn-seed0"].to_numpy()
        return metrics.operating_points(rows["label"], scores)["youden"], calibration.fit(
            scores, rows["label"]
        )._asdict()

    for threshold, calibrated, count in (
        ("validation", "validation", 0),
        ("test", "validation", 1),
        ("validation", "test", 1),
    ):
        metrics_by_name = {
            "cnn": {"thresholds": {"0": fitted(threshold)[0]}, "calibration": {"0": fitted(calibrated)[1]}}
        }
        assert leaks.count_not_fitted_on_validation(table, metrics_by_name) == count
    assert not leaks.audit(clean_index(), NOISE[:12], SPLIT, num_misfitted=1)["passed"]
    assert not leaks.audit(clean_index(), NOISE[:12], SPLIT, pretraining_patients=["p2"])["passed"]


def test_spatial_context_fitted_on_test_patients_is_found():
    table = pd.DataFrame({
        "id": [f"{n % 20}_idx5_x{50 * n}_y0_class0.png" for n in range(400)], "role": ["validation", "test"] * 200,
        "patient": [str(n % 20) for n in range(400)], "label": LABELS, "x": 50 * np.arange(400), "y": 0,
        "cnn-seed0": SCORES,
    })  # fmt: skip
    table["image"] = table["id"]
    base, turned = (
        derived.ensemble_probabilities(table, ("cnn",)),
        table["role"].replace({"validation": "test", "test": "validation"}),
    )
    for roles, count in ((table["role"], 0), (turned, 1)):
        fitted = derived.refine_by_context(table.assign(role=roles), base, 50, ())[1]
        metrics_by_name = {"ensemble_spatial_context": {"context": fitted._asdict()}}
        assert (
            leaks.count_not_fitted_on_validation(table, metrics_by_name | {"cnn": _as_fitted(table)}, ("cnn",), 50)
            == count
        )


def _as_fitted(table: pd.DataFrame) -> dict:
    rows = table[table["role"] == "validation"]
    threshold = metrics.operating_points(rows["label"], rows["cnn-seed0"].to_numpy())["youden"]
    fitted = calibration.fit(rows["cnn-seed0"].to_numpy(), rows["label"])._asdict()
    return {"thresholds": {"0": threshold}, "calibration": {"0": fitted}}


def test_patches_used_without_labels_count_as_training():
    index = clean_index()
    index.loc[len(index)] = ["p3", "unlisted", "2-0", 77, 50, 50]  # the pixels of a test patch
    split = {"patients": {**SPLIT["patients"], "p3": "unlisted"}}
    assert leaks.audit(index, NOISE, split)["passed"]
    assert leaks.audit(index, NOISE, split, unlabelled=True)["checks"]["identical_pixels_across_roles"]["count"] == 1


def test_every_operating_point_keeps_its_rule():
    points = metrics.operating_points(LABELS, SCORES)
    accuracies = [reference.accuracy_score(LABELS, threshold <= SCORES) for threshold in SCORES]
    assert reference.accuracy_score(LABELS, points["accuracy"] <= SCORES) == max(accuracies)
    assert reference.recall_score(LABELS, points["sensitivity_95"] <= SCORES) >= 0.95
    above = min(score for score in SCORES if score > points["sensitivity_95"])
    assert reference.recall_score(LABELS, above <= SCORES) < 0.95
    best = max(reference.f1_score(LABELS, t <= SCORES) for t in np.unique(SCORES))
    assert reference.f1_score(LABELS, points["f1"] <= SCORES) == pytest.approx(best)


def test_a_paired_difference_has_a_sign_and_is_narrower_than_its_parts():
    better_scores = np.where(LABELS == 1, SCORES + 0.05, SCORES)
    drawn = intervals.patient_weights(PATIENTS, 400, 0)
    better_areas, areas = (
        intervals.bootstrap_metrics(LABELS, intervals.SeedPredictions({0: scores}, {0: 0.5}), drawn)["roc_auc"]
        for scores in (better_scores, SCORES)
    )
    difference = intervals.paired_difference(better_areas, areas, PATIENTS, 0.95)
    alone = intervals.percentile_interval(better_areas, PATIENTS, 0.95)
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    assert difference["high"] - difference["low"] < alone["high"] - alone["low"]
    assert difference["p"] == pytest.approx(2 / 401)  # the smallest p that 400 resamples can give
    assert intervals.paired_difference(better_areas, better_areas, PATIENTS, 0.95)["p"] == 1.0
    assert intervals.paired_difference(areas, better_areas, PATIENTS, 0.95)["value"] == -difference["value"]


def test_an_interval_takes_eight_patients_of_the_class_that_limits_it():
    """With fewer, an interval holds the true value too seldom, however many other patients there are."""
    patients = np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)

    def measure(num_carriers: int) -> dict[str, bool]:
        labels = ((patients < num_carriers) & (np.arange(200) % 5 == 0)).astype(int)
        predictions = intervals.SeedPredictions({0: rng.random(200)}, {0: 0.5})
        measured = intervals.metrics_with_intervals(labels, predictions, patients, 200, 0.95, 0)
        return {name: estimate["low"] is not None for name, estimate in measured.items()}

    few, enough = measure(7), measure(8)
    of_all = {"accuracy", "brier", "ece", "loss", "specificity"}
    assert {name for name, has_interval in few.items() if has_interval} == of_all
    assert all(enough.values())
    values = np.where(patients < 7, 1.0, np.nan)
    assert intervals.mean_with_interval(values, patients, 200, 0.95, 0) == {"value": 1.0, "low": None, "high": None}
    three = np.where(patients < 7, 2, patients % 2)  # of more classes, the rarest limits means over the classes
    for name, count in (("sensitivity", 7), ("roc_auc", 7), ("accuracy", 40)):
        assert len(np.unique(intervals.patients_of_metric(name, three, patients))) == count


@pytest.mark.parametrize(("members", "first"), [("[cnn,resnet_table1]", "cnn"), ("[gan_resnet]", None)])
def test_the_ensemble_is_compared_with_its_first_member_too(members, first):
    """With the proposed classifier it is always compared, once."""
    settings = experiment.load("phantom", (f"evaluate.ensemble_models={members}", "evaluate.bootstrap_samples=10"))
    names = ("gan_resnet", "resnet_table1", "cnn", "ensemble")
    predictions = intervals.SeedPredictions({0: SCORES}, {0: 0.5})
    scored = dict.fromkeys(names, intervals.CalibratedPredictions(predictions, predictions, {}))
    table = pd.DataFrame({"role": "test", "label": LABELS, "patient": PATIENTS})
    pairs = [(row["classifier"], row["reference"]) for row in score._compare_classifiers(settings, table, scored)]
    expected = {(name, "gan_resnet") for name in names[1:]} | ({("ensemble", first)} if first else set())
    assert set(pairs) == expected
    assert len(pairs) == 3 * len(expected)  # metrics


THREE_LABELS = np.random.default_rng(8).integers(0, 3, 240)
THREE_SCORES = np.random.default_rng(9).dirichlet([1, 1, 1], 240) + 0.4 * np.eye(3)[THREE_LABELS]
THREE_SCORES /= THREE_SCORES.sum(1, keepdims=True)


def test_metrics_of_three_classes_are_those_of_scikit_learn():
    computed = metrics.compute_metrics(THREE_LABELS, THREE_SCORES, None, np.ones((1, 240)))
    called = THREE_SCORES.argmax(1)
    expected = {
        "roc_auc": reference.roc_auc_score(THREE_LABELS, THREE_SCORES, multi_class="ovr"),
        "pr_auc": reference.average_precision_score(np.eye(3)[THREE_LABELS], THREE_SCORES),
        "accuracy": reference.accuracy_score(THREE_LABELS, called),
        "balanced_accuracy": reference.balanced_accuracy_score(THREE_LABELS, called),
        "f1": reference.f1_score(THREE_LABELS, called, average="macro"),
        "loss": reference.log_loss(THREE_LABELS, THREE_SCORES),
        "brier": ((THREE_SCORES - np.eye(3)[THREE_LABELS]) ** 2).sum(1).mean() / 2,
    }
    assert set(computed) == set(metrics.NAMES)
    for name, value in expected.items():
        assert computed[name][0] == pytest.approx(value, rel=1e-6), name
    assert metrics.macro_roc_auc(THREE_LABELS, THREE_SCORES) == pytest.approx(expected["roc_auc"])


def test_two_classes_have_the_same_metrics_as_two_columns():
    """The definitions for more classes agree with those for two, at the threshold of one half."""
    weights = np.random.default_rng(0).integers(0, 3, (5, len(LABELS))).astype(float)
    scores = SCORES * 0.999  # no score is 0.5
    by_score = metrics.compute_metrics(LABELS, scores, 0.5, weights)
    by_columns = metrics.compute_metrics(LABELS, np.stack([1 - scores, scores], 1), None, weights)
    for name in ("roc_auc", "balanced_accuracy", "accuracy", "brier", "loss"):
        np.testing.assert_allclose(by_columns[name], by_score[name], rtol=1e-6)


def test_a_class_against_the_rest_is_called_where_it_is_the_most_probable():
    predictions = intervals.SeedPredictions({0: THREE_SCORES}, {0: None}).against_rest(1)
    scores, thresholds = predictions.probabilities[0], predictions.thresholds[0]
    np.testing.assert_array_equal(scores >= thresholds, THREE_SCORES.argmax(1) == 1)
    assert metrics.select_threshold(THREE_LABELS, THREE_SCORES) is None
