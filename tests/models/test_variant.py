import keras
import numpy as np
import pytest

from bcgan.models import fast
from bcgan.models.classifier import build_classifier
from bcgan.models.variant import Variant, apply_variant

IMAGES = np.random.default_rng(0).random((2, 50, 50, 3), np.float32)


def kinds(model) -> dict[str, int]:
    found: dict[str, int] = {}
    for layer in model.layers:
        inner = kinds(layer) if isinstance(layer, keras.Model) else {type(layer).__name__: 1}
        for name, count in inner.items():
            found[name] = found.get(name, 0) + count
    return found


def test_nothing_wanted_is_the_network_itself():
    network = build_classifier("cnn")
    assert apply_variant(network, Variant()) is network


@pytest.mark.parametrize(
    ("wanted", "gone", "come"),
    [
        (Variant(activation="gelu"), "ReLU", {"Activation": 10}),
        (Variant(normalization="group"), "BatchNormalization", {"GroupNormalization": 9}),
        (Variant(dropout=0.5), "none", {"Dropout": 1}),
    ],
)
def test_what_is_wanted_replaces_what_table_1_has_and_nothing_else(wanted, gone, come):
    """Ten ReLUs, the units' among them, and nine batch normalisations."""
    network = build_classifier("resnet_table1")
    before, varied = kinds(network), apply_variant(network, wanted)
    expected = {name: count for name, count in before.items() if name != gone} | come
    assert kinds(varied) == expected
    assert varied.name == network.name
    said = varied(IMAGES, training=False).numpy()
    assert said.shape == (2, 1) and np.isfinite(said).all()
    np.testing.assert_allclose(fast.fuse_model(varied)(IMAGES, training=False), said, rtol=1e-4, atol=1e-5)


def test_dropout_is_of_training_alone():
    varied = apply_variant(build_classifier("cnn"), Variant(dropout=0.9))
    still = [varied(IMAGES, training=False).numpy() for _ in range(2)]
    noisy = [varied(IMAGES, training=True).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert np.abs(noisy[0] - noisy[1]).max() > 0
