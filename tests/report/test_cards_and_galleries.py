"""Cards have the run's values, or unknown where it has none; galleries show the patches of their tables."""

import numpy as np
import pandas as pd
import pytest

from bcgan.evaluate.explanations import NUM_CHANNELS, _most_varying_channels, feature_maps, without_edges
from bcgan.models.classifier import build_classifier
from bcgan.models.discriminator import discriminator
from bcgan.report import (
    alerts,
    cards,
    data_figures,
    explanation_figures,
    gan_figures,
    gan_tables,
    page_context,
    style,
    tables,
)
from bcgan.settings import Classifier
from tests.report.multiclass import with_classes


def answers(table):
    return dict(table.iloc[:, -2:].itertuples(index=False))


def test_cards_hold_the_runs_numbers(run):
    model, data = answers(cards.model_card(run)), answers(cards.data_card(run))
    assert "2 epochs, batches of 16" in model["Training"]
    assert f"{run.metrics['gan_resnet']['sets']['test']['roc_auc']['value']:.3f}" in model["ROC AUC, test patients"]
    assert model["Leak audit"] == "passed"
    assert "8" in data["Patients"]
    assert data["Demographics"] == cards.UNKNOWN


def test_claim_answers_every_item_or_says_that_it_is_unknown(run):
    table = cards.claim(run)
    assert table["No."].tolist() == list(range(1, 43))  # the checklist of 2020 has 42 items
    assert table["Answer"].str.len().min() > 0
    by_item = answers(table)
    assert by_item["Funding"] == by_item["Variability between raters"] == cards.UNKNOWN
    assert "No intervals, as there are fewer than 8 test patients; 1 seed" in by_item["Uncertainty"]
    data = run.experiment.data.replace(name="patient_folder")
    other_data = run._replace(experiment=run.experiment.replace(data=data))
    assert answers(cards.claim(other_data))["Data sources"] == cards.UNKNOWN


def test_largest_errors_are_wrong_and_of_different_patients(run):
    table = tables.largest_errors(run)
    threshold = np.mean(list(run.metrics["gan_resnet"]["thresholds"].values()))
    assert len(table)
    for name, rows in table.groupby("Label"):
        assert rows["Patient"].is_unique
        assert ((rows["Probability of malignancy"] >= threshold) == (name == "benign")).all()
    drawn = explanation_figures.error_gallery(run)
    labels = [axes.get_xlabel() for axes in drawn.figure.axes if axes.get_xlabel()]
    assert labels == [f"{row.Patient}\n{row[4]:.3f}" for row in drawn.numbers.itertuples()]
    style.plt.close(drawn.figure)


def test_a_patch_that_the_generator_repeats_is_found(run):
    of_class = np.flatnonzero(run.synthetic["labels"] == 0)
    first, repeated = of_class[0], {name: values.copy() for name, values in run.synthetic.items()}
    for values in repeated.values():
        values[of_class] = values[first]
    drawn = gan_figures.repetition(run._replace(synthetic=repeated))
    least = drawn.numbers.query("quantile == 0").set_index(["space", "side"])["distance"]
    assert least["features", "Synthetic patches"] == pytest.approx(0, abs=1e-5)
    assert least["layout", "Synthetic patches"] == pytest.approx(0, abs=1e-5)
    assert least["features", "Held-out patients"] > 0.001
    for space in ("features", "layout"):
        (top,) = (axes for axes in drawn.figure.axes if axes.get_title("left") == f"By {space}, pair 1")
        np.testing.assert_array_equal(np.asarray(top.images[0].get_array()), repeated["images"][first])
    style.plt.close(drawn.figure)


def test_pairs_have_no_patch_twice():
    rows, neighbors = np.array([5, 6, 7, 8]), np.array([6, 5, 5, 7])
    assert gan_figures._closest_pairs(rows, neighbors, np.array([0.1, 0.1, 0.2, 0.3])) == [(5, 6), (8, 7)]


def test_a_copied_patch_is_found(run):
    rows = run.store.role_indices("train")[: len(run.synthetic["labels"])]
    copied = dict(run.synthetic)
    copied["images"] = copied["images"].copy()
    copied["images"][: len(rows)] = run.store.images[rows]
    drawn = gan_figures.nearest(run._replace(synthetic=copied))
    table = drawn.numbers.query("space == 'pixels' and quantile == 0").set_index("side")["distance"]
    assert table["Synthetic patches"] == 0
    assert table["Held-out patients"] > 0
    style.plt.close(drawn.figure)


