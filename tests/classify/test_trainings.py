"""Which trainings are reused when settings change: those that do not depend on them."""

import numpy as np
import pytest

from bcgan import experiment
from bcgan.artifacts import Cache, StageRun, make_key
from bcgan.classify import trainings

MODELS = "classify.models={cnn: {epochs: %d}, gan_only: {}}"
SETTINGS = (MODELS % 2, "classify.seeds=[0]")
STORE, DISCRIMINATOR = "preprocess/patches.npy", "gan/discriminator.keras"
SYNTHETIC, PRETRAINED = "features/synthetic.npz", "pretrain/simclr.keras"
INPUTS = {STORE: "a", DISCRIMINATOR: "b", SYNTHETIC: "c", PRETRAINED: "d"}


def key(folder, name, *changes, inputs=INPUTS):
    settings = experiment.load("phantom", (*SETTINGS, *changes))
    run = StageRun(settings, folder, folder, inputs, Cache(folder, "classify"))
    return make_key(name, trainings.training_settings(settings, name), trainings.training_inputs(run, name))


@pytest.mark.parametrize(
    ("name", "change", "stays"),
    [
        ("cnn", "classify.models={cnn: {epochs: 2}, resnet34: {}}", True),
        ("cnn", "classify.seeds=[0, 1]", True),
        ("cnn", "evaluate.tta_views=1", True),
        ("cnn", MODELS % 3, False),
        ("cnn", "classify.batch_size=32", False),
        ("cnn", "precision=float32", False),
    ],
)
def test_a_training_depends_on_its_own_settings(tmp_path, name, change, stays):
    assert (key(tmp_path, name) == key(tmp_path, name, change)) == stays


def test_a_training_depends_on_the_files_that_it_reads(tmp_path):
    mixed = "classify.models={cnn: {epochs: 2, synthetic_fraction: 0.1}}"
    simclr = (
        "efficientnet_lite0_simclr", "classify.models={efficientnet_lite0_simclr: {}}", "pretrain.weights=shipped",
    )  # fmt: skip
    control = (
        "resnet_features", "classify.models={resnet_features: {extra_features: simclr}}", "pretrain.weights=shipped",
    )  # fmt: skip
    cases = [("cnn",), ("gan_only",), ("cnn", mixed), simclr, control]
    changed = [
        [key(tmp_path, *case, inputs=INPUTS | {file: "other"}) != key(tmp_path, *case) for case in cases]
        for file in (DISCRIMINATOR, SYNTHETIC, PRETRAINED, STORE)
    ]
    assert np.equal(changed, [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]).all()
