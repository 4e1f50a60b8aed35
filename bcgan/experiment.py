"""The settings of an experiment: typed, read from one YAML file, unknown keys refused."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bcgan.errors import InputError
from bcgan.settings_effect import check_effect

PIPELINES = Path("pipelines")
TRAINING = ("seed", "profile", "precision", "xla")  # settings that every training depends on
# What changes nothing that comes out.
UNSEEN = {
    "gan": {"checkpoint_every", "on_collapse"}, "translate": {"checkpoint_every"}, "pretrain": {"checkpoint_every"},
}  # fmt: skip
# What the trainings of `factors`, `folds` and `learning_curve` do not depend on, or set themselves.
APART = {
    "gan": {"steps", "late", "grid_every", *UNSEEN["gan"]},
    "translate": {"steps", *UNSEEN["translate"]},
    "features": {"synthetic", "maps", "density_threshold"},
    "classify": {"seeds", "teachers"},
}
ClassifierName = Literal[
    "gan_resnet", "resnet_table1", "resnet34", "resnet50", "gan_only", "cnn", "efficientnet_lite", "student", "simclr",
]  # fmt: skip
Policy = Literal["keep", "drop", "fail"]
# YAML reads on and off as true and false.
Switch = Annotated[
    Literal["auto", "on", "off"], BeforeValidator(lambda v: ("off", "on")[v] if isinstance(v, bool) else v)
]
Places = Annotated[
    tuple[Annotated[Path, AfterValidator(lambda place: place.expanduser().resolve())], ...],
    BeforeValidator(lambda v: (v,) if isinstance(v, (str, Path)) else v),
]
Seed = Annotated[int, Field(ge=0)]
ClassFolders = Annotated[
    tuple[str, ...], BeforeValidator(lambda v: [str(name) for name in (v if isinstance(v, (list, tuple)) else (v,))])
]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Settings):
    """Which patches, and which patients train, choose and test."""

    name: Literal["histology_phantom", "idc", "breakhis", "patch_camelyon", "patient_folder"]
    dir: Places = ()  # folders or zip archives; made or downloaded where it is empty and can be
    size: int = Field(50, ge=32, le=512)  # side of a patch in the store, pixels: 50 is native, 256 the paper's
    protocol: Literal["official", "extended", "kfold"] = "kfold"
    folds: int = Field(5, ge=3)
    fold: int = Field(0, ge=0)
    lists: Path | None = None  # folder of train.txt, validation.txt, test.txt; None: the lists that bcgan ships
    evaluate_on: str | None = None  # glob over folders and archives: others' held-out patches are set apart
    magnification: Literal[40, 100, 200, 400] | None = None  # BreaKHis only
    limit: float | None = Field(None, gt=0)  # at most so many patches of each patient and class; below 1, that share
    mpp: float | None = Field(None, gt=0, le=100)  # patient_folder only: microns per pixel of its images
    # patient_folder only: folders' names that are a class, beside 0, 1, benign and malignant
    classes: dict[Literal["benign", "malignant"], ClassFolders] = {}
    labels: Path | None = None  # patient_folder only: table of image, label and patient, in place of folders' names
    # whether patients whose names differ in case, spacing or leading zeros alone are taken for different ones
    similar_patients: Literal["refuse", "allow"] = "refuse"

    @model_validator(mode="after")
    def _classes_differ(self) -> "Data":
        names = [{name.casefold().strip() for name in names} for names in self.classes.values()]
        if len(names) == 2 and (both := names[0] & names[1]):
            raise ValueError(f"classes: {min(both)!r} is benign and malignant; leave it in one of them")
        return self

    @model_validator(mode="after")
    def _limit_counts(self) -> "Data":
        if self.limit and self.limit > 1 and not self.limit.is_integer():
            raise ValueError(f"limit: {self.limit} is neither a number of patches nor, below 1, a share of them")
        return self


class Audit(Settings):
    """What happens to a patch with a fault."""

    unreadable: Literal["drop", "fail"] = "drop"
    wrong_size: Policy = "keep"
    blank: Policy = "keep"
    blurred: Policy = "keep"
    duplicate: Policy = "drop"
    near_duplicate: Policy = "keep"
    conflicting: Policy = "drop"


class Preprocess(Settings):
    audit: Audit = Audit()
    smoothing: Literal["none", "gaussian", "median"] = "none"
    clahe: bool = False
    stain: Literal["none", "macenko"] = "none"


class Gan(Settings):
    steps: int = Field(300, ge=1)
    batch: int = Field(64, ge=2)
    latent: int = Field(96, ge=1)
    width: int = Field(32, ge=4)  # channels of the discriminator's first block and the generator's last
    loss: Literal["non_saturating", "saturating"] = "non_saturating"
    generator_rate: float = Field(2e-4, gt=0)
    discriminator_rate: float = Field(4e-4, gt=0)
    spectral: bool = True
    critic: float = Field(1.0, ge=0)  # weight of the second judge, on frozen ImageNet features; 0: the paper's alone
    late: int = Field(0, ge=0)  # of the steps the last, in which a new critic judges places with those around them
    augment: bool = True  # both sides of what the judges see; the synthetic patches themselves are not augmented
    on_collapse: Literal["warn", "stop"] = "warn"
    average: float = Field(0.998, ge=0, lt=1)  # decay of the generator's moving average
    noise: float = Field(1.0, gt=0)  # standard deviation of what the trained generator samples from; 1 in training
    grid_every: int = Field(100, ge=1)
    checkpoint_every: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "Gan":
        if self.late and not self.late < self.steps:
            raise ValueError(f"late: {self.late} leaves nothing of steps: {self.steps}; set it too, to 0 or to fewer")
        if self.late and not self.critic:
            raise ValueError(f"late: {self.late}, but critic is 0; there is nothing to take the place of")
        return self


class Translate(Settings):
    """The cycle-consistent GAN between the classes; steps 0 leaves it out."""

    steps: int = Field(0, ge=0)
    batch: int = Field(16, ge=2)  # half of each class
    width: int = Field(24, ge=4)  # channels of the translators' largest maps
    rate: float = Field(2e-4, gt=0)
    cycle: float = Field(4.0, ge=0)  # weight of coming back to the same patch
    identity: float = Field(2.0, ge=0)  # weight of leaving a patch of the other class as it is
    average: float = Field(0.995, ge=0, lt=1)
    checkpoint_every: int = Field(200, ge=1)


class Referee(Settings):
    """The plain CNN that selects synthetic patches, and what it lets through."""

    steps: int = Field(400, ge=1)
    confidence: float = Field(0.6, ge=0, lt=1)  # least probability of the class that was asked for
    quantile: float = Field(0.95, gt=0, le=1)  # share of real patches whose distance to their class is let through


class Features(Settings):
    synthetic: int = Field(512, ge=2)  # synthetic patches sampled, half of each class
    referee: Referee = Referee()
    maps: tuple[Literal["block1", "block2", "block3", "block4"], ...] = ("block4",)
    density_threshold: float = Field(0.15, gt=0)  # haematoxylin optical density that counts as nucleus


class Pretrain(Settings):
    """Contrastive self-supervision of EfficientNet-Lite0, which the classifier simclr starts from; with steps 0 and
    weights none it is left out."""

    steps: int = Field(0, ge=0)
    weights: Literal["none", "shipped"] = "none"  # shipped: what comes with bcgan, in place of a training
    patients: Literal["train", "all"] = "all"  # whose patches are looked at; all: those on no list too
    batch: int = Field(256, ge=2)  # patches; the network sees two views of each
    rate: float = Field(1e-3, gt=0)
    temperature: float = Field(0.2, gt=0)
    stain_jitter: float = Field(0.35, ge=0)
    colour_jitter: float = Field(0.1, ge=0)
    smallest: float = Field(0.6, gt=0, le=1)  # side of a view's cut, as a share of the patch's
    checkpoint_every: int = Field(50, ge=1)

    @property
    def wanted(self) -> bool:
        return self.steps > 0 or self.weights != "none"

    @model_validator(mode="after")
    def _fits_together(self) -> "Pretrain":
        if self.steps and self.weights != "none":
            raise ValueError(f"weights: {self.weights} takes the place of steps: {self.steps}; set one of them")
        return self


class Classifier(Settings):
    epochs: int = Field(6, ge=1)
    rate: float = Field(1e-3, gt=0)
    synthetic: float = Field(0.0, ge=0, le=0.9)  # share of each batch that is synthetic
    selected: bool = True  # of the synthetic patches, only those that the referee let through
    taught: float = Field(0.0, ge=0, le=0.9)  # share of each batch whose labels are what classify.teachers say
    shortcut: Literal["identity", "projection"] = "projection"  # ResNet-34 only
    weights: Literal["none", "imagenet"] = "none"  # ResNet-50 only: what it starts from; Keras downloads imagenet's
    # gan_resnet only: what joins beside the discriminator's map; imagenet is what the critic starts from
    beside: Literal["none", "critic", "imagenet"] = "none"
    tuned: bool = False  # whether what joins beside learns too, all but its normalisations
    enlarged: int = Field(100, ge=32, le=224)  # EfficientNet-Lite only: side of what it sees, pixels

    @property
    def meets_synthetic(self) -> bool:
        return self.synthetic > 0

    @property
    def more(self) -> float:
        """The share of each batch that is no labelled training patch."""
        return self.synthetic or self.taught

    @model_validator(mode="after")
    def _fits_together(self) -> "Classifier":
        if self.taught and self.meets_synthetic:
            raise ValueError(f"taught: {self.taught} excludes synthetic: {self.synthetic}; set one of them to 0")
        if self.tuned and self.beside == "none":
            raise ValueError("tuned: true, but beside is none; nothing is there to be tuned")
        return self


class Classify(Settings):
    models: dict[ClassifierName, Classifier] = {
        "gan_resnet": Classifier(synthetic=0.1),
        "resnet_table1": Classifier(),
        "resnet50": Classifier(epochs=2),
        "gan_only": Classifier(epochs=3),
    }
    teachers: tuple[ClassifierName, ...] = ()  # of the models; they label the patches of patients on no list
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    batch: int = Field(64, ge=2)
    crop: int | None = Field(None, ge=32)  # side of training crops; central when it scores. The paper: 224 of 256
    loss: Literal["weighted_bce", "bce", "focal"] = "weighted_bce"
    optimizer: Literal["adamw", "adam", "nadam", "sgd", "rmsprop", "lion"] = "adamw"
    weight_decay: float = Field(1e-4, ge=0)
    average: float = Field(0.99, ge=0, lt=1)  # decay of the weights' moving average, which is what scores
    stain_jitter: float = Field(0.15, ge=0)
    colour_jitter: float = Field(0.05, ge=0)

    @model_validator(mode="after")
    def _teachers_teach(self) -> "Classify":
        unfit = [name for name in self.teachers if name not in self.models or self.models[name].taught]
        if unfit:
            raise ValueError(f"teachers: {unfit[0]} is not among the models that learn without teachers")
        if distilled := [
            name
            for name, classifier_settings in self.models.items()
            if classifier_settings.taught and not self.teachers
        ]:
            raise ValueError(f"models.{distilled[0]}.taught: {self.models[distilled[0]].taught}, but teachers is empty")
        return self


class Evaluate(Settings):
    ensemble: tuple[ClassifierName, ...] = ()  # whose log odds are averaged, over all their seeds; empty: none
    views: Literal[1, 2, 4, 8] = 4  # dihedral views averaged at test time
    resamples: int = Field(1000, ge=10)
    confidence: float = Field(0.95, gt=0, lt=1)
    probes: tuple[Seed, ...] = (0, 1, 2)  # draws of the linear probes' training patients; empty: no probes
    explanations: int = Field(96, ge=0)  # test patches whose decision is explained, at most; 0: none
    gan_samples: int = Field(1000, ge=20)  # real and synthetic patches compared, half of each class


class LearningCurve(Settings):
    """The stage `learning_curve`: shares of the training patients, times arms, times seeds."""

    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.01, 0.05, 0.1, 0.25, 1.0)
    arms: tuple[Literal["real", "classic", "gan", "selected", "translation"], ...] = (
        "real", "classic", "gan", "selected", "translation",
    )  # fmt: skip
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)
    steps: int = Field(300, ge=1)  # of every classifier
    checks: int = Field(6, ge=1)  # looks at the validation patients on the way; the best one is kept
    synthetic: float = Field(0.5, gt=0, le=0.9)  # share of each batch that an arm adds
    made: int = Field(2048, ge=2)  # synthetic patches sampled, half of each class
    gan_steps: int = Field(1000, ge=1)
    translate_steps: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> "LearningCurve":
        if self.steps % self.checks:
            raise ValueError(f"steps: {self.steps} is no multiple of checks: {self.checks}")
        return self


class Factors(Settings):
    """The stage `factors`: one choice changed at a time, each against the experiment as it is."""

    network: ClassifierName = "resnet_table1"
    epochs: int = Field(3, ge=1)
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1)
    activation: Literal["relu", "leaky_relu", "gelu", "silu"] = "relu"
    normalisation: Literal["batch", "group"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)  # before the binary head
    levels: dict[str, dict[str, dict[str, Any]]] = {}  # factor: level: {key.of.the.experiment: value}

    @property
    def networks(self) -> set[str]:
        """What its trainings train."""
        changes = [changes for choices in self.levels.values() for changes in choices.values()]
        return {self.network} | {change["factors.network"] for change in changes if "factors.network" in change}


class Folds(Settings):
    """The stage `folds`: cross-validation over `data.folds` folds, by patients and, to compare, by patches."""

    networks: tuple[ClassifierName, ...] = ()  # none that met patients of every fold before, such as the GAN's
    epochs: int = Field(3, ge=1)


class Report(Settings):
    title: str | None = None
    examples: int = Field(8, ge=2, le=16)


class Experiment(Settings):
    """One experiment. Every stage reads its own part and the run-wide keys at the end."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    data: Data
    preprocess: Preprocess = Preprocess()
    gan: Gan = Gan()
    translate: Translate = Translate()
    features: Features = Features()
    pretrain: Pretrain = Pretrain()
    classify: Classify = Classify()
    evaluate: Evaluate = Evaluate()
    learning_curve: LearningCurve = LearningCurve()
    factors: Factors = Factors()
    folds: Folds = Folds()
    report: Report = Report()
    seed: int = Field(0, ge=0)
    profile: Literal["repro", "fast"] = "fast"
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    xla: Switch = "auto"
    distribute: Switch = "auto"  # auto: over the workers of TF_CONFIG, or over the GPUs where there are several

    @property
    def proposed(self) -> str:
        """The classifier that others are held against. Not the first one: a manifest sorts its keys."""
        return "gan_resnet" if "gan_resnet" in self.classify.models else min(self.classify.models)

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The classifiers that saw patches of patients on no list, without their labels."""
        pretrained_names = (
            {"simclr"} if self.pretrain.weights == "shipped" or self.pretrain.patients == "all" else set()
        )
        return tuple(
            name
            for name, classifier_settings in self.classify.models.items()
            if classifier_settings.taught or name in pretrained_names
        )

    @property
    def members(self) -> tuple[str, ...]:
        """The classifiers whose joint decision is refined by neighbours and exported."""
        return self.evaluate.ensemble or (self.proposed,)

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if self.data.protocol in ("official", "extended") and not (
            self.data.lists or self.data.name in ("idc", "patch_camelyon")
        ):
            raise ValueError(
                f"data.protocol: {self.data.protocol} needs patient lists, and none are known for this data set; "
                "set data.lists to a folder with train.txt, validation.txt and test.txt, or data.protocol to kfold"
            )
        if self.data.fold >= self.data.folds:
            raise ValueError(f"data.fold: {self.data.fold} is not below data.folds: {self.data.folds}")
        if len(set(self.classify.seeds)) < len(self.classify.seeds):
            raise ValueError(f"classify.seeds: {list(self.classify.seeds)} names a seed twice")
        if self.classify.crop and self.classify.crop > self.data.size:
            raise ValueError(f"classify.crop: {self.classify.crop} is larger than data.size: {self.data.size}")
        if self.factors.levels and self.factors.network not in self.classify.models:
            raise ValueError(f"factors.network: {self.factors.network} is not among classify.models")
        if self.factors.levels and self.classify.models[self.factors.network].taught:
            raise ValueError(f"factors.network: {self.factors.network} needs teachers; name one that learns without")
        if unknown := set(self.evaluate.ensemble) - set(self.classify.models):
            raise ValueError(f"evaluate.ensemble: {sorted(unknown)[0]} is not among classify.models")
        blind = [
            name
            for name, classifier_settings in self.classify.models.items()
            if classifier_settings.beside == "critic" and not self.gan.critic
        ]
        if blind:
            raise ValueError(
                f"classify.models.{blind[0]}.beside: critic, but gan.critic is 0; there will be none to join"
            )
        if "simclr" in {*self.classify.models, *self.folds.networks} and not self.pretrain.wanted:
            raise ValueError("simclr starts from what pretrain leaves; set pretrain.steps or pretrain.weights")
        if with_discriminator := [name for name in self.folds.networks if name.startswith("gan_")]:
            raise ValueError(
                f"folds.networks: {with_discriminator[0]} holds a discriminator that met patients of every fold"
            )
        pupils = {name for name, classifier_settings in self.classify.models.items() if classifier_settings.taught}
        if distilled := pupils & set(self.folds.networks):
            raise ValueError(f"folds.networks: {min(distilled)} needs teachers; name one that learns without")
        return self


def available() -> list[str]:
    """Names of the experiments in pipelines/."""
    return sorted(path.stem for path in PIPELINES.glob("*.yaml"))


def load(name: str, overrides: tuple[str, ...] = (), data_dir: str | None = None) -> Experiment:
    """Read an experiment.

    Args:
        name: string. An experiment in `pipelines/`, or a path to a YAML file.
        overrides: tuple of strings. `key.subkey=value` pairs, values written as YAML; null takes back what the file
            sets.
        data_dir: string. Folders or archives joined by the platform's path separator, in place of `data.dir`.

    Raises:
        InputError: an unknown experiment, a file that is not YAML, an unknown key, a value of the wrong kind, or a
            setting that nothing reads.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PIPELINES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(available()) or "none; run from the repository's top folder"
        raise InputError(f"No experiment {name!r}: {path} does not exist. Choose one of: {known}.")
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Mend that line.") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} holds {tree!r} where settings belong. Start with `name:` and `data:`.")
    if tree.get("name") != path.stem:
        raise InputError(
            f"{path}: name is {tree.get('name')!r}; its runs would mix with that experiment's. Name it {path.stem!r}."
        )
    for pair in overrides:
        _override(tree, pair)
    if data_dir and isinstance(tree.get("data"), dict):
        tree["data"]["dir"] = [part for part in data_dir.split(os.pathsep) if part]
    try:
        experiment = Experiment.model_validate(tree)
    except ValidationError as error:
        raise InputError(explain(path, error)) from error
    check_effect(experiment, str(path))
    return experiment


def explain(path: Path | str, error: ValidationError) -> str:
    """The first fault in one sentence, with the keys that are known there."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "settings"
    others_text = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] != "extra_forbidden":
        reason = fault["msg"].removeprefix("Value error, ")
        value = "" if fault["type"] == "value_error" else f" Received: {fault['input']!r}."
        return f"{path}: {key}: {reason}.{value}{others_text}"
    model: Any = Experiment
    for part in fault["loc"][:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else Classifier
    known = ", ".join(getattr(model, "model_fields", {}))
    return f"{path}: unknown key {key} (value {fault['input']!r}). Known there: {known}.{others_text}"


def _override(tree: dict[str, Any], pair: str) -> None:
    keys, equals, value = pair.partition("=")
    if not equals:
        raise InputError(f"{pair!r} is no setting. Write key.subkey=value, such as gan.steps=500.")
    *parents, last = keys.strip().split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InputError(f"{pair!r}: {key} has no settings of its own. Write key.subkey=value.")
    try:
        setting = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{pair!r}: not a YAML value. Write lists without spaces: classify.seeds=[0,1].") from error
    if setting is None and last in tree:
        del tree[last]
    else:
        tree[last] = setting
