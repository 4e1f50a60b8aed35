"""The stages of an experiment, and what each reads and writes.

    images --preprocess--> uint8 store + index (patient, x, y, label, role) + audit + split
           --gan---------> generator (moving average), discriminator, projected discriminator, sample grids,
                           training log
           --translate---> translators between two classes, training log; empty if translate.steps is 0
           --features----> discriminator maps by block, reference CNN, synthetic patches and which of them the quality
                           filter accepts, directions that control them, nuclear density, patches sorted by it
           --pretrain----> EfficientNet-Lite0 pretrained without labels; empty unless pretrain.steps or pretrain.weights
           --classify----> a trained network for each classifier and seed, training logs
           --evaluate----> probabilities, metrics with intervals, thresholds, GAN scores, probes, counterfactuals,
                           leak audit
           --report------> figures, tables, report.html, results.json

    hours long, and run only with `make ablation`:
           --ablation----> what each choice changes, one at a time
           --cross_validation-> cross-validation of whole trainings
           --learning_curve-> what synthetic patches add when there are few training patients

A stage reads files that the stages before it wrote, never their objects, and writes runs/<experiment>/<stage>/. The
report can be rendered again at any time; it writes reports/<experiment>/. `bcgan/execution.py` decides what runs, and
`bcgan/artifacts.py` stores what was built.
DVC, doit and Snakemake were considered. DVC needs a Git repository and a second cache of every array, Snakemake a
language and some forty packages, and doit has neither settings nor unfinished stages that resume.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bcgan import artifacts, machine, runs
from bcgan.artifacts import StageRun
from bcgan.errors import InputError
from bcgan.experiment import SET_BY_STAGE, TRAINING, WITHOUT_EFFECT_ON_OUTPUTS, Experiment, subset
from bcgan.progress import log
from bcgan.settings import SHIPPED_SIMCLR, Data
from bcgan.slides.fingerprints import fingerprint


@dataclass(frozen=True)
class Stage:
    """A stage: its name, what its outputs depend on, and the function that runs it."""

    name: str
    settings: tuple[str, ...]  # keys of the experiment that its outputs depend on
    inputs: tuple[str, ...]  # patterns `<stage>/<file>`; the stage runs again when one of these files changes
    run: Callable[[StageRun], None]
    distributed: bool = False  # whether all workers of a cluster take part
    memory_setting: str = "classify.batch_size"  # the setting to lower if memory runs out
    # The classifiers that the stage trains itself; settings of the others do not affect its key.
    trained_models: Callable[[Experiment], Iterable[str]] | None = None
    # Files outside of the run that it reads, by a name.
    outside_files: Callable[[Experiment], dict[str, Path]] = lambda _: {}


def preprocess(run: StageRun) -> None:
    """Check, enhance and store the patches, and split the patients."""
    from bcgan.preprocess import store

    store.build(run.experiment, run.folder)


def gan(run: StageRun) -> None:
    """Train the GAN on the training patches."""
    experiment = run.experiment
    xla = machine.configure(experiment)
    from bcgan import distribute
    from bcgan.gan.train import train
    from bcgan.preprocess import store

    images, labels = store.load_role(store.load(run.root / "preprocess"), "train")
    with distribute.scope(experiment):
        names, xla = experiment.data.class_names, xla and distribute.replicas() == 1
        train(images, labels, experiment.gan, experiment.seed, run.folder, xla, names)


def translate(run: StageRun) -> None:
    """Train the translators between the classes."""
    experiment = run.experiment
    if not experiment.translate.steps:
        log.info("translate: left out, translate.steps is 0")
        return
    xla = machine.configure(experiment)
    from bcgan.gan.translation import train
    from bcgan.preprocess import store

    patches, pair = store.load(run.root / "preprocess"), experiment.translated_labels
    images, labels = store.load_pair(patches, "train", pair)
    names = tuple(experiment.data.class_names[label] for label in pair)
    train(images, labels, experiment.translate, experiment.seed, run.folder, xla, names)


def features(run: StageRun) -> None:
    """Save the discriminator's feature maps and synthetic patches, and fit the quality filter."""
    experiment, settings = run.experiment, run.experiment.features
    xla = machine.configure(experiment)

    from bcgan.classify import reference_cnn
    from bcgan.gan import quality_filter
    from bcgan.gan.features import export
    from bcgan.preprocess import store

    patches = store.load(run.root / "preprocess")
    real, validation = (reference_cnn.Patches(*store.load_role(patches, role)) for role in ("train", "validation"))
    matched = reference_cnn.sample_matching(real, settings.num_synthetic, experiment.seed)
    steps, path = settings.quality_filter.steps, run.folder / "reference_cnn.keras"
    network = reference_cnn.load_or_train(matched, validation, steps, experiment.seed, path, xla)
    fitted_filter = reference_cnn.fit_quality_filter(network, matched, settings.quality_filter)
    quality_filter.save(fitted_filter, run.folder / "quality_filter.npz")
    select = reference_cnn.make_filter_fn(network, fitted_filter)
    names = experiment.data.class_names
    export(patches.images, patches.index, run.root / "gan", select, settings, experiment.seed, run.folder, names)


