"""The paper's diagrams show the blocks of the networks, and the embedding every test patch."""

from types import SimpleNamespace

import numpy as np
import pytest

from bcgan.classes import CLASSES
from bcgan.models.discriminator import discriminator
from bcgan.models.projected_discriminator import imagenet_features, projected_discriminator, projected_features
from bcgan.models.resnet_table1 import resnet_table1
from bcgan.report import architecture_figures, embedding_figure, style
from bcgan.settings import Classifier, Classify, Gan


def make_run(gan: Gan, classify: Classify, size: int = 50, class_names=CLASSES) -> SimpleNamespace:
    """A run that has an experiment only, which is all that the diagrams read."""
    data = SimpleNamespace(size=size, class_names=class_names)
    return SimpleNamespace(experiment=SimpleNamespace(data=data, gan=gan, classify=classify))


RUN = make_run(Gan(base_channels=8), Classify())


def test_blocks_hold_every_parameter():
    for network in (resnet_table1(), discriminator()):
        assert architecture_figures.blocks(network)["parameters"].sum() == network.count_params()


@pytest.mark.parametrize("draw", ["system", "gan", "resnet", "integration"])
def test_diagrams_have_the_sizes_and_parameters_of_their_tables(draw):
    drawn = getattr(architecture_figures, draw)(RUN)
    texts = {text.get_text() for axes in drawn.figure.axes for text in axes.texts}
    if draw != "system":
        for row in drawn.numbers.itertuples():
            assert f"{row.output}\n{row.parameters:,}" in texts
    assert drawn.title
    assert drawn.caption.endswith(".")
    style.plt.close(drawn.figure)


@pytest.mark.parametrize(("extra_features", "shape"), [("projected_discriminator", "7x7x64"), ("imagenet", "7x7x40")])
def test_extra_features_are_drawn_as_the_run_built_them(extra_features, shape):
    models = {"gan_resnet": Classifier(extra_features=extra_features, finetune_extra_features=True)}
    drawn = architecture_figures.integration(make_run(Gan(), Classify(models=models)))
    blocks = drawn.numbers[drawn.numbers["network"] == "projected_discriminator"].set_index("block")
    assert blocks.loc["map2", "output"] == shape
    assert "tuned" in drawn.figure.axes[1].get_title("left")
    backbone = imagenet_features(weights=False)
    network = (
        projected_features(backbone, projected_discriminator(backbone))
        if extra_features == "projected_discriminator"
        else backbone
    )
    assert blocks["parameters"].sum() == network.count_params()
    style.plt.close(drawn.figure)


@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_synthetic_patches_lead_to_the_resnet_only_where_it_is_trained_on_them(fraction):
    models = {"gan_resnet": Classifier(synthetic_fraction=fraction)}
    drawn = architecture_figures.system(make_run(Gan(), Classify(models=models)))
    is_linked = (drawn.numbers == ["synthetic", "resnet"]).all(axis=1).any()
    assert is_linked == ("synthetic patches enrich" in drawn.caption) == (fraction > 0)
    style.plt.close(drawn.figure)


def test_the_gan_is_drawn_as_the_run_built_it():
    drawn = architecture_figures.gan(RUN)
    blocks = drawn.numbers[drawn.numbers["network"] == "discriminator"].set_index("block")
    assert blocks.loc["block2", "output"] == "13x13x16"
    style.plt.close(drawn.figure)


def test_every_test_patch_and_synthetic_one_has_its_place(run):
    drawn = embedding_figure.embedding(run)
    real = drawn.numbers[drawn.numbers["kind"] == "real"]
    assert len(real) == len(run.store.role_indices("test"))
    assert set(real["patient"]) == set(run.store.index.iloc[run.store.role_indices("test")]["patient"])
    shares = drawn.numbers.groupby("kind")["class"].value_counts(normalize=True).unstack()
    np.testing.assert_allclose(shares.loc["synthetic"], shares.loc["real"], atol=0.05)  # the same mixture of classes
    assert drawn.numbers[["x", "y"]].notna().all(axis=None)
    style.plt.close(drawn.figure)


def test_diagrams_show_the_size_of_the_runs_patches():
    run = make_run(Gan(base_channels=8), Classify(), size=128)
    for draw in (architecture_figures.gan, architecture_figures.integration):
        drawn = draw(run)
        blocks = drawn.numbers[drawn.numbers["network"] == "discriminator"].set_index("block")
        assert (blocks.loc["image", "output"], blocks.loc["block2", "output"]) == ("128x128x3", "32x32x8")
        style.plt.close(drawn.figure)


@pytest.mark.parametrize(
    ("class_names", "head_text"),
    [
        (("benign", "malignant"), "Binary head:\nbenign or malignant"),
        (("benign", "in_situ", "malignant"), "Head:\nbenign, in situ\nor malignant"),
        (tuple("abcde"), "Head:\none of 5 classes"),
    ],
)
def test_the_head_has_the_classes_of_the_run(class_names, head_text):
    drawn = architecture_figures.system(make_run(Gan(base_channels=8), Classify(), class_names=class_names))
    assert head_text in {text.get_text() for text in drawn.figure.axes[0].texts}
    assert ("binary" in drawn.caption) == (len(class_names) == 2)
    style.plt.close(drawn.figure)
