"""A second judge of the GAN, on features of a frozen network that has seen ImageNet (Sauer et al. 2021).

The paper's discriminator learns what tissue looks like from a few thousand patches, and its features are what the
classifier gets. This one starts with the textures of a million photographs, and lends its eye to the generator alone.
"""

import keras
from keras import layers

from bcgan.models.discriminator import convolved
from bcgan.models.efficientnet_lite import efficientnet_lite

TAPS = ("_blocks.2.add", "_blocks.4.add", "_blocks.10.add")  # 24, 40 and 112 channels
SIZE = 50  # side of a patch, pixels


def frozen_features(seen: int = SIZE, weights: bool = True) -> keras.Model:
    """EfficientNet-Lite0 up to three of its maps.

    Args:
        seen: int. Side to which patches are enlarged first, pixels: the network's first convolution halves what it
            gets, so at 50 the finest grain of a patch is hardly seen. Defaults to 50: not enlarged.
        weights: bool. As `efficientnet_lite`'s.

    Returns:
        keras.Model. float32 in [0, 1], (batch, 50, 50, 3), to float32 maps: 13x13, 7x7 and 4x4 places at 50 pixels,
        25x25, 13x13 and 7x7 at 100.
    """
    network = efficientnet_lite("lite0", seen, weights)
    features = keras.Model(network.inputs[0], [network.get_layer(tap).output for tap in TAPS], name="maps")
    image = keras.Input((SIZE, SIZE, 3), name="image")
    enlarged = layers.Resizing(seen, seen, "bicubic", dtype="float32", name="enlarged")(image)
    features = keras.Model(image, features(enlarged if seen != SIZE else image), name="imagenet_features")
    features.trainable = False
    return features


def critic(features: keras.Model, width: int = 64, classes: int = 2) -> keras.Model:
    """Build the trained part: what it thinks at every place of every map, averaged.

    Args:
        features: keras.Model. As `frozen_features` builds it; only its shapes are read.
        width: int. Channels of each head. Defaults to 64.
        classes: int. Number of labels. Defaults to 2.

    Returns:
        keras.Model. Inputs the maps and `label` (int32, (batch,)); outputs, one a map, logits (float32,
        (batch, height, width, 1)), large where it looks real for a patch of that label.
    """
    maps = [keras.Input(shape[1:], name=f"map{number}") for number, shape in enumerate(features.output_shape, 1)]
    label = keras.Input((), dtype="int32", name="label")

    logits = []
    for number, x in enumerate(maps, 1):
        for place in ("first", "second"):
            x = convolved(x, width, 1, 1, f"{place}{number}")
        meaning = layers.Embedding(classes, width, name=f"label{number}")(label)
        agreement = keras.ops.sum(x * layers.Reshape((1, 1, width))(meaning), -1, keepdims=True)
        realness = layers.Conv2D(1, 1, name=f"realness{number}")(x)
        logits.append(layers.Add(dtype="float32", name=f"logit{number}")([realness, agreement]))
    return keras.Model([*maps, label], logits, name="critic")
