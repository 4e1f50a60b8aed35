"""Which trainings stay when settings change, by what they depend on."""

import numpy as np
import pytest

from bcgan import experiment, runs
from bcgan.classify import kept

MODELS = "classify.models={cnn: {epochs: %d}, gan_only: {}, student: {taught: 0.5}}"
SETTINGS = (MODELS % 2, "classify.teachers=[cnn]", "classify.seeds=[0]")
STORE, JUDGE, MADE = "preprocess/patches.npy", "gan/discriminator.keras", "features/synthetic.npz"
LEFT = "pretrain/simclr.keras"
INPUTS = {STORE: "a", JUDGE: "b", MADE: "c", LEFT: "d"}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "classify"
    made.mkdir()
    (made / "cnn-seed0.keras").write_bytes(b"a teacher")
    runs.write_json(made / runs.UNFINISHED, {"inputs": INPUTS})
    return made


def key(folder, name, *changes):
    return kept.key(experiment.load("phantom", (*SETTINGS, *changes)), name, 0, folder)


@pytest.mark.parametrize(
    ("name", "change", "stays"),
    [
        ("cnn", "classify.models={cnn: {epochs: 2}, resnet34: {}, student: {taught: 0.5}}", True),
        ("cnn", "classify.seeds=[0, 1]", True),
        ("cnn", "evaluate.views=1", True),
        ("cnn", MODELS % 3, False),
        ("cnn", "classify.batch=32", False),
        ("cnn", "precision=float32", False),
        ("student", "evaluate.views=1", True),
    ],
)
def test_a_training_depends_on_its_own_settings(folder, name, change, stays):
    assert (key(folder, name) == key(folder, name, change)) == stays


def test_a_training_depends_on_the_files_that_it_reads(folder):
    mixed = "classify.models={cnn: {epochs: 2, synthetic: 0.1}}"
    started = ("simclr", "classify.models={simclr: {}}", "classify.teachers=[]", "pretrain.weights=shipped")
    asked = [("cnn",), ("gan_only",), ("cnn", mixed, "classify.teachers=[]"), started]
    before = [key(folder, *one) for one in asked]
    changed = []
    for file in (JUDGE, MADE, LEFT, STORE):
        runs.write_json(folder / runs.UNFINISHED, {"inputs": INPUTS | {file: "other"}})
        changed.append([key(folder, *one) != old for one, old in zip(asked, before, strict=True)])
    assert np.equal(changed, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).all()


def test_a_student_depends_on_its_teachers(folder):
    student, teacher = key(folder, "student"), key(folder, "cnn")
    (folder / "cnn-seed0.keras").write_bytes(b"another")
    assert key(folder, "student") != student
    assert key(folder, "cnn") == teacher


@pytest.mark.parametrize(
    ("asked", "afresh", "stays"), [("k", False, True), ("other", False, False), ("k", True, False)]
)
def test_what_was_set_aside_is_taken_over_by_its_key(folder, asked, afresh, stays):
    before = runs.aside(folder)
    before.mkdir()
    (before / "cnn-seed0.keras").write_bytes(b"trained before")
    (before / "cnn-seed0.jsonl").write_text("{}\n")
    kept.mark(before / "cnn-seed0.keras", "k")
    runs.write_json(folder / runs.UNFINISHED, {"afresh": afresh})
    (folder / "cnn-seed0.keras").unlink()
    assert kept.take_over(folder / "cnn-seed0.keras", asked) == stays
    assert (folder / "cnn-seed0.keras").exists() == stays
    assert (folder / "cnn-seed0.jsonl").exists() == stays


def test_a_damaged_network_is_not_taken_over(folder):
    before = runs.aside(folder)
    before.mkdir()
    (before / "cnn-seed0.jsonl").write_text("{}\n")
    (before / "cnn-seed0.keras").write_bytes(b"trained before")
    kept.mark(before / "cnn-seed0.keras", "k")
    (before / "cnn-seed0.keras").write_bytes(b"trained")
    assert not kept.take_over(folder / "cnn-seed0.keras", "k")


def test_a_network_without_a_key_is_not_taken_over(folder):
    runs.aside(folder).mkdir()
    (runs.aside(folder) / "cnn-seed0.keras").write_bytes(b"of an older bcgan")
    assert not kept.take_over(folder / "cnn-seed0.keras", "k")
