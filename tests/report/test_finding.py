"""The first screen's sentences: what a run shows, the largest cautions, and what becomes of 100 patches."""

import copy

import numpy as np
import pytest

from bcgan.report import finding
from bcgan.report.style import CLASSIFIER_NAMES, format_signed


@pytest.fixture
def changed(run):
    """A copy of the run whose metrics and comparisons a test may change."""
    return run._replace(metrics=copy.deepcopy(run.metrics), comparisons=copy.deepcopy(run.comparisons))


def with_effect(run, value, low, high, reference="resnet_table1"):
    effect = {"classifier": "gan_resnet", "reference": reference, "metric": "roc_auc", "p": 0.5}
    run.metrics[reference] = copy.deepcopy(run.metrics["gan_only"])
    run.metrics["gan_resnet"]["sets"]["test"]["roc_auc"] = {"value": 0.947, "low": 0.93, "high": 0.96, "seeds": 3}
    run.metrics[reference]["sets"]["test"]["roc_auc"] = {"value": 0.947 - value, "low": 0.9, "high": 0.95, "seeds": 3}
    return run._replace(comparisons=[effect | {"value": value, "low": low, "high": high}])


@pytest.mark.parametrize(
    ("value", "low", "high", "kind", "words"),
    [
        (0.012, 0.003, 0.020, "gain", "The GAN helps"),
        (-0.012, -0.020, -0.003, "loss", "The GAN does harm"),
        (0.001, -0.003, 0.004, "none", "No gain from the GAN could be shown"),
        (0.010, 0.0, 0.020, "none", "No gain from the GAN could be shown"),
    ],
)
def test_the_finding_follows_the_interval_of_the_difference(changed, value, low, high, kind, words):
    found = finding.find(with_effect(changed, value, low, high))
    assert found.kind == kind
    assert words in found.sentence
    for number in (value, low, high):
        assert format_signed(number) in found.sentence
    assert f"from {0.947 - value:.3f} to 0.947" in found.sentence


def test_the_same_network_without_the_gan_comes_before_table_1(changed):
    run = with_effect(changed, 0.01, 0.002, 0.02)
    closer = with_effect(run, 0.0005, -0.001, 0.002, "resnet_features")
    both = closer._replace(comparisons=run.comparisons + closer.comparisons)
    assert finding.find(both).kind == "none"


def test_without_a_comparison_the_finding_is_how_well_the_proposed_network_does(changed):
    run = changed._replace(comparisons=[])
    auc = run.metrics["gan_resnet"]["sets"]["test"]["roc_auc"]
    auc |= {"value": 0.9, "low": 0.8, "high": 0.95}
    found = finding.find(run)
    assert found.kind == "level"
    assert CLASSIFIER_NAMES["gan_resnet"] in found.sentence and "0.900 (0.800 to 0.950)" in found.sentence
    auc["low"] = 0.45
    assert finding.find(run).kind == "chance"


def test_the_largest_shown_gain_of_the_others_is_named(changed):
    run = with_effect(changed, 0.001, -0.003, 0.004)
    pair = {"classifier": "ensemble_spatial_context", "reference": "ensemble", "metric": "roc_auc", "p": 0.001}
    for name in ("ensemble", "ensemble_spatial_context"):
        run.metrics[name] = copy.deepcopy(run.metrics["gan_only"])
    shown = [*run.comparisons, pair | {"value": 0.015, "low": 0.01, "high": 0.02}]
    assert "neighbouring patches: +0.015 (+0.010 to +0.020)" in finding.find(run._replace(comparisons=shown)).further
    unclear = [*run.comparisons, pair | {"value": 0.015, "low": -0.01, "high": 0.02}]
    assert finding.find(run._replace(comparisons=unclear)).further == ""


def test_a_group_below_the_test_interval_is_the_first_caution(changed):
    name = changed.classifier_names[0]
    counts = changed.split["counts"]
    run = changed._replace(split=changed.split | {"counts": counts | {"unlisted": counts["test"]}})
    sets = run.metrics[name]["sets"]
    sets["test"]["sensitivity"] = {"value": 0.9, "low": 0.87, "high": 0.93, "seeds": 1}
    sets["unlisted"] = copy.deepcopy(sets["test"])
    sets["unlisted"]["sensitivity"]["value"] = 0.88
    assert not any("unlisted" in text for text in finding.cautions(run))
    sets["unlisted"]["sensitivity"]["value"] = 0.762
    first = finding.cautions(run)[0]
    assert "whom none of the official lists names" in first
    assert "sensitivity at the same threshold is 0.762; on test patients it is 0.900 (0.870 to 0.930)" in first


def test_a_failed_leak_audit_comes_before_everything(changed):
    checks = {"same": {"passed": False, "count": 3, "meaning": "patches on both sides"}}
    run = changed._replace(leak_audit=changed.leak_audit | {"checks": checks})
    assert "patches on both sides" in finding.cautions(run)[0]


def test_three_cautions_the_largest_first(run):
    everything = sorted(finding._all_cautions(run), key=lambda caution: -caution.size)
    assert finding.cautions(run) == [caution.text for caution in everything[:3]]
    assert len(everything) > 3


def test_of_100_patches_as_many_are_called_as_sensitivity_and_specificity_say(run):
    by_class = {outcome.text: outcome for outcome in finding.outcomes(run)}
    test = run.metrics[run.classifier_names[0]]["sets"]["test"]
    assert list(by_class) == ["malignant", "benign"]
    assert by_class["malignant"].called == round(100 * test["sensitivity"]["value"])
    assert by_class["benign"].called == round(100 * test["specificity"]["value"])
    assert all(outcome.called + outcome.missed == 100 for outcome in by_class.values())


def test_patients_accuracies_are_means_of_their_patches(run, test_rows):
    name = run.classifier_names[0]
    accuracies = run.patient_accuracies(name)
    for patient, rows in test_rows.groupby("patient"):
        places = test_rows.index.get_indexer(rows.index)
        right = [np.mean(called[places] == rows["label"]) for called in run.called_by_seed(name, test_rows).values()]
        assert accuracies[patient] == pytest.approx(np.mean(right))
