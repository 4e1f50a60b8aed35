"""ResNet-50, the baseline that the paper compares with: Keras's own."""

import keras
from keras import layers, ops

from bcgan.errors import InputError

MEAN = (123.68, 116.779, 103.939)  # of ImageNet's red, green and blue, as its weights expect them taken off


def resnet50(size: int = 50, weights: str = "none") -> keras.Model:
    """Build ResNet-50 up to its pooled features.

    Args:
        size: int. Side of a patch, pixels. Defaults to 50.
        weights: string. "none": drawn. "imagenet": ImageNet's, which Keras downloads once (95 MB). Defaults to "none".

    Returns:
        keras.Model. (batch, size, size, 3), centred, or in [0, 1] with ImageNet's weights, to (batch, 2048).

    Raises:
        InputError: the weights cannot be downloaded.
    """
    drawn = weights == "none"
    try:
        network = keras.applications.ResNet50(
            include_top=False, weights=None if drawn else weights, input_shape=(size, size, 3), pooling="avg",
            name="resnet50",
        )  # fmt: skip
    except Exception as error:  # what Keras raises where it cannot download
        if drawn or "URL fetch failure" not in str(error):
            raise
        raise InputError(
            f"ResNet-50's ImageNet weights could not be downloaded ({error}). Connect this machine once, or set "
            "classify.models.resnet50.weights=none."
        ) from error
    if drawn:
        return network
    image = keras.Input((size, size, 3), name="image")
    x = layers.Normalization(mean=MEAN, variance=(1.0, 1.0, 1.0), name="centre")(255 * image)
    return keras.Model(image, network(ops.flip(x, -1)), name="transferred_resnet50")
