"""The first screen's sentences: the finding, the largest cautions, and how many of 100 patches are called right."""

import copy

import numpy as np
import pytest

from bcgan.report import finding
from bcgan.report.other_settings import list_other_settings
from bcgan.report.style import CLASSIFIER_NAMES, format_signed
from bcgan.settings import Classifier
from tests.report.conftest import with_trainings


@pytest.fixture
def changed(run):
    """A copy of the run whose metrics and comparisons a test may change."""
    return run._replace(metrics=copy.deepcopy(run.metrics), comparisons=copy.deepcopy(run.comparisons))


def with_models(run, **models):
    settings = run.experiment.classify.replace(models=run.experiment.classify.models | models)
    needed = {
        "pretrain": run.experiment.pretrain.replace(weights="shipped"),
        "gan": run.experiment.gan.replace(projected_discriminator_weight=1.0),
    }
    return run._replace(experiment=run.experiment.replace(classify=settings, **needed))


def with_effect(run, value, low, high, reference="resnet_table1", **settings):
    """The run, with a comparison of its proposed network and another one, each trained three times."""
    proposed = run.experiment.classify.models["gan_resnet"].replace(**settings)
    reference_settings = Classifier(epochs=proposed.epochs, **(settings if reference == "resnet_features" else {}))
    run = with_models(run, gan_resnet=proposed, **{reference: reference_settings})
    effect = {"classifier": "gan_resnet", "reference": reference, "metric": "roc_auc", "p": 0.5}
    run.metrics[reference] = copy.deepcopy(run.metrics["gan_only"])
    run.metrics["gan_resnet"]["sets"]["test"]["roc_auc"] = {"value": 0.947, "low": 0.93, "high": 0.96, "seeds": 3}
    run.metrics[reference]["sets"]["test"]["roc_auc"] = {"value": 0.947 - value, "low": 0.9, "high": 0.95, "seeds": 3}
    run = with_trainings(run, **{"gan_resnet": 3, reference: 3})
    return run._replace(comparisons=[effect | {"value": value, "low": low, "high": high}])


@pytest.mark.parametrize(
    ("value", "low", "high", "kind", "words"),
    [
        (0.012, 0.003, 0.020, "gain", "With the GAN the result is better"),
        (-0.012, -0.020, -0.003, "loss", "With the GAN the result is worse"),
        (0.001, -0.003, 0.004, "none", "No gain from the GAN could be shown"),
        (0.010, 0.0, 0.020, "none", "No gain from the GAN could be shown"),
    ],
)
def test_the_finding_follows_the_interval_of_the_difference(changed, value, low, high, kind, words):
    result = finding.find(with_effect(changed, value, low, high))
    assert result.kind == kind
    assert words in result.sentence
    for number in (value, low, high):
        assert format_signed(number) in result.sentence
    assert f"from {0.947 - value:.3f} to 0.947" in result.sentence


@pytest.mark.parametrize(("value", "low", "high"), [(0.012, 0.003, 0.020), (-0.012, -0.020, -0.003)])
def test_one_training_shows_neither_a_gain_nor_a_loss(changed, value, low, high):
    """By a bootstrap of patients alone, trainings of one recipe often differ."""
    run = with_effect(changed, value, low, high)
    for counts, once in (
        ({"gan_resnet": 1, "resnet_table1": 3}, "GAN+ResNet (proposed)"),
        ({"gan_resnet": 3, "resnet_table1": 1}, "ResNet of Table 1"),
        ({"gan_resnet": 1, "resnet_table1": 1}, "GAN+ResNet (proposed) and ResNet of Table 1"),
    ):
        result = finding.find(with_trainings(run, **counts))
        assert result.kind == "unclear"
        assert f"Whether the GAN helps cannot be said from one training of {once}:" in result.sentence
        assert f"{format_signed(low)} to {format_signed(high)}) over patients alone" in result.sentence
    assert finding.find(run).kind != "unclear"


@pytest.mark.parametrize(
    ("patients", "reason"), [(5, "which takes 8 patients"), (30, "as too few of them have patches of each class")]
)
@pytest.mark.parametrize("value", [0.343, 0.9])
def test_without_an_interval_the_finding_is_unclear(changed, monkeypatch, value, patients, reason):
    """The network has no comparison; with few patients neither a high nor a low ROC AUC is a finding."""
    counts = changed.role_counts("test") | {"patients": patients}
    monkeypatch.setattr(type(changed), "role_counts", lambda run, role: counts)
    estimate = {"value": value, "low": None, "high": None, "seeds": 1}
    changed.metrics["gan_resnet"]["sets"]["test"]["roc_auc"] = estimate
    result = finding.find(changed._replace(comparisons=[]))
    assert result.kind == "unclear"
    assert f"cannot be said from {patients} test patients" in result.sentence
    assert f"{value:.3f}, without an interval, {reason}" in result.sentence
    few = [text for text in finding.all_cautions(changed) if text.startswith("Only")]
    assert [("too few for intervals" in text) for text in few] == ([True] if patients < 8 else [False] * len(few))