def pretrain(run: StageRun) -> None:
    """Pretrain EfficientNet-Lite0 by SimCLR, or load the bundled weights."""
    experiment = run.experiment
    if not experiment.pretrain.is_enabled:
        log.info("pretrain: left out, pretrain.steps is 0")
        return
    xla = machine.configure(experiment)
    from bcgan.classify import pretraining
    from bcgan.preprocess import store

    pretraining.pretrain(experiment, store.load(run.root / "preprocess"), run.folder, xla)


def classify(run: StageRun) -> None:
    """Train every classifier with every seed."""
    xla = machine.configure(run.experiment)
    from bcgan.classify import trainings

    trainings.train_all(run, xla)


def evaluate(run: StageRun) -> None:
    """Measure the classifiers, the GAN and the translators on held-out patients."""
    experiment, root, folder = run.experiment, run.root, run.folder
    xla = machine.configure(experiment)
    from bcgan.evaluate import explanations, probes, score, synthetic, translations
    from bcgan.preprocess import store

    patches = store.load(root / "preprocess")
    scores = synthetic.evaluate(experiment, patches, root / "features", folder, xla)
    synthetic.log_scores(scores)
    runs.write_json(folder / "gan_scores.json", scores)
    score.evaluate(run, patches)
    if experiment.evaluate.num_explained_patches:
        explanations.evaluate(experiment, patches, root, folder)
    if experiment.evaluate.probe_seeds:
        probes.evaluate(experiment, patches, root, folder)
    if experiment.translate.steps:
        translations.evaluate(experiment, patches, root, folder)


def ablation(run: StageRun) -> None:
    """Train and compare the variants of one classifier."""
    if not run.experiment.ablation.variants:
        log.info("ablation: left out, ablation.variants is empty")
        return
    machine.configure(run.experiment)
    from bcgan.evaluate import ablation

    ablation.evaluate(run)


def cross_validation(run: StageRun) -> None:
    """Train and test classifiers over folds of patients, and of patches."""
    if not run.experiment.cross_validation.models:
        log.info("cross_validation: left out, cross_validation.models is empty")
        return
    xla = machine.configure(run.experiment)
    from bcgan.evaluate import cross_validation
    from bcgan.preprocess import store

    cross_validation.evaluate(run, store.load(run.root / "preprocess"), xla)


def learning_curve(run: StageRun) -> None:
    """Measure what synthetic patches add for small numbers of training patients."""
    xla = machine.configure(run.experiment)
    from bcgan.evaluate import learning_curve
    from bcgan.preprocess import store

    learning_curve.evaluate(run, store.load(run.root / "preprocess"), xla)


def shipped_weights(experiment: Experiment) -> dict[str, Path]:
    """Return the package's SimCLR files if the experiment takes its weights from them."""
    names = ("simclr.keras", "pretraining_patients.json") if experiment.pretrain.weights == "shipped" else ()
    return {f"bcgan/{name}": SHIPPED_SIMCLR / name for name in names}


def inception_graph(experiment: Experiment) -> dict[str, Path]:
    """Return the user's file of the network of the published FID, if there is one."""
    path = experiment.evaluate.inception_graph
    return {"inception_graph": path} if path else {}


