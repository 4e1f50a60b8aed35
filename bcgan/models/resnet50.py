"""ResNet-50, the baseline that the paper compares with: Keras's own, without weights."""

import keras


def resnet50(size: int = 50) -> keras.Model:
    """(batch, size, size, 3) to pooled features, (batch, 2048)."""
    return keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", name="resnet50"
    )