def test_calibration_that_made_probabilities_worse_is_a_caution(changed):
    test = changed.metrics["gan_resnet"]["sets"]["test"]
    for before, after, words in ((0.02, 0.34, "off by 34 points on average in place of 2"),
                                 (0.10, 0.104, "off by 10 points on average if not calibrated"),
                                 (0.1, 0.02, "off by 10 points on average if not calibrated")):  # fmt: skip
        test["ece"]["value"], test["ece_calibrated"]["value"] = before, after
        assert any(words in text for text in finding.all_cautions(changed))


def test_the_same_network_without_the_gan_comes_before_table_1(changed):
    run = with_effect(changed, 0.01, 0.002, 0.02, extra_features="simclr")
    closer = with_effect(run, 0.0005, -0.001, 0.002, "resnet_features", extra_features="simclr")
    both = closer._replace(comparisons=run.comparisons + closer.comparisons)
    assert finding.find(both).kind == "none"
    assert "pretrained" not in finding.find(both).sentence


def test_a_network_with_other_features_is_not_the_same_without_the_gan(changed):
    run = with_effect(changed, 0.01, 0.002, 0.02, extra_features="simclr")
    closer = with_effect(run, 0.0005, -0.001, 0.002, "resnet_features", extra_features="simclr")
    other_features = closer.experiment.classify.models["resnet_features"].replace(extra_features="imagenet")
    both = with_models(
        closer._replace(comparisons=run.comparisons + closer.comparisons), resnet_features=other_features
    )
    assert finding.find(both).kind == "gain"


def test_a_gain_with_pretrained_features_is_not_attributed_to_the_gan_alone(changed):
    result = finding.find(with_effect(changed, 0.01, 0.002, 0.02, extra_features="simclr"))
    assert result.sentence.startswith("With the GAN and pretrained features together the result is better")
    assert result.further.startswith("What the GAN adds to pretrained features was not tested.")
    result = finding.find(with_effect(changed, 0.01, 0.002, 0.02, extra_features="projected_discriminator"))
    assert "the features of both discriminators and synthetic patches raise" in result.sentence


def test_different_numbers_of_epochs_are_stated(changed):
    run = with_effect(changed, 0.01, 0.002, 0.02)
    assert "other settings" not in finding.find(run).sentence
    longer = run.experiment.classify.models["resnet_table1"].replace(epochs=9)
    result = finding.find(with_models(run, resnet_table1=longer))
    assert result.sentence.startswith("With the GAN and other settings together the result is better")
    assert "synthetic patches and other settings (epochs 2 for 9) raise the test ROC AUC" in result.sentence
    assert result.further.startswith("What the GAN adds with the same settings was not tested.")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"learning_rate": 0.01}, "learning_rate 0.001 for 0.01"),
        ({"finetune_extra_features": True}, "no finetune_extra_features"),
        ({"seeds": (0, 1, 2)}, "1 seed for 3"),
        ({"seeds": (5,)}, "other seeds"),
        ({"synthetic_fraction": 0.5}, "synthetic_fraction 0.25 for 0.5"),
        ({"synthetic_fraction": 0.25, "filter_synthetic": False}, "filter_synthetic"),
        ({"filter_synthetic": False}, ""),  # without synthetic patches it changes nothing
    ],
)
def test_no_difference_from_another_setting_is_attributed_to_the_gan(changed, setting, words):
    run = with_effect(changed, 0.01, 0.002, 0.02, "resnet_features", extra_features="simclr")
    models = run.experiment.classify.models
    reference = models["resnet_features"].replace(**setting)
    sentence = finding.find(with_models(run, resnet_features=reference)).sentence
    assert "from 0.937 to 0.947" in sentence
    assert (f"other settings ({words})" in sentence) if words else ("other settings" not in sentence)


def test_a_head_that_reads_every_depth_is_another_setting_than_the_gan(changed):
    run = with_effect(changed, 0.01, 0.002, 0.02, extra_features="simclr", multi_depth=True)
    sentence = finding.find(run).sentence
    assert sentence.startswith("With the GAN, pretrained features and other settings together the result is better")
    assert "(multi_depth)" in sentence


def test_a_difference_without_an_interval_is_unclear(changed):
    result = finding.find(with_effect(changed, 0.01, None, None))
    assert result.kind == "unclear" and "cannot be said from 2 test patients" in result.sentence


