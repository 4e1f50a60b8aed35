import keras
import numpy as np
import pytest

from bcgan.models import fast
from bcgan.models.classifier import build_classifier
from bcgan.models.variant import Variant, apply_variant

IMAGES = np.random.default_rng(0).random((2, 50, 50, 3), np.float32)


def count_layers(model) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in model.layers:
        inner = count_layers(layer) if isinstance(layer, keras.Model) else {type(layer).__name__: 1}
        for name, count in inner.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def test_an_empty_variant_is_the_network_itself():
    network = build_classifier("cnn")
    assert apply_variant(network, Variant()) is network


@pytest.mark.parametrize(
    ("variant", "removed", "added"),
    [
        (Variant(activation="gelu"), "ReLU", {"Activation": 10}),
        (Variant(normalization="group"), "BatchNormalization", {"GroupNormalization": 9}),
        (Variant(dropout=0.5), "none", {"Dropout": 1}),
    ],
)
def test_a_variant_replaces_the_layers_that_it_names_and_nothing_else(variant, removed, added):
    """Table 1 has ten ReLUs, with that of the units, and nine batch normalisations."""
    network = build_classifier("resnet_table1")
    before, varied = count_layers(network), apply_variant(network, variant)
    expected = {name: count for name, count in before.items() if name != removed} | added
    assert count_layers(varied) == expected
    assert varied.name == network.name
    logits = varied(IMAGES, training=False).numpy()
    assert logits.shape == (2, 1) and np.isfinite(logits).all()
    np.testing.assert_allclose(fast.fuse_model(varied)(IMAGES, training=False), logits, rtol=1e-4, atol=1e-5)


def test_dropout_is_active_in_training_only():
    varied = apply_variant(build_classifier("cnn"), Variant(dropout=0.9))
    still = [varied(IMAGES, training=False).numpy() for _ in range(2)]
    noisy = [varied(IMAGES, training=True).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert np.abs(noisy[0] - noisy[1]).max() > 0
