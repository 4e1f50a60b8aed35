"""Tables of stages that the run of the tests does not have, from made-up results."""

import pytest

from bcgan.evaluate import metrics
from bcgan.evaluate.cross_validation import BEST_ACCURACY
from bcgan.report import alerts, classifier_figures, gan_effect_figures, stage_tables, tables
from bcgan.settings import Classifier
from tests.report.conftest import with_trainings


def test_the_learning_curves_sentence_follows_its_numbers(run):
    def at(value, low, high, p=0.2):
        gain = {"metric": "roc_auc", "reference": "classic", "value": value, "low": low, "high": high, "p": p}
        return {"train_fraction": 0.05, "arm": "gan", **gain}

    def verdict(*differences, seeds=3):
        cells = [{"figures": {"roc_auc": {"seeds": seeds}}}]
        curve = {"differences": list(differences), "cells": cells}
        return stage_tables.learning_curve_verdict(run._replace(learning_curve=curve))

    without_gain = verdict(at(-0.02, -0.04, -0.01), at(0.01, -0.01, 0.03))
    assert without_gain.startswith("No arm is shown to beat classic augmentation: if p is corrected")
    assert "+ GAN at 5% of the patients, ROC AUC 0.010 (-0.010 to 0.030), p = 0.2" in without_gain
    with_gain = verdict(at(0.02, 0.01, 0.03, 0.01), at(0.0, -0.01, 0.01))
    assert with_gain.startswith("1 of 2 differences from classic augmentation are gains, even if p is")
    assert "cannot be said" in verdict(at(0.02, None, None, None))
    assert "cannot be said" in verdict(at(0.02, 0.01, 0.03, 0.01), seeds=1)
    # One of six intervals above 0 is not enough: with so many, one of six simulated studies has such a difference.
    assert verdict(at(0.02, 0.01, 0.03, 0.01), *[at(0.0, -0.01, 0.01)] * 5).startswith("No arm is shown")
    assert verdict(at(-0.02, -0.03, -0.01, 0.002)).startswith("No arm is shown")  # a loss
    assert verdict(*[at(0.1, 0.09, 0.11, 1e-5)] * 30).startswith("30 of 30 differences")


def estimate(value, half_width=0.1):
    return {"value": value, "low": value - half_width, "high": value + half_width}


FIGURES = dict.fromkeys(("roc_auc", "balanced_accuracy", "f1"), estimate(0.8))
DIFFERENCES = dict.fromkeys(FIGURES, estimate(0.0) | {"p": 0.5})
DIFFERENCE_TEXTS = ["", "0.000 (-0.100 to 0.100), p = 0.5"]


def test_the_ablation_has_every_choice_on_validation_and_one_on_test_patients(run):
    variants = [
        {"factor": "baseline", "variant": "", "seeds": 2, "figures": FIGURES, "differences": None},
        {"factor": "loss", "variant": "focal", "seeds": 1, "figures": FIGURES, "differences": DIFFERENCES},
    ]
    selected = {
        "factor": "loss", "variant": "focal", "seeds": 1, "baseline": FIGURES,
        "figures": dict.fromkeys(FIGURES, estimate(0.7)), "differences": DIFFERENCES,
    }  # fmt: skip
    ablation = {"model": "gan_resnet", "epochs": 1, "variants": variants, "selected": selected}
    ablated = run._replace(ablation=ablation)
    table = stage_tables.ablation(ablated).fillna("")
    assert table["Difference in ROC AUC"].tolist() == DIFFERENCE_TEXTS
    assert table["Seeds"].tolist() == [2, 1]
    table = stage_tables.selected_variant(ablated).fillna("")
    assert table["Factor"].tolist() == ["baseline", "loss"]
    assert table["Seeds"].tolist() == [1, 1]
    assert table["ROC AUC"].tolist() == ["0.800 (0.700 to 0.900)", "0.700 (0.600 to 0.800)"]
    assert table["Difference in ROC AUC"].tolist() == DIFFERENCE_TEXTS
    assert stage_tables.selected_variant(run._replace(ablation=ablation | {"selected": None})).empty
    drawn = classifier_figures.ablation(ablated)
    assert "2 seeds (1 for loss: focal): difference" in drawn.caption
    assert run.role_summary("validation") in drawn.caption


def test_the_learning_curve_has_a_row_for_each_arm(run):
    figures = {name: figure | {"seeds": 3} for name, figure in FIGURES.items()}
    cells = [{"train_fraction": 0.1, "arm": arm, "patients": 1, "figures": figures} for arm in ("classic", "gan")]
    difference = {"train_fraction": 0.1, "arm": "gan", "metric": "roc_auc", **DIFFERENCES["roc_auc"]}
    table = stage_tables.learning_curve(run._replace(learning_curve={"cells": cells, "differences": [difference]}))
    assert table.fillna("")["Difference in ROC AUC"].tolist() == DIFFERENCE_TEXTS
    assert table["Arm"].tolist() == ["Real + classic", "+ GAN"]


