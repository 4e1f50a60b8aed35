import cv2
import numpy as np
import pytest
import tensorflow as tf

from bcgan.errors import WorkError
from bcgan.gan import train
from bcgan.gan.augment import augment
from bcgan.gan.losses import layout_loss
from bcgan.gan.watch import WINDOW, brightness_grids, diagnose, layout_correlation

RNG = np.random.default_rng(0)
IMAGES = RNG.random((16, 50, 50, 3), np.float32)
FINE = {"spread": 0.9, "real_recognised": 0.8, "fake_recognised": 0.7}


def seed(number):
    return tf.constant([number, 0], tf.int64)


def test_augmentation_is_a_function_of_the_seed_and_keeps_shapes():
    once, again, other_seed = (augment(IMAGES, seed(n)).numpy() for n in (1, 1, 2))
    assert once.shape == IMAGES.shape
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other_seed).mean() > 0.01


def test_contrast_and_color_of_each_patch_change_and_nothing_else():
    """Each channel of an augmented patch is the patch's times one contrast, plus one color."""
    augmented = augment(IMAGES, seed(3)).numpy()
    contrasts, colors = [], []
    for patch, source in zip(augmented, IMAGES, strict=True):
        slopes = [np.polyfit(source[..., channel].ravel(), patch[..., channel].ravel(), 1)[0] for channel in range(3)]
        np.testing.assert_allclose(slopes, slopes[0], atol=1e-3)
        residual = (patch - slopes[0] * source).reshape(-1, 3)
        assert residual.std(0).max() < 1e-4
        contrasts.append(slopes[0])
        colors.append(patch.mean((0, 1)) - source.mean((0, 1)))
    assert 0.04 < np.std(contrasts) < 0.2 and abs(np.mean(contrasts) - 1) < 0.1
    assert 0.02 < np.std(colors) < 0.1 and np.std(colors, axis=1).min() > 0.001


def test_gradients_flow_back_to_the_patch():
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        value = tf.reduce_sum(augment(images, seed(4)) ** 2)
    gradient = tape.gradient(value, images).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spread": 0.1}, "collapse"),
        ({"real_recognised": 1.0, "fake_recognised": 1.0}, "cannot learn from it"),
    ],
)
def test_a_problem_is_named_only_if_it_lasts(change, words):
    bad = FINE | change
    assert diagnose([FINE] * 3 * WINDOW) is None
    assert diagnose([bad] * (WINDOW - 1)) is None
    assert diagnose([FINE] * WINDOW + [bad] * 3) is None
    assert words in diagnose([FINE] * WINDOW + [bad] * WINDOW)


def test_collapse_stops_a_training_that_asks_for_it_and_stays_stopped(tmp_path, monkeypatch):
    from tests.gan.test_gan import IMAGES, LABELS, SIZE, TINY

    settings = TINY.replace(on_mode_collapse="stop")
    monkeypatch.setattr(train, "diagnose", lambda lines: "all alike" if len(lines) else None)
    with pytest.raises(WorkError, match="step 1: all alike"):
        train.train(IMAGES, LABELS, settings, 0, tmp_path, xla=False)
    assert not (tmp_path / "generator.keras").exists()
    groups = train.build_gan_state(settings, SIZE).groups()
    train.weights.save(tmp_path / "checkpoint.npz", 1, groups)
    with pytest.raises(WorkError, match="step 1: all alike"):
        train.train(IMAGES, LABELS, settings, 0, tmp_path, xla=False)


def test_the_spread_of_a_batch_is_that_of_its_less_varied_class():
    classes = np.repeat([0, 1], 8).astype(np.int32)
    images = np.concatenate([IMAGES[:8], np.repeat(IMAGES[:1], 8, 0)])
    assert float(train._spread(IMAGES, classes)) > 0.01
    assert float(train._spread(images, classes)) == pytest.approx(0, abs=1e-6)


def test_the_layout_correlation_is_high_for_one_layout_and_zero_for_many():
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (200, 5, 5, 1))
    many = np.broadcast_to(coarse.repeat(10, 1).repeat(10, 2), (200, 50, 50, 3)).astype(np.uint8)
    noise = rng.integers(-5, 6, many.shape)
    assert abs(layout_correlation(many)) < 0.03
    assert layout_correlation((many[:1] + noise).astype(np.uint8)) > 0.95
    assert (
        layout_correlation((many[:2].repeat(100, 0) + noise).astype(np.uint8)) > 0.3
    )  # two layouts, each half of the time
    blank = np.full((3, 50, 50, 3), 240, np.uint8)
    assert np.isnan(layout_correlation(blank)) and np.isnan(layout_correlation(many[:1]))
    assert layout_correlation(np.concatenate([many, blank])) == pytest.approx(layout_correlation(many))


@pytest.mark.parametrize("size", [50, 96, 128])
def test_a_layout_is_the_brightness_of_a_5_by_5_grid(size):
    ramp = np.repeat(np.linspace(0, 1, size, dtype=np.float32)[None], size, 0)
    (grid,) = brightness_grids([ramp])
    expected = np.interp((np.arange(5) + 0.5) / 5 * size - 0.5, np.arange(size), ramp[0])
    np.testing.assert_allclose(grid.reshape(5, 5), np.repeat(expected[None], 5, 0), atol=0.01)


def test_the_layout_loss_is_zero_for_unrelated_layouts_and_one_for_copies_in_other_colors():
    rng = np.random.default_rng(0)
    unrelated = rng.random((16, 50, 50, 3)).astype(np.float32)
    classes = np.repeat([0, 1], 8)
    base = cv2.GaussianBlur(rng.random((50, 50, 1)).astype(np.float32), (0, 0), 6)[..., None]
    scales, shifts = rng.uniform(1, 3, (16, 1, 1, 1)), rng.random((16, 1, 1, 1))
    copies = scales * base * [1.0, 0.5, 0.8] + shifts
    assert float(layout_loss(tf.constant(unrelated), classes)) < 0.1
    assert float(layout_loss(tf.constant(copies, tf.float32), classes)) == pytest.approx(1, abs=1e-3)
    half = copies.copy()
    half[8:] = unrelated[8:]
    assert 0.4 < float(layout_loss(tf.constant(half, tf.float32), classes)) < 0.6  # only pairs within a class
    inverted = np.concatenate([copies[:4], 5 - copies[:4]])
    loss = float(layout_loss(tf.constant(inverted, tf.float32), np.zeros(8, int)))
    assert loss == pytest.approx(24 / 56, abs=1e-3)  # an inverted layout is not the same layout
