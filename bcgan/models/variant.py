"""A network with another activation, normalisation or dropout: what the stage `ablation` varies of Table 1's."""

from typing import NamedTuple

import keras
from keras import layers

GROUPS = 16


class Variant(NamedTuple):
    """activation: relu, leaky_relu, gelu or silu. normalization: batch, or group (GROUPS groups of channels). dropout:
    share of the units before the binary head."""

    activation: str = "relu"
    normalization: str = "batch"
    dropout: float = 0.0


def vary(classifier: keras.Model, variant: Variant) -> keras.Model:
    """A classifier of `bcgan.models.classifier` with every ReLU and batch normalisation replaced, and dropout added.

    Args:
        classifier: keras.Model. Returned as it is for the default variant; otherwise its weights are drawn anew.
    """
    if variant == Variant():
        return classifier

    def clone(layer):
        name = layer.name
        if isinstance(layer, layers.ReLU) and variant.activation != "relu":
            return layers.Activation(variant.activation, name=name)
        if isinstance(layer, layers.BatchNormalization) and variant.normalization == "group":
            return layers.GroupNormalization(GROUPS, name=name)
        return layer.__class__.from_config(layer.get_config())

    def call(layer, *inputs, mask=None, **options):
        return layer(
            *inputs, **options
        )  # batch normalisation is called with a mask, and group normalisation knows none

    varied = keras.models.clone_model(classifier, clone_function=clone, call_function=call, recursive=True)
    head = varied.get_layer("logit")
    x = layers.Dropout(variant.dropout, dtype="float32", name="dropout")(head.input) if variant.dropout else head.input
    return keras.Model(varied.input, head(x), name=classifier.name)
