import keras
import numpy as np
import pytest

from bcgan.gan import steering
from bcgan.models.generator import generator


@pytest.fixture(scope="module")
def dark_by_first_number() -> keras.Model:
    """A generator of flat patches that grow darker in haematoxylin's colour with the first number of the noise."""
    noise, label = keras.Input((6,), name="noise"), keras.Input((), dtype="int32", name="label")
    grain = keras.Input((50, 50, 1), name="grain")
    amount = keras.ops.sigmoid(noise[:, :1])[:, None, None]
    colour = keras.ops.exp(-amount * np.array([0.65, 0.70, 0.29], np.float32)) + 0.0 * grain
    return keras.Model([noise, label, grain], colour)


def test_measured_attributes_follow_the_requested_values(dark_by_first_number):
    directions = [
        steering.fit_latent_directions(dark_by_first_number, label, threshold=0.15, seed=0) for label in (0, 1)
    ]
    table = steering.measure_control(dark_by_first_number, directions, threshold=0.15, seed=0)
    stained = table[table["attribute"] == "haematoxylin"]
    assert set(stained["class"]) == {"benign", "malignant"}
    assert stained["asked"].corr(stained["measured"]) > 0.98
    assert abs(stained["asked"].corr(stained["unasked"])) < 0.2


def test_a_direction_moves_noise_to_the_requested_value():
    direction = steering.Direction(np.array([2.0, 0.0]), 1.0, 0.0, 9.0)
    moved = direction.move(np.array([[0.0, 5.0], [3.0, -1.0]]), np.array([5.0, 1.0]))
    np.testing.assert_allclose(moved, [[2.0, 5.0], [0.0, -1.0]])


def test_sweeps_and_walks_have_their_shapes():
    make = generator(8, 4)
    images, requested = steering.attribute_sweep(make, [steering.Direction(np.ones(8), 0.0, 0.0, 1.0)] * 2, seed=0)
    assert images.shape == (2, steering.SWEEP_ROWS, steering.SWEEP_STEPS, 50, 50, 3)
    assert requested.shape == (2, steering.SWEEP_STEPS)
    walk = steering.latent_walk(make, seed=0)
    assert walk.shape == (2, 2, steering.WALK_STEPS, 50, 50, 3)
    assert walk.dtype == np.uint8
