"""From any of the networks to a classifier: images in [0, 1] to one logit of malignancy."""

from pathlib import Path

import keras
from keras import layers

from bcgan.errors import InputError
from bcgan.experiment import Classifier
from bcgan.models.cnn import cnn
from bcgan.models.critic import frozen_features, judged_features
from bcgan.models.efficientnet_lite import backbone, start_from, transfer_network, tune
from bcgan.models.gan_resnet import gan_only, gan_resnet
from bcgan.models.resnet34 import resnet34
from bcgan.models.resnet50 import resnet50
from bcgan.models.resnet_table1 import resnet_table1
from bcgan.models.weights import load_model


def of_run(name: str, root: Path, size: int = 50, classifier_settings: Classifier | None = None) -> keras.Model:
    """`classifier` by an experiment's settings, with what its name needs of the run in the folder `root`: the GAN's
    judges, or what self-supervision left.

    Raises:
        InputError: the critic's maps are to join, and the GAN left none: it is of an older bcgan.
    """
    classifier_settings, gan = classifier_settings or Classifier(), root / "gan"
    gan_discriminator = load_model(gan / "discriminator.keras") if name.startswith("gan_") else None
    further_maps = frozen_features() if name == "gan_resnet" and classifier_settings.beside != "none" else None
    if further_maps and classifier_settings.beside == "critic":
        path = gan / "critic.keras"
        if not path.exists():
            raise InputError(
                f"{path} is missing, which {name} joins. Train the GAN once more: bcgan run ... --force gan."
            )
        further_maps = judged_features(further_maps, load_model(path))
    if further_maps and classifier_settings.tuned:
        tune(further_maps)
    network = classifier(name, size, gan_discriminator, classifier_settings, name != "simclr", further_maps)
    if name == "simclr":
        start_from(backbone(network), root / "pretrain" / "simclr.keras")
    return network


def classifier(
    name: str,
    size: int = 50,
    discriminator: keras.Model | None = None,
    classifier_settings: Classifier | None = None,
    pretrained: bool = True,
    further_maps: keras.Model | None = None,
) -> keras.Model:
    """Build a classifier: rescaling, the named network, a binary head in float32.

    Args:
        name: string. gan_resnet, resnet_table1, resnet34, resnet50, gan_only, cnn, efficientnet_lite,
            or student and simclr, which are an EfficientNet-Lite0.
        size: int. Side of a patch, pixels. Defaults to 50.
        discriminator: keras.Model. Needed by gan_resnet and gan_only.
        classifier_settings: Classifier. This network's settings. Defaults to what the settings default to.
        pretrained: bool. ImageNet's weights for EfficientNet-Lite. Defaults to True.
        further_maps: keras.Model. What joins gan_resnet beside the discriminator's map, as `gan_resnet` takes it.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to `logit`, float32, (batch, 1).

    Raises:
        ValueError: an unknown name, or a missing discriminator.
    """
    classifier_settings = classifier_settings or Classifier()
    builders = {
        "gan_resnet": lambda: gan_resnet(discriminator, size, further_maps),
        "gan_only": lambda: gan_only(discriminator, size),
        "resnet_table1": lambda: resnet_table1(size),
        "resnet34": lambda: resnet34(size, classifier_settings.shortcut),
        "resnet50": lambda: resnet50(size, classifier_settings.weights),
        "cnn": lambda: cnn(size),
    } | dict.fromkeys(
        ("efficientnet_lite", "student", "simclr"),
        lambda: transfer_network(size, pretrained, classifier_settings.enlarged),
    )
    if name not in builders:
        raise ValueError(f"name must be one of {', '.join(builders)}. Received: name={name!r}")
    if name.startswith("gan_") and discriminator is None:
        raise ValueError(f"{name} needs a discriminator. Received: discriminator=None")
    network = builders[name]()

    image = keras.Input((size, size, 3), name="image")
    # The discriminator and what has seen ImageNet rescale by themselves, so what holds one takes the image as it is.
    rescaling = ("gan_", "efficientnet_", "student", "simclr")
    itself = name.startswith(rescaling) or (name, classifier_settings.weights) == ("resnet50", "imagenet")
    x = network(image if itself else layers.Rescaling(4.0, offset=-2.0, name="centre")(image))
    if network.output_shape[-1] == 1000:
        x = layers.ReLU(name="units_relu")(x)
    logit = layers.Dense(1, dtype="float32", name="logit")(x)
    return keras.Model(image, logit, name=f"{name}_classifier")
