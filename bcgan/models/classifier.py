"""Build a classifier by its name: from images in [0, 1] to one logit of malignancy, or a logit of each class."""

from importlib import import_module
from pathlib import Path

import keras
from keras import layers

from bcgan.classifiers import CLASSIFIERS
from bcgan.errors import InputError
from bcgan.models.efficientnet_lite import get_backbone, load_backbone_weights, unfreeze_except_batch_norm
from bcgan.models.projected_discriminator import imagenet_features, projected_features, simclr_features
from bcgan.models.weights import load_model
from bcgan.settings import Classifier

SIMCLR = Path("pretrain") / "simclr.keras"  # in a run's folder


def build_for_run(
    name: str, root: Path, size: int = 50, classifier_settings: Classifier | None = None, num_classes: int = 2
) -> keras.Model:
    """Build a classifier with what it needs from a run: the GAN's discriminators, or self-supervised weights.

    Args:
        name: One of `CLASSIFIERS`.
        root: The run's folder.
        size: Side of a patch, pixels. Defaults to 50.
        classifier_settings: Defaults to the default settings.
        num_classes: Defaults to 2.

    Raises:
        InputError: If the settings use features of the projected discriminator, and the GAN has none.
    """
    settings, spec = classifier_settings or Classifier(), CLASSIFIERS[name]
    discriminator = load_model(root / "gan" / "discriminator.keras") if spec.uses_discriminator else None
    uses_extra_features = "extra_features" in spec.own_settings and settings.extra_features != "none"
    input_size = discriminator.inputs[0].shape[1] if discriminator else size
    further_maps = _extra_features(name, root, settings, input_size) if uses_extra_features else None
    network = build_classifier(
        name, size, discriminator, settings, spec.pretraining != "simclr", further_maps, num_classes
    )
    if spec.pretraining == "simclr":
        load_backbone_weights(get_backbone(get_backbone(network)), root / SIMCLR)
    return network


def _extra_features(name: str, root: Path, settings: Classifier, size: int) -> keras.Model:
    """Return the network, for patches of `size` pixels, whose maps are used in addition to the discriminator's."""
    if settings.extra_features == "simclr":
        further_maps = simclr_features(size, root / SIMCLR)
    else:
        further_maps = imagenet_features(size)
    if settings.extra_features == "projected_discriminator":
        path = root / "gan" / "projected_discriminator.keras"
        if not path.exists():
            raise InputError(f"{path} is missing, and {name} needs it. Run: bcgan run {root.name} --force gan.")
        further_maps = projected_features(further_maps, load_model(path))
    if settings.finetune_extra_features:
        unfreeze_except_batch_norm(further_maps)
    return further_maps


def build_classifier(
    name: str,
    size: int = 50,
    discriminator: keras.Model | None = None,
    classifier_settings: Classifier | None = None,
    pretrained: bool = True,
    further_maps: keras.Model | None = None,
    num_classes: int = 2,
) -> keras.Model:
    """Build a classifier: rescaling, the named network, a head in float32.

    Args:
        name: One of `CLASSIFIERS`.
        size: Side of a patch, pixels. Defaults to 50.
        discriminator: The GAN's, for classifiers that use it.
        classifier_settings: Defaults to the default settings.
        pretrained: Whether EfficientNet-Lite0 starts from ImageNet's weights. Defaults to True.
        further_maps: Network whose feature maps join Table 1's network in `gan_resnet` and `resnet_features`. Defaults
            to `None`.
        num_classes: Defaults to 2.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to `logit`, float32: of the second class, (batch, 1),
        or, of more than two classes, of each, (batch, num_classes).

    Raises:
        ValueError: If the name is unknown, or a discriminator is missing.
    """
    settings = classifier_settings or Classifier()
    if name not in CLASSIFIERS:
        raise ValueError(f"name must be one of {', '.join(CLASSIFIERS)}. Received: name={name!r}")
    spec = CLASSIFIERS[name]
    if spec.uses_discriminator and discriminator is None:
        raise ValueError(f"{name} needs a discriminator. Received: discriminator=None")
    module, function = spec.network.split(":")
    arguments = {key: getattr(settings, key) for key in spec.own_settings}
    arguments |= {"discriminator": discriminator} if spec.uses_discriminator else {}
    if arguments.pop("extra_features", None):  # `build_for_run` builds them
        arguments["further_maps"] = further_maps
    arguments |= {"pretrained": pretrained} if spec.pretraining != "none" else {}
    network = getattr(import_module(f"bcgan.models.{module}"), function)(size=size, **arguments)

    image = keras.Input((size, size, 3), name="image")
    # Other networks take values in [-2, 2].
    unit_range = spec.reads_unit_range or (settings.weights != "none" and "weights" in spec.own_settings)
    x = network(image if unit_range else layers.Rescaling(4.0, offset=-2.0, name="centre")(image))
    if network.output_shape[-1] == 1000:  # Table 1's units, which are linear
        x = layers.ReLU(name="units_relu")(x)
    logit = layers.Dense(1 if num_classes == 2 else num_classes, dtype="float32", name="logit")(x)
    return keras.Model(image, logit, name=f"{name}_classifier")
