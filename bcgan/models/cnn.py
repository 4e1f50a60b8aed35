"""A plain convolutional network, the paper's third component."""

import keras
from keras import layers


def cnn(size: int = 50, width: int = 32) -> keras.Model:
    """Three convolutions, each with normalisation, ReLU and pooling: (batch, size, size, 3) to (batch, 4 width)."""
    x = image = keras.Input((size, size, 3), name="image")
    for number in range(3):
        x = layers.Conv2D(width * 2**number, 3, padding="same", use_bias=False, name=f"conv{number + 1}")(x)
        x = layers.BatchNormalization(name=f"bn{number + 1}")(x)
        x = layers.ReLU(name=f"relu{number + 1}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{number + 1}")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x), name="cnn")
