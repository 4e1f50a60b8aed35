"""Replace the activation, normalization or dropout of a classifier, for the stage `ablation`."""

from typing import NamedTuple

import keras
from keras import layers

GROUPS = 16


class Variant(NamedTuple):
    """Layers to use in place of a classifier's own."""

    activation: str = "relu"  # relu, leaky_relu, gelu or silu
    normalization: str = "batch"  # batch, or group (GROUPS groups of channels)
    dropout: float = 0.0  # fraction of the units before the binary head


def apply_variant(classifier: keras.Model, variant: Variant) -> keras.Model:
    """Return a classifier with every ReLU and batch normalization replaced, and dropout added.

    Args:
        classifier: As `bcgan.models.classifier` builds it. It is returned unchanged for the default variant; otherwise
            the result has new random weights.
    """
    if variant == Variant():
        return classifier

    def clone(layer):
        """Return what replaces a layer: one of another class, or a new one of the same configuration."""
        name = layer.name
        if isinstance(layer, layers.ReLU) and variant.activation != "relu":
            return layers.Activation(variant.activation, name=name)
        if isinstance(layer, layers.BatchNormalization) and variant.normalization == "group":
            return layers.GroupNormalization(GROUPS, name=name)
        return layer.__class__.from_config(layer.get_config())

    def call(layer, *inputs, mask=None, **options):
        # Keras calls batch normalizations with a mask, which group normalizations do not take.
        return layer(*inputs, **options)

    varied = keras.models.clone_model(classifier, clone_function=clone, call_function=call, recursive=True)
    head = varied.get_layer("logit")
    x = layers.Dropout(variant.dropout, dtype="float32", name="dropout")(head.input) if variant.dropout else head.input
    return keras.Model(varied.input, head(x), name=classifier.name)
