"""The settings of what runs on request: the stages that take hours, `bcgan release` and `bcgan tune`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bcgan.classifiers import CLASSIFIERS
from bcgan.settings import ClassifierName, Distinct, Seeds, Settings


class LearningCurve(Settings):
    """The stage `learning_curve`: fractions of the training patients, times arms, times seeds."""

    train_fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Distinct] = (0.01, 0.05, 0.1, 0.25, 1.0)
    arms: Annotated[tuple[Literal["real", "classic", "gan", "selected"], ...], Distinct] = (
        "real", "classic", "gan", "selected",
    )  # fmt: skip
    seeds: Seeds = Field((0, 1, 2), min_length=1)
    train_steps: int = Field(300, ge=1)  # of every classifier
    num_validations: int = Field(6, ge=1)  # during training, evenly spaced; the best weights are kept
    synthetic_fraction: float = Field(0.5, gt=0, le=0.9)  # of each batch, in the arms that add patches
    num_synthetic: int = Field(2048, ge=2)  # as many of each class
    gan_steps: int = Field(1000, ge=1)

    @model_validator(mode="after")
    def _check_steps(self) -> "LearningCurve":
        """Check that validations can be evenly spaced over the steps."""
        if self.train_steps % self.num_validations:
            raise ValueError(
                f"train_steps: {self.train_steps} is not a multiple of num_validations: {self.num_validations}"
            )
        return self


class Ablation(Settings):
    """The stage `ablation`: one choice changed at a time, each compared with the experiment as it is."""

    model: ClassifierName = "resnet_table1"
    epochs: int = Field(3, ge=1)
    seeds: Seeds = Field((0, 1), min_length=1)
    activation: Literal["relu", "leaky_relu", "gelu", "silu"] = "relu"
    normalization: Literal["batch", "group"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)  # before the head
    variants: dict[str, dict[str, dict[str, Any]]] = {}  # factor: variant: {key.of.the.experiment: value}

    @property
    def models(self) -> set[str]:
        """Return the names of the classifiers that are trained: `model`, and those that variants set."""
        all_changes = [changes for variants in self.variants.values() for changes in variants.values()]
        return {self.model} | {changes["ablation.model"] for changes in all_changes if "ablation.model" in changes}


class CrossValidation(Settings):
    """The stage `cross_validation`: over `data.num_folds` folds of patients and, to compare, of patches."""

    models: Annotated[
        tuple[ClassifierName, ...], Distinct
    ] = ()  # none that uses the GAN, which saw patients of every fold
    epochs: int = Field(3, ge=1)


class Release(Settings):
    """The utility part of `bcgan release`: networks trained on synthetic patches and tested on real patients."""

    networks: Annotated[tuple[ClassifierName, ...], Distinct] = Field(
        ("resnet_table1", "resnet34", "efficientnet_lite0"), min_length=1
    )
    epochs: int = Field(4, ge=1)  # over the released patches
    tuning_patients: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Distinct] = Field(
        (1, 4, 8), min_length=1
    )  # real, of another group

    @model_validator(mode="after")
    def _check_networks(self) -> "Release":
        for name in self.networks:
            if not CLASSIFIERS[name].trains_on_patches_alone:
                raise ValueError(f"networks: {name} needs the run's GAN or SimCLR, or is frozen. Choose another.")
        return self


class Tune(Settings):
    """The space that `bcgan tune` searches, for one classifier; of a pair the ends, of others the choices."""

    model: ClassifierName = "resnet_table1"
    learning_rate: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1e-4, 3e-3)  # by logarithm
    epochs: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (2, 6)
    batch_size: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Distinct] = Field((32, 64, 128), min_length=1)
    stain_jitter: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.3)
    color_jitter: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.15)
    loss: Annotated[tuple[Literal["weighted_bce", "bce", "focal"], ...], Distinct] = Field(
        ("weighted_bce", "bce", "focal"), min_length=1
    )

    @model_validator(mode="after")
    def _check_ends(self) -> "Tune":
        """Check that the lower end of each range comes first, and that the classifier is trained by steps."""
        for name in ("learning_rate", "epochs", "stain_jitter", "color_jitter"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low:g} is above {high:g}; write the lower end first")
        if CLASSIFIERS[self.model].is_frozen:
            raise ValueError(f"model: {self.model} only fits a head. Choose another.")
        return self
