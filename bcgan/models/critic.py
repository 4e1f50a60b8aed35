"""A second judge of the GAN, on features of a frozen network that has seen ImageNet (Sauer et al. 2021).

The paper's discriminator learns what tissue looks like from a few thousand patches, and its features are what the
classifier gets. This one starts with the textures of a million photographs and lends its eye to the generator; to the
classifier where an experiment asks for it.
"""

import keras
from keras import layers

from bcgan.models.discriminator import convolved, plain_features
from bcgan.models.efficientnet_lite import efficientnet_lite

TAPS = ("_blocks.2.add", "_blocks.4.add", "_blocks.10.add")  # 13x13x24, 7x7x40 and 4x4x112 at 50 pixels


def frozen_features(size: int = 50, weights: bool = True) -> keras.Model:
    """EfficientNet-Lite0 up to three of its maps; float32 in [0, 1], (batch, size, size, 3), to float32 maps."""
    network = efficientnet_lite("lite0", size, weights)
    features = keras.Model(network.inputs[0], [network.get_layer(tap).output for tap in TAPS], name="imagenet_features")
    features.trainable = False
    return features


def critic(features: keras.Model, width: int = 64, classes: int = 2, around: int = 1) -> keras.Model:
    """Build the trained part: what it thinks at every place of every map, averaged.

    Args:
        features: keras.Model. As `frozen_features` builds it; only its shapes are read.
        width: int. Channels of each head. Defaults to 64.
        classes: int. Number of labels. Defaults to 2.
        around: int. Places of a map, in each direction, that a head judges together. Defaults to 1, each by itself.

    Returns:
        keras.Model. Inputs the maps and `label` (int32, (batch,)); outputs, one a map, logits (float32,
        (batch, height, width, 1)), large where it looks real for a patch of that label.
    """
    maps = [keras.Input(shape[1:], name=f"map{number}") for number, shape in enumerate(features.output_shape, 1)]
    label = keras.Input((), dtype="int32", name="label")

    logits = []
    for number, x in enumerate(maps, 1):
        x = convolved(x, width, 1, 1, f"first{number}")
        x = convolved(x, width, around, 1, f"second{number}")
        meaning = layers.Embedding(classes, width, name=f"label{number}")(label)
        agreement = keras.ops.sum(x * layers.Reshape((1, 1, width))(meaning), -1, keepdims=True)
        realness = layers.Conv2D(1, 1, name=f"realness{number}")(x)
        logits.append(layers.Add(dtype="float32", name=f"logit{number}")([realness, agreement]))
    return keras.Model([*maps, label], logits, name="critic")


def judged_features(features: keras.Model, network: keras.Model) -> keras.Model:
    """What a critic has learned to see: its maps before the verdict, at every depth, as a frozen network of patches.

    Args:
        features: keras.Model. As `frozen_features` builds it.
        network: keras.Model. A trained critic of those features; its weights are copied.

    Returns:
        keras.Model. float32 in [0, 1], (batch, 50, 50, 3), to three maps, 13x13, 7x7 and 4x4.
    """
    maps = plain_features(network, tuple(f"second{number}" for number in range(1, len(TAPS) + 1)))(features.output)
    model = keras.Model(features.input, maps, name="judged_features")
    model.trainable = False
    return model