def test_the_stain_of_every_patient_is_drawn(run):
    drawn = data_figures.stain_variation(run)
    missing = run.store.index["patient"].nunique() - len(drawn.numbers)
    assert f"({missing} patients show no two stains)" in drawn.caption
    assert drawn.numbers["patient"].is_unique
    assert (drawn.numbers[["haematoxylin", "eosin"]] > 0).all(axis=None)
    style.plt.close(drawn.figure)


def test_feature_maps_are_those_of_the_layers():
    gan_discriminator = discriminator(width=8)
    network = build_classifier("gan_resnet", discriminator=gan_discriminator)
    images = np.random.default_rng(0).integers(0, 256, (2, 50, 50, 3), np.uint8)
    maps = feature_maps(gan_discriminator, network, images)
    assert maps["block2"].shape == (NUM_CHANNELS, 2, 13, 13)
    assert set(maps) >= {"block1", "block4", "joint", "bottleneck4_add"}
    stem = network.get_layer("gan_resnet").get_layer("stem_pool")
    num_maps = stem.output.shape[-1]
    assert num_maps > NUM_CHANNELS == len(maps["stem_pool"])
    # While the gate is zero, as at the start, the joint maps are the stem's.
    np.testing.assert_array_equal(maps["joint"], maps["stem_pool"])
    assert set(feature_maps(gan_discriminator, build_classifier("cnn"), images)) == {
        "block1",
        "block2",
        "block3",
        "block4",
    }


def test_edges_of_maps_affect_neither_the_choice_of_channels_nor_the_scale(run):
    """A channel that varies only at its edges, because of padding, ranks below one that varies inside."""
    maps = np.zeros((2, 13, 13, 2), np.float32)
    maps[:, 0, :, 0] = 100
    maps[:, 6, :, 1] = 1
    np.testing.assert_array_equal(_most_varying_channels(maps)[0], maps[..., 1])
    assert [without_edges(np.zeros((side, side))).shape[0] for side in (25, 13, 7, 4, 1)] == [19, 9, 5, 4, 1]
    explained = {
        name: arrays.copy() if "_features_" in name else arrays for name, arrays in run.explained_patches.items()
    }
    explained["real_features_block1"][..., 0, :] = 1000
    drawn = explanation_figures.feature_maps(run._replace(explained_patches=explained))
    pictures = [axes.images[0].get_array() for axes in drawn.figure.axes if axes.images]
    assert max(float(picture.max()) for picture in pictures) < 1000
    assert drawn.numbers.loc[drawn.numbers["layer"] == "block1", "height"].eq(19).all()
    style.plt.close(drawn.figure)


def test_the_claim_names_the_classifiers_with_self_supervised_weights(run):
    pretrained = run._replace(pretraining_patients={"patches": 1200, "patients": ["P1", "P2"]})
    assert "self-supervision" not in " ".join(cards.claim(pretrained)["Answer"])  # no classifier of the run uses it
    classify = run.experiment.classify
    joined = Classifier(extra_features="simclr")
    models = {"efficientnet_lite0_simclr": Classifier(), "gan_resnet": joined, "resnet_features": joined}
    experiment = run.experiment.replace(
        classify=classify.replace(models=dict(classify.models) | models),
        pretrain=run.experiment.pretrain.replace(weights="shipped"),
    )
    answers = " ".join(cards.claim(pretrained._replace(experiment=experiment))["Answer"])
    assert "then, for " in answers and "EfficientNet-Lite0 (SimCLR)" in answers
    assert answers.count("the layers whose maps join GAN+ResNet (proposed)") == 2  # by ImageNet first, then by SimCLR
    assert answers.count("the layers whose maps join ResNet of Table 1 with pretrained maps") == 2
    assert "what self-supervision on 1,200 patches of 2 patients left" in answers


def test_the_data_card_says_that_ids_may_be_of_one_person(run):
    card = answers(cards.data_card(run))
    count = run.store.index["patient"].nunique()
    assert card["Patients"].startswith(f"{count}; the archive has 279 ids, where its papers speak of 162 slides")


