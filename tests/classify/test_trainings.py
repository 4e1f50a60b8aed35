"""Which trainings are reused when settings change: those that do not depend on them."""

import numpy as np
import pytest

from bcgan import experiment
from bcgan.artifacts import Cache, StageRun, make_key
from bcgan.classify import trainings

MODELS = "classify.models={cnn: {epochs: %d}, gan_only: {}, student: {distillation_fraction: 0.5}}"
SETTINGS = (MODELS % 2, "classify.teachers=[cnn]", "classify.seeds=[0]")
STORE, DISCRIMINATOR = "preprocess/patches.npy", "gan/discriminator.keras"
SYNTHETIC, PRETRAINED = "features/synthetic.npz", "pretrain/simclr.keras"
INPUTS = {STORE: "a", DISCRIMINATOR: "b", SYNTHETIC: "c", PRETRAINED: "d"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cnn-seed0.keras").write_bytes(b"a teacher")
    return tmp_path


def key(folder, name, *changes, inputs=INPUTS):
    settings = experiment.load("phantom", (*SETTINGS, *changes))
    run = StageRun(settings, folder, folder, inputs, Cache(folder, "classify"))
    return make_key(name, trainings.training_settings(settings, name), trainings.training_inputs(run, name))


@pytest.mark.parametrize(
    ("name", "change", "stays"),
    [
        ("cnn", "classify.models={cnn: {epochs: 2}, resnet34: {}, student: {distillation_fraction: 0.5}}", True),
        ("cnn", "classify.seeds=[0, 1]", True),
        ("cnn", "evaluate.tta_views=1", True),
        ("cnn", MODELS % 3, False),
        ("cnn", "classify.batch_size=32", False),
        ("cnn", "precision=float32", False),
        ("student", "evaluate.tta_views=1", True),
    ],
)
def test_a_training_depends_on_its_own_settings(folder, name, change, stays):
    assert (key(folder, name) == key(folder, name, change)) == stays


def test_a_training_depends_on_the_files_that_it_reads(folder):
    mixed = "classify.models={cnn: {epochs: 2, synthetic_fraction: 0.1}}"
    simclr = (
        "efficientnet_lite0_simclr", "classify.models={efficientnet_lite0_simclr: {}}", "classify.teachers=[]",
        "pretrain.weights=shipped",
    )  # fmt: skip
    cases = [("cnn",), ("gan_only",), ("cnn", mixed, "classify.teachers=[]"), simclr]
    changed = [
        [key(folder, *case, inputs=INPUTS | {file: "other"}) != key(folder, *case) for case in cases]
        for file in (DISCRIMINATOR, SYNTHETIC, PRETRAINED, STORE)
    ]
    assert np.equal(changed, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).all()


def test_a_student_depends_on_its_teachers(folder):
    student, teacher = key(folder, "student"), key(folder, "cnn")
    (folder / "cnn-seed0.keras").write_bytes(b"another")
    assert key(folder, "student") != student
    assert key(folder, "cnn") == teacher
