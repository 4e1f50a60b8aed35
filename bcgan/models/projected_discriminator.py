"""The projected discriminator: a second discriminator, on features of a frozen ImageNet network (Sauer et al. 2021).

The paper's discriminator is trained on a few thousand patches only. Features that were trained on a million photographs
give the generator better gradients. The classifier can use the projected discriminator's feature maps too.
"""

from pathlib import Path

import keras
from keras import layers

from bcgan.models.discriminator import conv_block, features_without_spectral_norm
from bcgan.models.efficientnet_lite import POOLED_SIZE, efficientnet_lite, load_backbone_weights
from bcgan.models.resizing import resize

TAPS = ("_blocks.2.add", "_blocks.4.add", "_blocks.10.add")  # 13x13x24, 7x7x40 and 4x4x112 at 50 pixels


def tap_features(network: keras.Model, name: str) -> keras.Model:
    """Return the part of an EfficientNet-Lite0 up to its feature maps TAPS, frozen; it shares the weights."""
    features = keras.Model(network.inputs[0], [network.get_layer(tap).output for tap in TAPS], name=name)
    features.trainable = False
    return features


def imagenet_features(size: int = 50, weights: bool = True) -> keras.Model:
    """Build the frozen feature extractor: EfficientNet-Lite0 up to three of its feature maps.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        weights: Whether it has ImageNet's weights. Defaults to True.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to three float32 maps.
    """
    return tap_features(efficientnet_lite("lite0", size, weights), "imagenet_features")


def simclr_features(size: int, path: Path | None = None) -> keras.Model:
    """Build the frozen feature extractor with self-supervised weights, for patches that are resized to 100 pixels.

    Args:
        size: Side of a patch, pixels.
        path: The weights, which the stage `pretrain` wrote. Defaults to `None`: random weights.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to three float32 maps.
    """
    network = efficientnet_lite("lite0", POOLED_SIZE, weights=False)
    if path:
        load_backbone_weights(network, path)
    image = keras.Input((size, size, 3), name="image")
    features = tap_features(network, "simclr_maps")
    return keras.Model(image, features(resize(image, POOLED_SIZE, "enlarged", "bicubic", "float32")), name="simclr")


def projected_discriminator(
    features: keras.Model, width: int = 64, classes: int = 2, kernel_size: int = 1
) -> keras.Model:
    """Build the trainable heads: one map of logits for each feature map.

    Args:
        features: As `imagenet_features` builds it; only its output shapes are read.
        width: Channels of each head. Defaults to 64.
        classes: Number of labels. Defaults to 2.
        kernel_size: Of a head's second convolution. Defaults to 1.

    Returns:
        keras.Model. Inputs are the feature maps and `label` (int32, (batch,)). Outputs are logits, one map each
        (float32, (batch, height, width, 1)), large for patches that look real for their label.
    """
    maps = [keras.Input(shape[1:], name=f"map{index}") for index, shape in enumerate(features.output_shape, 1)]
    label = keras.Input((), dtype="int32", name="label")

    logits = []
    for index, x in enumerate(maps, 1):
        x = conv_block(x, width, 1, 1, f"first{index}")
        x = conv_block(x, width, kernel_size, 1, f"second{index}")
        embedding = layers.Embedding(classes, width, name=f"label{index}")(label)
        class_logit = keras.ops.sum(x * layers.Reshape((1, 1, width))(embedding), -1, keepdims=True)
        realness = layers.Conv2D(1, 1, name=f"realness{index}")(x)
        logits.append(layers.Add(dtype="float32", name=f"logit{index}")([realness, class_logit]))
    return keras.Model([*maps, label], logits, name="projected_discriminator")


def projected_features(features: keras.Model, network: keras.Model) -> keras.Model:
    """Build a frozen network from patches to the last feature maps of a trained projected discriminator's heads.

    Args:
        features: As `imagenet_features` builds it.
        network: A trained projected discriminator; its weights are copied.

    Returns:
        keras.Model. float32 in [0, 1], (batch, 50, 50, 3), to three maps, 13x13, 7x7 and 4x4.
    """
    maps = features_without_spectral_norm(network, tuple(f"second{number}" for number in range(1, len(TAPS) + 1)))(
        features.output
    )
    model = keras.Model(features.input, maps, name="projected_features")
    model.trainable = False
    return model