@pytest.mark.parametrize(
    ("counts", "text"),
    [((0, 0), ""), ((2, 0), "(2 at 2.5% of the patients)"), ((2, 1), "(2 at 2.5% of the patients, 1 at 50%")],
)
def test_trainings_without_an_accepted_patch_are_told(run, counts, text):
    cells = [
        {"train_fraction": fraction, "arm": arm, "num_filter_fallbacks": count if arm == "selected" else 0}
        for fraction, count in zip((0.025, 0.5), counts, strict=True)
        for arm in ("classic", "gan", "selected")
    ]
    changed = run._replace(learning_curve={"cells": cells})
    sentence = stage_tables.learning_curve_fallback_text(changed)
    assert bool(sentence) == bool(text) and text in sentence
    assert sum("Learning curve, + selected GAN" in alert for alert in alerts.list_alerts(changed)) == bool(text)


def test_the_learning_curves_caption_names_what_makes_the_added_patches(run):
    def caption(weight, *arms):
        curve = run.experiment.learning_curve.replace(arms=arms, train_fractions=(0.1,), gan_steps=900)
        gan = run.experiment.gan.replace(projected_discriminator_weight=weight)
        trained = {name: figure | {"seeds": 3} for name, figure in FIGURES.items()}
        drawn_run = run._replace(
            experiment=run.experiment.replace(learning_curve=curve, gan=gan),
            learning_curve={
                "cells": [
                    {"train_fraction": 0.1, "arm": arm, "patients": 9, "patches": 90, "figures": trained}
                    for arm in arms
                ],
                "differences": [
                    {"train_fraction": 0.1, "arm": arms[-1], "metric": metric, **estimate(0), "p": 0.5}
                    for metric in FIGURES
                ],
            },
        )
        return gan_effect_figures.learning_curve(drawn_run).caption

    assert "by a GAN of 900 steps with a projected discriminator on ImageNet features, and" in caption(1, "real", "gan")
    assert "by a GAN of 900 steps, and is 50% of each batch" in caption(0, "real", "classic", "selected")
    assert "made from" not in caption(1, "real", "classic")


def test_the_contribution_of_components_comes_from_both_kinds_of_comparison(run):
    def compare(name, reference, value):
        difference = {"value": value, "low": value - 0.01, "high": value + 0.02, "p": 0.5}
        return [
            {"classifier": name, "reference": reference, "metric": metric, **difference}
            for metric in tables.COMPARISON_METRICS
        ]

    gains = dict.fromkeys(tables.COMPARISON_METRICS, {"value": 0.1, "low": None, "high": None, "p": None})
    rows = [
        ("baseline", "", None), ("loss", "focal", gains), ("learning rate", "high", gains),
        ("synthetic", "10 %", gains),
    ]  # fmt: skip
    changes = {
        "loss": {"focal": {"classify.loss": "focal"}},
        "learning rate": {"high": {"classify.models.cnn.learning_rate": 1}},
        "synthetic": {"10 %": {"classify.models.cnn.synthetic_fraction": 0.1}},
    }
    variants = [{"factor": factor, "variant": name, "seeds": 2, "differences": value} for factor, name, value in rows]
    settings = run.experiment.ablation.replace(variants=changes, model="gan_resnet")
    pretrained = compare("efficientnet_lite0_simclr", "efficientnet_lite0", 0.2)
    trained = {"gan_resnet": 3, "resnet_table1": 3, "resnet_features": 2}
    trained |= {"efficientnet_lite0_simclr": 1, "efficientnet_lite0": 3}
    table = tables.components(
        with_trainings(run, **trained)._replace(
            experiment=run.experiment.replace(ablation=settings),
            ablation={"model": "cnn", "epochs": 2, "variants": variants},
            comparisons=[
                *compare("resnet_table1", "gan_resnet", 0.3),
                *compare("gan_resnet", "resnet_features", 0.1),
                *pretrained,
            ],  # fmt: skip
        )
    )
    assert table["Added to"].tolist() == [
        "Plain CNN, 2 epochs", "ResNet of Table 1", "ResNet of Table 1 with pretrained maps (no GAN)",
        "EfficientNet-Lite0 (ImageNet)",
    ]  # fmt: skip
    assert table["Component"].tolist()[:2] == ["Synthetic: 10 %", "The discriminator's maps and synthetic patches"]
    assert table["Patients"].tolist() == ["validation", "test", "test", "test"]
    assert table["Also differs in"].tolist() == ["", "", "", ""]
    assert table["Trainings"].tolist() == ["2 and 2", "3 and 3", "3 and 2", "1 and 3"]
    assert table["Difference in balanced accuracy"].tolist() == [
        "0.100", "-0.300 (-0.320 to -0.290), p = 0.5", "0.100 (0.090 to 0.120), p = 0.5",
        "0.200 (0.190 to 0.220), p = 0.5",
    ]  # fmt: skip
    assert tables.components(run._replace(ablation=None, comparisons=[])).empty