def test_patches_of_other_slides_are_not_called_the_public_archive(run):
    """`bcgan tile` writes them under the archive's names, with a hash in place of the slide number 5."""
    archive = answers(cards.data_card(run))
    assert "Breast Histopathology Images" in archive["Source"]
    index = run.store.index
    renamed = index.assign(id=index["id"].str.replace("_idx5_", "_idx14838451_"))
    settings = run.experiment.data.replace(size=96, mpp=2)
    tiles = run._replace(store=run.store._replace(index=renamed), experiment=run.experiment.replace(data=settings))
    card = answers(cards.data_card(tiles))
    assert (tiles.data_source, tiles.subset_note()) == ("tiles", "")
    assert card["Source"] == "Slides of this experiment's author, cut by bcgan tile"
    assert card["Scale"] == "96x96 pixels of 2 microns"
    assert card["Licence"] == cards.UNKNOWN
    assert page_context.DATA_NAMES[tiles.data_source] != page_context.DATA_NAMES[run.data_source]


@pytest.mark.parametrize(("num_accepted", "is_used"), [((7, 40), False), ((0, 0), False), ((8, 8), True)])
def test_a_quality_filter_that_accepted_too_few_patches_is_told(run, num_accepted, is_used):
    labels, accepted = run.synthetic["labels"], np.zeros(len(run.synthetic["labels"]), bool)
    for label, count in enumerate(num_accepted):
        accepted[np.flatnonzero(labels == label)[:count]] = True
    counts = [int(accepted[labels == label].sum()) for label in (0, 1)]
    changed = run._replace(synthetic=run.synthetic | {"accepted": accepted})
    (name,) = (name for name in run.trained_names[:1] if run.experiment.classify.models[name].uses_synthetic)
    sentence = f"it accepted {counts[0]} benign and {counts[1]} malignant of {len(labels)} synthetic patches"
    note = page_context._notes(changed)["filter_note"]
    assert sum(sentence in text for text in alerts.list_alerts(changed)) == (sentence in note) == (not is_used)
    assert ("filter was not used" in answers(cards.model_card(changed))["Training"]) == (not is_used)
    model = run.experiment.classify.models[name].replace(filter_synthetic=False)
    models = dict.fromkeys(run.experiment.classify.models, model)
    classify = run.experiment.classify.replace(models=models)
    unfiltered = changed._replace(experiment=run.experiment.replace(classify=classify))
    assert gan_tables.unused_filter_text(unfiltered) == ""


@pytest.mark.parametrize(
    ("by_seed", "gain"),
    [
        ([[0.80, 0.85, 0.88]], "+0.030"),
        ([[0.80, 0.85, 0.88], [0.80, 0.85, 0.84]], "+0.010"),  # the mean of the trainings
        ([[0.80, 0.90, 0.90, 0.90, 0.90, 0.901]], ""),
        ([[0.80, 0.82, 0.84, 0.86, 0.88, 0.88]], "+0.020"),  # the last two of six epochs
        ([[0.80, 0.88, 0.85]], ""),
        ([[0.80, 0.90]], ""),  # two epochs have no last third
    ],
)
def test_trainings_that_were_stopped_too_early_are_named(run, by_seed, gain):
    rows = [
        {"classifier": "gan_resnet", "seed": seed, "epoch": epoch, "validation_roc_auc": roc_auc}
        for seed, curve in enumerate(by_seed)
        for epoch, roc_auc in enumerate(curve)
    ]
    texts = [
        text for text in alerts.list_alerts(run._replace(training_logs=pd.DataFrame(rows))) if "still rose" in text
    ]
    assert len(texts) == bool(gain)
    assert all(f"{style.CLASSIFIER_NAMES['gan_resnet']} ({gain})" in text for text in texts)


@pytest.mark.parametrize(("fraction", "text"), [(0.005, "0.5%"), (0.29, "29%"), (0.995, "99.5%")])
def test_fractions_of_the_settings_keep_their_digits(run, fraction, text):
    experiment = run.experiment
    quality = experiment.features.quality_filter.replace(distance_quantile=fraction)
    features = experiment.features.replace(quality_filter=quality)
    data = experiment.data.replace(subsample_fraction=fraction)
    changed = run._replace(experiment=experiment.replace(features=features, data=data))
    assert f"those of {text} of the real patches" in page_context._notes(changed)["filter_note"]
    assert answers(cards.claim(changed))["Selection of subsets"].endswith(
        f", {text} of each patient's patches of each class"
    )


