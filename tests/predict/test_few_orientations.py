"""`--fast`: all orientations are averaged only for patches whose call they can change."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bcgan
from bcgan import cli, progress
from bcgan.classify.calibration import Calibration
from bcgan.predict import orientations
from bcgan.predict.engines import Engine
from bcgan.predict.model import ConfidenceThreshold, Model, Thresholds
from bcgan.predict.orientations import FAST_VIEWS
from tests.conftest import PATCHES, draw_patches
from tests.predict.conftest import command

SIZE, VIEWS = 8, 8
COUNT = 200


def make_model(fast: bool, num_classes: int = 2) -> tuple[Model, list[int]]:
    """Return a model that computes probabilities from brightness, and the patches in each call of its network.

    The brightness at a patch's centre is its log odds, times 10, plus 128. Its first pixel, which differs between
    orientations, adds up to 0.5 to the log odds.
    """
    scored: list[int] = []

    def score(images: np.ndarray) -> np.ndarray:
        scored.append(len(images))
        log_odds = (images[:, 4, 4, 0].astype(float) - 128) / 10 + images[:, 0, 0, 1] / 510
        positive = 1 / (1 + np.exp(-log_odds))
        return positive if num_classes == 2 else np.stack([0.6 * (1 - positive), 0.4 * (1 - positive), positive], 1)

    card = bcgan.load().card
    card = card.model_copy(update={
        "size": SIZE, "tta_views": VIEWS, "calibration": card.calibration._replace(temperature=1, shift=0),
        "thresholds": Thresholds(malignant=0.5, abstain_range=(0.5, 0.5)), "spatial_context_thresholds": None,
        "spatial_context": None, "classes": tuple("abc"[:num_classes]),
    })  # fmt: skip
    return Model(card, Engine("keras", score, score), None, Path(), fast), scored


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    patches[:, 3:5, 3:5] = rng.integers(68, 188, (COUNT, 1, 1, 1))  # the same in every orientation
    return patches


def test_patches_near_the_threshold_get_all_orientations_and_others_the_same_call(images):
    (full, all_scored), (fast, few_scored) = make_model(False), make_model(True)
    expected, probabilities = full.probabilities(images), fast.probabilities(images)
    assert all_scored == [COUNT] * VIEWS
    near = few_scored[-1]
    assert few_scored == [COUNT] * FAST_VIEWS + [near] * (VIEWS - FAST_VIEWS)
    assert 0.05 * COUNT < near < 0.6 * COUNT
    np.testing.assert_array_equal(probabilities >= 0.5, expected >= 0.5)
    is_equal = np.isclose(probabilities, expected, atol=1e-9)
    close_to_threshold = np.abs(np.log(expected / (1 - expected))) < 0.5
    assert close_to_threshold.any() and is_equal[close_to_threshold].all()
    assert 0 < np.abs(probabilities - expected).max() < 0.05
    assert (~is_equal).sum() > COUNT / 4


def test_a_patch_has_the_same_probability_in_any_batch(images):
    fast, _ = make_model(True)
    together = fast.probabilities(images)
    np.testing.assert_array_equal(together, [fast.probabilities(image[None])[0] for image in images])


def test_patches_far_from_the_threshold_are_scored_twice(images):
    images[:, 3:5, 3:5] = 20
    fast, scored = make_model(True)
    assert (fast.probabilities(images) < 0.01).all()
    assert scored == [COUNT] * FAST_VIEWS


def test_many_patches_are_scored_in_chunks_with_a_bar_that_moves(images, monkeypatch):
    model, scored = make_model(False)
    expected = model.probabilities(images)
    bars = []
    make_bar = progress.bar
    monkeypatch.setattr(progress, "bar", lambda *args, **kwargs: bars.append(make_bar(*args, **kwargs)) or bars[-1])
    monkeypatch.setattr(orientations, "CHUNK", 64)
    scored.clear()
    np.testing.assert_array_equal(model.probabilities(images), expected)
    assert scored == [size for size in (64, 64, 64, COUNT - 192) for _ in range(VIEWS)]
    model.probabilities(images[:64])
    assert [(bar.total, bar.n) for bar in bars] == [(COUNT, COUNT), (64, 0)]  # a hidden bar counts nothing


@pytest.fixture
def none_near(monkeypatch):
    """No patch counts as near a threshold: with the classifier of the tiny run all of them would."""
    monkeypatch.setattr(orientations, "FAST_MARGIN", -20.0)


def test_predict_and_load_accept_fast(exported, tmp_path, monkeypatch, none_near):
    monkeypatch.chdir(tmp_path)
    draw_patches(tmp_path / "patches")
    for name, options in (("all", ()), ("few", ("--fast",))):
        assert command("patches/100", "--model", exported, "--out", f"{name}.csv", *options) in (0, 3)
    every, few = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("all", "few"))
    assert len(every) == len(few) == PATCHES
    assert not np.allclose(every["uncertainty"].fillna(0), few["uncertainty"].fillna(0))  # of fewer orientations
    assert bcgan.load(str(exported), fast=True).fast


def test_a_slide_is_scored_again_when_fast_is_set(exported, tmp_path, monkeypatch, none_near):
    monkeypatch.chdir(tmp_path)
    draw_patches(tmp_path / "slides")
    shutil.rmtree(tmp_path / "slides" / "101")
    files = []
    for options in ((), ("--fast",), ("--fast",)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["batch", "slides", "--model", str(exported), *options])
        assert stop.value.code == 0
        path = next((tmp_path / "scores").rglob("100*.csv"))
        files.append((path.read_bytes(), path.stat().st_mtime_ns))
    assert files[0][0] != files[1][0], files[0][0]
    assert files[1] == files[2]


def test_close_calls_of_three_classes_get_all_orientations(images):
    (full, _), (fast, scored) = make_model(False, 3), make_model(True, 3)
    limit = ConfidenceThreshold(min_confidence=0.45)
    for model in (full, fast):
        model.card = model.card.model_copy(update={"thresholds": limit, "calibration": Calibration([1] * 3, [0] * 3)})
    expected, probabilities = full.probabilities(images), fast.probabilities(images)
    assert 0 < scored[-1] < COUNT
    np.testing.assert_array_equal(probabilities.argmax(1), expected.argmax(1))
    np.testing.assert_array_equal(probabilities.max(1) >= 0.45, expected.max(1) >= 0.45)