def test_a_component_names_the_settings_that_differ_as_well(run):
    """The networks of `idc` with and without self-supervised pretraining."""
    differences = [
        {"classifier": name, "reference": reference, "metric": metric, **estimate(0.1), "p": 0.5}
        for name, reference in (("efficientnet_lite0_simclr", "efficientnet_lite0"), ("ensemble", "gan_resnet"))
        for metric in tables.COMPARISON_METRICS
    ]
    models = {
        "gan_resnet": Classifier(),
        "efficientnet_lite0": Classifier(epochs=3, seeds=(0,)),
        "efficientnet_lite0_simclr": Classifier(epochs=2, learning_rate=0.0001, multi_depth=True, seeds=(0,)),
    }
    settings = run.experiment.model_copy(
        update={
            "classify": run.experiment.classify.replace(models=models),
            "evaluate": run.experiment.evaluate.replace(ensemble_models=("gan_resnet", "efficientnet_lite0")),
        }
    )
    different = run._replace(experiment=settings, metrics=dict.fromkeys(models, {}))
    different = with_trainings(different, gan_resnet=3, efficientnet_lite0=1, efficientnet_lite0_simclr=1)
    different = different._replace(comparisons=differences, ablation=None)
    assert [(part.trainings, part.is_trained_once) for part in tables.list_components(different)] == [
        ("1 and 1", True), ("3+1 and 3", True)
    ]  # fmt: skip
    assert tables.components(different)["Also differs in"].tolist() == [
        "epochs 2 for 3, learning_rate 0.0001 for 0.001, multi_depth", ""
    ]  # fmt: skip
    drawn = classifier_figures.comparisons(different)
    assert "*: the two also differ in other settings" in drawn.caption
    rows = set(drawn.numbers["row"])
    assert "Self-supervised pretraining, to EfficientNet-Lite0 (ImageNet) *" in rows
    assert sum(row.endswith("*") for row in rows) == 1
    assert "*" not in classifier_figures.comparisons(run).caption


def test_cross_validated_networks_are_listed_after_the_features(run):
    by_metric = dict.fromkeys((*metrics.NAMES, BEST_ACCURACY), estimate(0.8))
    by_split = {split: by_metric | {BEST_ACCURACY: estimate(0.9)} for split in stage_tables.OPTIMISM}
    networks = {"resnet_table1": {"patients": 8, "patches": 80, **by_split}}
    measured = run._replace(cross_validation={"num_folds": 4, "epochs": 1, "models": networks})
    added = stage_tables.split_optimism(measured).iloc[len(stage_tables.split_optimism(run)) :]
    assert added.to_numpy().tolist() == [
        ["ResNet of Table 1", "ROC AUC", *["0.800 (0.700 to 0.900)"] * 3],
        ["ResNet of Table 1", "Accuracy, threshold for accuracy", *["0.900 (0.800 to 1.000)"] * 3],
    ]
    row = stage_tables.cross_validation(measured).iloc[0]
    assert (row["Patients"], row["Patches"], row["ROC AUC"]) == (8, 80, "0.800 (0.700 to 0.900)")


def test_the_report_has_a_row_for_each_classifier_and_archive(run):
    assert tables.sources(run).empty  # one folder
    figures = {"patches": 40, "patients": 8, **FIGURES}
    measured = {name: values | {"by_source": {"a": figures, "b": figures}} for name, values in run.metrics.items()}
    table = tables.sources(run._replace(metrics=measured))
    assert len(table) == 2 * len(run.classifier_names)
    assert table["Test patches of"].tolist()[:2] == ["a", "b"]
    assert table["F1"][0] == "0.800 (0.700 to 0.900)"


def test_a_p_value_at_its_floor_is_a_bound():
    """Of 999 resamples none lies beyond 0: p is below 0.002, and how far below is not known."""
    estimate = {"value": 0.1, "low": 0.05, "high": 0.15, "seeds": 1}
    assert tables.format_difference(estimate | {"p": 0.002, "p_floor": 0.002}).endswith("p < 0.002")
    assert tables.format_difference(estimate | {"p": 0.004, "p_floor": 0.002}).endswith("p = 0.004")
    assert tables.format_difference(estimate | {"p": 2 / 1401, "p_floor": 2 / 1401}).endswith("p < 0.0015")  # not 0.001
    assert tables.format_difference(estimate | {"p": None, "p_floor": None}).endswith(")")
