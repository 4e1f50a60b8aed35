import numpy as np
import tensorflow as tf

from bcgan.data import batches
from bcgan.data.views import center_crop, dihedral_view

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


def test_an_epoch_has_every_row_once_in_its_own_order():
    sample = batches.epoch_sampler(np.arange(20), 5, seed=3)
    first, second = ([sample(step) for step in range(start, start + 4)] for start in (0, 4))
    assert sorted(np.concatenate(first)) == list(range(20))
    assert sorted(np.concatenate(second)) == list(range(20))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(sample(2), first[2])


def test_balanced_batches_have_half_of_each_class():
    labels = (np.arange(20) < 3).astype(int)
    sample = batches.class_balanced_sampler(np.arange(20), labels, 8, seed=0)
    for step in range(5):
        assert labels[sample(step)].sum() == 4


def test_mixed_batches_add_extra_rows():
    sample = batches.mixed_sampler(batches.epoch_sampler(np.arange(10), 4, 0), np.arange(10, 20), 3, 0)
    rows = sample(0)
    assert (rows >= 10).sum() == 3
    assert len(rows) == 7


def test_the_stream_resumes_at_a_later_step():
    sampler = batches.epoch_sampler(np.arange(20), 5, 0)
    full_stream = list(batches.make_dataset(IMAGES, LABELS, sampler, range(6)))
    rest = list(batches.make_dataset(IMAGES, LABELS, sampler, range(3, 6)))
    for expected, resumed in zip(full_stream[3:], rest, strict=True):
        for expected_values, resumed_values in zip(expected, resumed, strict=True):
            np.testing.assert_array_equal(expected_values, resumed_values)
    assert full_stream[0][1].dtype == tf.uint8


def test_crops_are_random_in_training_and_central_in_scoring():
    sampler, corners = batches.epoch_sampler(np.arange(20), 20, 0), set()
    for step, cut, _ in batches.make_dataset(IMAGES, LABELS, sampler, range(8), crop=6):
        images, places = IMAGES[sampler(int(step))], [(top, left) for top in range(3) for left in range(3)]
        positions = [
            {(t, k) for t, k in places if np.array_equal(image[t : t + 6, k : k + 6], part)}
            for image, part in zip(images, cut, strict=True)
        ]
        assert all(positions) and len(set.union(*positions)) > 4  # images of a batch have different crops
        corners |= set.union(*positions)
    assert len(corners) == 9
    again = batches.make_dataset(IMAGES, LABELS, sampler, range(7, 8), crop=6)
    np.testing.assert_array_equal(next(iter(again))[1], cut)  # the crop depends on the step only
    np.testing.assert_array_equal(center_crop(IMAGES, 6), IMAGES[:, 1:7, 1:7])


def test_dihedral_gives_every_orientation_and_nothing_else():
    patch = IMAGES[:1].astype(np.float32)
    turned = batches.random_dihedral(tf.repeat(patch, 200, 0), tf.constant([0, 1], tf.int64)).numpy()
    views = {np.ascontiguousarray(dihedral_view(patch, number)[0]).tobytes() for number in range(8)}
    assert len(views) == 8
    assert {image.tobytes() for image in turned} == views


def test_jitter_repeats_and_keeps_the_range():
    images, seed = batches.to_float(tf.constant(IMAGES)), tf.constant([5, 6], tf.int64)
    for jitter in (batches.stain_jitter, batches.color_jitter):
        once, again = jitter(images, seed, 0.2).numpy(), jitter(images, seed, 0.2).numpy()
        np.testing.assert_array_equal(once, again)
        assert once.min() >= 0
        assert once.max() <= 1
        assert not np.allclose(once, images)
        still = np.clip(images, 1 / 255, 1) if jitter is batches.stain_jitter else images
        np.testing.assert_allclose(jitter(images, seed, 0.0), still, atol=2e-4)


def test_a_resized_crop_is_a_square_part_of_the_patch():
    """A crop of a linear ramp is a linear ramp, whose slope is smaller by the crop's share of the side."""
    ramp = np.linspace(0, 1, 50, dtype=np.float32)
    patch = np.stack([np.tile(ramp, (50, 1)), np.tile(ramp, (50, 1)).T, np.ones((50, 50), np.float32)], -1)
    images = tf.constant(np.repeat(patch[None], 40, 0))
    np.testing.assert_allclose(batches.random_resized_crop(images, (1, 2), 1.0), images, atol=1e-5)
    crops = batches.random_resized_crop(images, (1, 2), 0.6).numpy()
    np.testing.assert_allclose(crops[..., 2], 1, atol=1e-5)
    right, down = np.diff(crops[:, 0, :, 0]), np.diff(crops[:, :, 0, 1])
    np.testing.assert_allclose(right, down, atol=1e-5)  # a square
    np.testing.assert_allclose(right, right[:, :1].repeat(49, 1), atol=1e-5)
    share = crops[:, 0, -1, 0] - crops[:, 0, 0, 0]
    assert 0.6 <= share.min() < 0.7 and 0.9 < share.max() <= 1
    assert crops.min() >= 0 and crops.max() <= 1 + 1e-5
    assert np.ptp(crops[:, 0, 0, 0]) > 0.1 and np.ptp(crops[:, 0, 0, 1]) > 0.1


def test_batches_of_three_classes_are_balanced_and_the_first_get_the_rest():
    labels = np.array([0] * 3 + [1] * 30 + [2] * 7)
    sample = batches.class_balanced_sampler(np.arange(40), labels, 11, seed=0, num_classes=3)
    assert np.bincount(labels[sample(5)]).tolist() == [4, 4, 3]


def test_a_dataset_has_no_tuning_thread_that_delays_its_end():
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    dataset = batches.make_dataset(images, labels, lambda step: np.arange(4), range(2))
    assert not dataset.options().autotune.enabled
    assert [int(step) for step, *_ in dataset] == [0, 1]
