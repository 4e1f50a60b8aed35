"""The classifiers: one entry each, read by settings, training, cache keys and the report.

To add one, write a function in `bcgan/models/` that returns a functional model from patches to features, and an entry
here. `bcgan/models/classifier.py` adds the rescaling and the binary head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier's network, names and own settings."""

    title: str  # in tables and legends
    color: str  # in figures
    network: str  # "module:function" in bcgan.models; the function takes `size` and `own_settings`
    short_title: str = ""  # where a line holds a name and a picture; the title if it is empty
    own_settings: tuple[str, ...] = ()  # classifier settings that are refused for classifiers without them
    uses_discriminator: bool = False  # whether the function also takes the run's `discriminator`
    reads_unit_range: bool = False  # whether the network takes pixels in [0, 1]; otherwise in [-2, 2]
    pretraining: Literal["none", "imagenet", "simclr"] = "none"  # what its initial weights come from
    is_frozen: bool = False  # whether only the head is fitted, by logistic regression
    has_variants: bool = False  # whether the ablation may change its activation, normalization and dropout
    compared_with: str | None = None  # the classifier that it extends; the report tests the difference
    adds: str = ""  # to that classifier, for the report

    @property
    def trains_on_patches_alone(self) -> bool:
        """Return whether it is trained by steps, and needs neither a run's GAN nor its self-supervised weights."""
        needs_run = self.uses_discriminator or self.pretraining == "simclr" or "extra_features" in self.own_settings
        return not needs_run and not self.is_frozen


LITE = "efficientnet_lite:transfer_network"
CLASSIFIERS: dict[str, ClassifierSpec] = {
    "gan_resnet": ClassifierSpec(
        "GAN+ResNet (proposed)", "#009E73", "gan_resnet:gan_resnet", "GAN+ResNet", ("extra_features", "multi_depth"),
        uses_discriminator=True, reads_unit_range=True,
        compared_with="resnet_features", adds="The discriminator's maps and synthetic patches, if any",
    ),
    "resnet_table1": ClassifierSpec(
        "ResNet of Table 1", "#CC79A7", "resnet_table1:resnet_table1", "ResNet (Table 1)", has_variants=True,
    ),
    "resnet34": ClassifierSpec(
        "ResNet-34", "#000000", "resnet34:resnet34", has_variants=True,
    ),
    "resnet34_identity": ClassifierSpec(
        "ResNet-34, padded shortcuts", "#4D4D4D", "resnet34:resnet34_identity", "ResNet-34, padded", has_variants=True,
    ),
    "resnet50": ClassifierSpec("ResNet-50", "#E69F00", "resnet50:resnet50", own_settings=("weights",)),
    "resnet_features": ClassifierSpec(
        "ResNet of Table 1 with pretrained maps (no GAN)", "#7A5195", "gan_resnet:resnet_features",
        "Without the GAN", ("extra_features", "multi_depth"), reads_unit_range=True,
        compared_with="resnet_table1", adds="Pretrained maps, without the GAN",
    ),
    "gan_only": ClassifierSpec(
        "GAN alone", "#56B4E9", "gan_resnet:gan_only", uses_discriminator=True, reads_unit_range=True,
    ),
    "cnn": ClassifierSpec("Plain CNN", "#999999", "cnn:cnn", has_variants=True),
    "efficientnet_lite0": ClassifierSpec(
        "EfficientNet-Lite0 (ImageNet)", "#332288", LITE, "Lite0, ImageNet", ("input_size", "multi_depth"),
        reads_unit_range=True, pretraining="imagenet",
    ),
    "efficientnet_lite0_simclr": ClassifierSpec(
        "EfficientNet-Lite0 (SimCLR)", "#DDAA33", LITE, "Lite0, SimCLR", ("input_size", "multi_depth"),
        reads_unit_range=True, pretraining="simclr",
        compared_with="efficientnet_lite0", adds="Self-supervised pretraining",
    ),
    "densenet121": ClassifierSpec(
        "Logistic regression on DenseNet121's features", "#44AA99", "densenet:frozen_densenet121",
        "DenseNet121, linear", ("weights", "input_size"), reads_unit_range=True, is_frozen=True,
    ),
    "simclr_linear": ClassifierSpec(
        "Logistic regression on SimCLR features", "#AA4499", "efficientnet_lite:frozen_network",
        "SimCLR, linear", ("input_size",),
        reads_unit_range=True, pretraining="simclr", is_frozen=True,
    ),
}  # fmt: skip


def with_simclr(models: Mapping[str, Any]) -> list[str]:
    """Return the names of classifiers that use the weights of the stage `pretrain`.

    Args:
        models: `bcgan.settings.Classifier` by name.
    """
    return [
        name
        for name, settings in models.items()
        if name in CLASSIFIERS and (CLASSIFIERS[name].pretraining == "simclr" or settings.extra_features == "simclr")
    ]
