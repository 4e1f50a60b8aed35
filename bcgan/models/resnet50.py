"""Keras's ResNet-50, the baseline that the paper compares with."""

import keras
from keras import layers, ops

from bcgan.errors import InputError

MEAN = (123.68, 116.779, 103.939)  # of ImageNet's red, green and blue, which its weights expect to be subtracted


def resnet50(size: int = 50, weights: str = "none") -> keras.Model:
    """Build ResNet-50 up to its pooled features.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        weights: "none" for random weights, or "imagenet", which Keras downloads once (95 MB). Defaults to "none".

    Returns:
        keras.Model. (batch, size, size, 3), centered, or in [0, 1] with ImageNet's weights, to (batch, 2048).

    Raises:
        InputError: If the weights cannot be downloaded.
    """
    is_random = weights == "none"
    try:
        network = keras.applications.ResNet50(
            include_top=False, weights=None if is_random else weights, input_shape=(size, size, 3), pooling="avg",
            name="resnet50",
        )  # fmt: skip
    except Exception as error:  # Keras has no exception class of its own for a failed download
        if is_random or "URL fetch failure" not in str(error):
            raise
        raise InputError(
            f"ResNet-50's ImageNet weights could not be downloaded ({error}). Connect this machine once, or set "
            "classify.models.resnet50.weights=none."
        ) from error
    if is_random:
        return network
    image = keras.Input((size, size, 3), name="image")
    x = layers.Normalization(mean=MEAN, variance=(1.0, 1.0, 1.0), name="centre")(255 * image)
    return keras.Model(image, network(ops.flip(x, -1)), name="transferred_resnet50")