@pytest.mark.parametrize("class_names", [("non-tumor", "tumor"), ("real", "synthetic"), ("0", "1")])
def test_the_pages_filter_knows_the_patches_by_kind_and_label(run, class_names):
    """Whatever the classes are called: a name may be a part of another one, or that of a kind."""
    drawn = gan_figures.samples(with_classes(run, class_names))
    ids = [axes.get_gid() for axes in drawn.figure.axes if axes.get_gid()]
    for (kind, name), rows in drawn.numbers.groupby(["kind", "class"]):
        label = class_names.index(name)
        assert [f"sample-{kind}-{label}-{index}" in ids for index in range(len(rows))] == [True] * len(rows)
    assert len(set(ids)) == len(ids) == len(drawn.numbers)


@pytest.mark.parametrize("num_synthetic", [3, 10_000])
def test_the_caption_counts_the_patches_of_each_kind(run, num_synthetic):
    cut = {name: values[:num_synthetic] for name, values in run.synthetic.items()}
    drawn = gan_figures.samples(run._replace(synthetic=cut))
    counts = drawn.numbers["kind"].value_counts()
    assert f"by class, {counts['real']} real and {counts['synthetic']} synthetic. " in drawn.caption
    assert (counts["synthetic"] == num_synthetic) == (num_synthetic == 3)
    without = gan_figures.samples(run._replace(synthetic=cut, patient_images=False))
    assert f"by class, {counts['synthetic']} synthetic. " in without.caption


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "breakhis"}, "Images of 700x460 pixels at 40x, 100x, 200x or 400x; their central square"),
        ({"name": "breakhis", "magnification": 40}, "Images of 700x460 pixels at 40x; their central square"),
        (
            {"name": "breakhis", "magnification": 40, "tile": {"mpp": 1}, "size": 128},
            "Images of 700x460 pixels at 40x; cut into patches of 128x128 pixels at 1 microns per pixel",
        ),
        (
            {"name": "patient_folder", "mpp": 0.5, "tile": {"mpp": 2}, "size": 64},
            "images of 0.5 microns per pixel, as the settings say; cut into patches of 64x64 pixels at 2 microns per "
            "pixel",
        ),
        (
            {"name": "patient_folder", "tile": {"stride": 32}, "size": 64},
            "Unknown; cut into patches of 64x64 pixels at the scale of the images",
        ),
        ({"name": "patient_folder", "mpp": 0.5}, "images of 0.5 microns per pixel, as the settings say"),
    ],
)
def test_the_data_card_has_the_scale_of_the_patches(run, changes, text):
    data = run.experiment.data.replace(**changes)
    changed = run._replace(experiment=run.experiment.replace(data=data))
    assert answers(cards.data_card(changed))["Scale"] == text


def test_claim_lists_the_metrics_that_the_run_has(run):
    listed = answers(cards.claim(run))["Metrics"].split(", ")
    test_sets = {name: run.metrics[name]["sets"]["test"] for name in run.classifier_names}
    measured = {key for scores in test_sets.values() for key, score in scores.items() if score["value"] is not None}
    assert listed == [title for key, title in run.metric_names.items() if key in measured]
    assert len(listed) < len(run.metric_names)
    kept = {
        name: run.metrics[name]
        | {"sets": {"test": {"f1": scores["f1"], "roc_auc": scores["roc_auc"] | {"value": None}}}}
        for name, scores in test_sets.items()
    }
    assert answers(cards.claim(run._replace(metrics=kept)))["Metrics"] == run.metric_names["f1"]


@pytest.mark.parametrize(
    ("samples", "text"), [(10, "benign alone 0.4"), (10**6, "benign ({count:,} samples) alone 0.4")]
)
def test_a_reference_of_fewer_samples_states_their_number(run, samples, text):
    score = {"value": 0.1, "low": None, "floor": 0.2, "ceiling": 0.3, "benign_only": 0.4, "samples": samples}
    table = gan_tables.gan_scores(run._replace(gan_scores={"kid": score}))
    count = run.class_counts("validation")[0]
    assert table["For comparison"].iloc[0] == text.format(count=count)