STORE_FILES = ("preprocess/patches.npy", "preprocess/index.csv")
DISCRIMINATORS = ("gan/discriminator.keras", "gan/projected_discriminator.keras")
SYNTHETIC, PRETRAINED = "features/synthetic.npz", "pretrain/*.keras"
STAGES = (
    Stage("preprocess", ("data", "preprocess", "seed"), (), preprocess, memory_setting="data.size"),
    Stage("gan", ("gan", *TRAINING), STORE_FILES, gan, distributed=True, memory_setting="gan.batch_size"),
    Stage("translate", ("translate", *TRAINING), STORE_FILES, translate, memory_setting="translate.batch_size"),
    Stage(
        "features", ("features", *TRAINING), (*STORE_FILES, "gan/*.keras"), features,
        memory_setting="features.num_synthetic",
    ),
    Stage(
        "pretrain", ("pretrain", *TRAINING), STORE_FILES, pretrain, memory_setting="pretrain.batch_size",
        outside_files=shipped_weights,
    ),
    Stage(
        "classify", ("classify", *TRAINING), (*STORE_FILES, *DISCRIMINATORS, SYNTHETIC, PRETRAINED), classify,
        distributed=True,
    ),
    Stage(
        "evaluate", ("evaluate", "classify", "translate", "features", *TRAINING),
        (
            *STORE_FILES, "preprocess/split.json", *DISCRIMINATORS, "translate/*.keras", "features/reference_cnn.keras",
            "features/properties.csv", "features/*.npz", "pretrain/pretraining_patients.json", "classify/*.keras",
        ),
        evaluate, memory_setting="evaluate.num_gan_samples", outside_files=inception_graph,
    ),
    Stage(
        "ablation", ("ablation", "data", "preprocess", "classify", "evaluate", *TRAINING),
        (*STORE_FILES, *DISCRIMINATORS, SYNTHETIC, PRETRAINED), ablation,
        trained_models=lambda experiment: experiment.ablation.models,
    ),
    Stage(
        "cross_validation", ("cross_validation", "data", "classify", "evaluate", *TRAINING),
        (*STORE_FILES, PRETRAINED), cross_validation,
        trained_models=lambda experiment: experiment.cross_validation.models,
    ),
    Stage(
        "learning_curve", ("learning_curve", "gan", "features", "evaluate", *TRAINING), STORE_FILES,
        learning_curve, memory_setting="gan.batch_size", trained_models=lambda _: (),
    ),
)  # fmt: skip
# The settings of `evaluate` that are read by stages with `trained_models`.
EVALUATE_SETTINGS_OF_TRAINED_MODELS = ("tta_views", "bootstrap_samples", "confidence_level")
NAMING_CLASSES = ("gan", "translate", "features", "learning_curve")  # stages whose files name the classes
NAMES = tuple(stage.name for stage in STAGES)
DEFAULT_LAST_STAGE = "evaluate"  # without --until; a report needs the stages up to here


def stages_until(until: str = DEFAULT_LAST_STAGE) -> tuple[Stage, ...]:
    """Return the stages up to and including `until`; by default, those that every run has."""
    return STAGES[: NAMES.index(until) + 1]


def stage_key(stage: Stage, experiment: Experiment, root: Path) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return the stage's cache key, and the settings and inputs that it is made of.

    Returns:
        The key as `artifacts.make_key` makes it; the settings as nested dicts; and the SHA-256 of each file that the
        stage reads, by `<stage>/<file>` or, outside of the run, the names of `outside_files`; of the data set for the
        first stage.

    Raises:
        InputError: If a file outside of the run is missing.
    """
    settings = stage_settings(stage, experiment)
    if not stage.inputs:
        inputs = _hash_data(experiment.data)
    else:
        outputs = artifacts.list_outputs(root, NAMES[: NAMES.index(stage.name)])
        inputs = {
            file: digest for file, digest in outputs.items() if any(fnmatch(file, pattern) for pattern in stage.inputs)
        }
    for name, path in stage.outside_files(experiment).items():
        if not path.is_file():
            raise InputError(f"{name}: {path} is no file. Name another one, or leave the setting out.")
        inputs[name] = runs.hash_file(path)
    return artifacts.make_key(stage.name, settings, inputs), settings, inputs


def stage_inputs(name: str, experiment: Experiment, root: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that a stage reads, by `<stage>/<file>`."""
    return stage_key(STAGES[NAMES.index(name)], experiment, root)[2]


def stage_settings(stage: Stage, experiment: Experiment) -> dict[str, Any]:
    """Return the settings that the stage's outputs depend on, as nested dicts."""
    exclude = SET_BY_STAGE if stage.trained_models else WITHOUT_EFFECT_ON_OUTPUTS
    settings = subset(experiment, stage.settings, exclude)
    if stage.name in NAMING_CLASSES and experiment.data.classes:
        settings |= subset(experiment, ("data.classes",))
    if stage.trained_models:
        read = EVALUATE_SETTINGS_OF_TRAINED_MODELS
        if experiment.classify.crop_size:
            read = (*read, "test_crops")
        settings["evaluate"] = {name: settings["evaluate"][name] for name in read}
    if stage.trained_models and "classify" in settings:
        trained = set(stage.trained_models(experiment))
        models = settings["classify"]["models"]
        # The stage has its own seeds.
        settings["classify"]["models"] = {
            name: {key: value for key, value in model.items() if key != "seeds"}
            for name, model in models.items() if name in trained
        }  # fmt: skip
    return settings


def _hash_data(data: Data) -> dict[str, str]:
    """Return hashes of what `preprocess` reads, by data, lists and labels; for the phantom, the version of its tissue.

    Images that tensorflow-datasets downloads are not hashed.
    """
    paths = () if data.name in ("histology_phantom", "patch_camelyon") else data.dir
    files = {"lists": data.split_dir, "labels": data.labels}
    if data.name == "histology_phantom":
        from bcgan.data.histology_phantom.canvas import VERSION

        return {"tissue": VERSION}
    return {"data": fingerprint(paths)} | {name: fingerprint((path,) if path else ()) for name, path in files.items()}