def test_without_a_comparison_the_finding_is_how_well_the_proposed_network_does(changed):
    run = changed._replace(comparisons=[])
    auc = run.metrics["gan_resnet"]["sets"]["test"]["roc_auc"]
    auc |= {"value": 0.9, "low": 0.8, "high": 0.95}
    result = finding.find(run)
    assert result.kind == "level"
    assert CLASSIFIER_NAMES["gan_resnet"] in result.sentence and "0.900 (0.800 to 0.950)" in result.sentence
    auc["low"] = 0.45
    result = finding.find(run)
    assert result.kind == "chance" and "is not shown to separate" in result.sentence
    auc |= {"value": None, "low": None, "high": None}
    assert "could not be tested" in finding.find(run).sentence


def test_procedural_tissue_is_stated_first(changed):
    data = changed.experiment.data.model_copy(update={"name": "histology_phantom"})
    run = with_effect(changed, 0.001, -0.003, 0.004)
    run = run._replace(experiment=run.experiment.model_copy(update={"data": data}))
    assert finding.find(run).sentence.startswith("On procedural tissue: no gain from the GAN")
    alone = finding.find(run._replace(comparisons=[])).sentence
    assert alone.startswith(f"On procedural tissue: {CLASSIFIER_NAMES['gan_resnet']}")


def test_the_largest_significant_gain_of_the_other_additions_is_named(changed):
    members = changed.experiment.evaluate.replace(ensemble_models=("gan_resnet", "gan_only"))
    run = with_effect(changed._replace(experiment=changed.experiment.replace(evaluate=members)), 0.001, -0.003, 0.004)
    pair = {"classifier": "ensemble_spatial_context", "reference": "ensemble", "metric": "roc_auc", "p": 0.001}
    for name in ("ensemble", "ensemble_spatial_context"):
        run.metrics[name] = copy.deepcopy(run.metrics["gan_only"])
    comparisons = [*run.comparisons, pair | {"value": 0.015, "low": 0.01, "high": 0.02}]
    further = finding.find(run._replace(comparisons=comparisons)).further
    assert (
        "Of the other additions, the largest gain comes from neighbouring patches: +0.015 (+0.010 to +0.020)" in further
    )
    unclear = [*run.comparisons, pair | {"value": 0.015, "low": -0.01, "high": 0.02}]
    assert finding.find(run._replace(comparisons=unclear)).further == ""


def test_a_group_with_a_result_below_the_test_interval_is_the_first_caution(changed):
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
    assert "who are on no patient list" in first
    assert "sensitivity at the same threshold is 0.762; on test patients it is 0.900 (0.870 to 0.930)" in first


def test_a_failed_leak_audit_comes_before_everything(changed):
    checks = {"same": {"passed": False, "count": 3, "meaning": "patches on both sides"}}
    run = changed._replace(leak_audit=changed.leak_audit | {"checks": checks})
    assert "patches on both sides" in finding.cautions(run)[0]


def test_the_three_largest_cautions_are_shown_in_order(run):
    everything = finding._all_cautions(run)
    sizes = {caution.text: caution.size for caution in everything}
    texts = finding.all_cautions(run)
    assert finding.cautions(run) == texts[:3] and len(texts) == len(everything) > 3
    assert [sizes[text] for text in texts] == sorted(sizes.values(), reverse=True)


def test_an_undefined_calibration_error_is_no_caution(changed):
    changed.metrics[changed.classifier_names[0]]["sets"]["test"]["ece"]["value"] = None
    assert not any("calibrated" in text for text in finding.all_cautions(changed))


def test_patches_without_patients_are_not_counted_as_patients(changed):
    data = changed.experiment.data.model_copy(update={"name": "patch_camelyon"})
    run = changed._replace(experiment=changed.experiment.model_copy(update={"data": data}))
    texts = finding.all_cautions(run)
    assert "name no patients" in texts[0] and not any("of 10 patches" in text for text in texts)


def test_the_outcomes_of_100_patches_are_those_of_sensitivity_and_specificity(run):
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


@pytest.mark.parametrize(("name", "is_named"), [("efficientnet_lite0_simclr", True), ("gan_resnet", False)])
def test_synthetic_patches_are_another_setting_but_of_gan_resnet(changed, name, is_named):
    """What GAN+ResNet adds includes them; other additions do not."""
    reference = {"efficientnet_lite0_simclr": "efficientnet_lite0", "gan_resnet": "resnet_table1"}[name]
    run = with_models(changed, **{name: Classifier(synthetic_fraction=0.5), reference: Classifier()})
    others = list_other_settings(run, name, reference)
    assert others == (["synthetic_fraction 0.5 for 0.0"] if is_named else [])
