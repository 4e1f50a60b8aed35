"""The stages, what each reads and writes: the map of the program.

    images --preprocess--> uint8 store + index (patient, x, y, label, role) + audit + split
           --gan---------> generator (averaged), discriminator, critic, sample grids, training log
           --translate---> translators benign <-> malignant, training log; empty where translate.steps is 0
           --features----> discriminator maps by block, referee, synthetic patches and which are selected, steering,
                           density, ordering
           --pretrain----> EfficientNet-Lite0 that has learnt from patches without labels; empty unless pretrain.steps
                           or pretrain.weights asks for it
           --classify----> a trained network a classifier and seed, training logs
           --evaluate----> probabilities, metrics with intervals, thresholds, GAN scores, probes, counterfactuals,
                           leak audit
           --factors-----> what each choice is worth, one changed at a time
           --folds-------> cross-validation of whole trainings
           --learning_curve-> what synthetic patches are worth where patients are few; hours long, as the two stages
                           before it, and run only when asked for
           --report------> figures, tables, report.html, results.json

A stage reads files that the stages before it wrote, never their objects, and writes into runs/<experiment>/<stage>/;
the report, which anyone may render again at any time, writes into reports/<experiment>/.
DVC, doit and Snakemake were weighed: DVC wants a Git repository and a second cache of every array, Snakemake a
language and some forty packages, doit hashes files but knows no settings and no unfinished stage that resumes.
What is left for us is the functions behind STAGES, bcgan/execution.py and bcgan/runs.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bcgan import machine, runs
from bcgan.experiment import APART, TRAINING, UNSEEN, Data, Experiment
from bcgan.progress import log
from bcgan.slides.files import fingerprint


@dataclass(frozen=True)
class Stage:
    """settings: the experiment's keys that change what comes out. reads: patterns of the files that go in, each
    `<stage>/<file>`: a stage runs again when one of these changes, and only then. trains: for a stage of trainings of
    its own, those of `classify.models` that it trains; the others, and how they are judged, are nothing to it."""

    name: str
    settings: tuple[str, ...]
    reads: tuple[str, ...]
    run: Callable[[Experiment, Path], None]
    shared: bool = False  # whether all workers of a cluster take part
    memory_setting: str = "classify.batch"  # the setting to lower where the memory does not suffice
    trains: Callable[[Experiment], Iterable[str]] | None = None


def preprocess(experiment: Experiment, root: Path) -> None:
    from bcgan.preprocess import store

    store.build(experiment, root / "preprocess")


def gan(experiment: Experiment, root: Path) -> None:
    xla = machine.start(experiment)
    from bcgan import distribute
    from bcgan.gan.train import train
    from bcgan.preprocess import store

    images, labels = store.of_role(store.load(root / "preprocess"), "train")
    with distribute.scope(experiment):
        train(images, labels, experiment.gan, experiment.seed, root / "gan", xla and distribute.replicas() == 1)


def translate(experiment: Experiment, root: Path) -> None:
    if not experiment.translate.steps:
        log.info("translate: left out, translate.steps is 0")
        return
    xla = machine.start(experiment)
    from bcgan.gan.translation import train
    from bcgan.preprocess import store

    images, labels = store.of_role(store.load(root / "preprocess"), "train")
    train(images, labels, experiment.translate, experiment.seed, root / "translate", xla)


def features(experiment: Experiment, root: Path) -> None:
    xla = machine.start(experiment)
    from functools import partial

    from bcgan.classify import referee
    from bcgan.gan import selection
    from bcgan.gan.features import export
    from bcgan.preprocess import store

    folder, settings = root / "features", experiment.features
    patches = store.load(root / "preprocess")
    real, validation = (referee.Patches(*store.of_role(patches, role)) for role in ("train", "validation"))
    as_many = referee.as_many(real, settings.synthetic, experiment.seed)
    steps, path = settings.referee.steps, folder / "referee.keras"
    network = referee.trained(as_many, validation, steps, experiment.seed, path, xla)
    chosen = referee.selector(network, as_many, settings.referee)
    selection.save(chosen, folder / "selector.npz")
    select = partial(referee.select, network, chosen)
    images = store.at_size(patches.images, store.GAN_SIZE)
    export(images, patches.index, root / "gan", select, settings, experiment.seed, folder)


def pretrain(experiment: Experiment, root: Path) -> None:
    if not experiment.pretrain.wanted:
        log.info("pretrain: left out, pretrain.steps is 0")
        return
    xla = machine.start(experiment)
    from bcgan.classify import pretraining
    from bcgan.preprocess import store

    pretraining.pretrain(experiment, store.load(root / "preprocess"), root / "pretrain", xla)


def classify(experiment: Experiment, root: Path) -> None:
    xla = machine.start(experiment)
    import keras

    from bcgan import distribute
    from bcgan.classify import kept, teaching
    from bcgan.classify.train import Patches, train
    from bcgan.models.classifier import of_run
    from bcgan.preprocess import store

    folder, settings = root / "classify", experiment.classify
    patches = store.load(root / "preprocess")
    if any(classifier_settings.taught for classifier_settings in settings.models.values()):
        teaching.unlisted(experiment, patches)  # before the teachers are trained in vain
    labels = patches.index["label"].to_numpy()
    real, validation = (
        Patches(patches.images[rows], labels[rows]) for rows in (patches.rows("train"), patches.rows("validation"))
    )
    synthetic = {
        selected: Patches(*store.load_synthetic(root / "features", experiment.data.size, selected))
        for selected in {
            classifier_settings.selected
            for classifier_settings in settings.models.values()
            if classifier_settings.meets_synthetic
        }
    }
    size, distilled = settings.crop or experiment.data.size, None
    for name, classifier_settings in sorted(
        settings.models.items(), key=lambda model: model[1].taught > 0
    ):  # teachers first
        for seed in settings.seeds:
            path = folder / f"{name}-seed{seed}.keras"
            if path.exists():
                log.info("classify: %s is trained already", path.stem)
                continue
            key = kept.key(experiment, name, seed, folder)
            # The other workers of a cluster would train what this one takes over.
            if not machine.cluster() and kept.take_over(path, key):
                log.info("classify: %s stays: nothing that it depends on changed", path.stem)
                continue
            extra = synthetic.get(classifier_settings.selected) if classifier_settings.meets_synthetic else None
            if classifier_settings.taught:
                distilled = distilled or teaching.taught(experiment, patches, folder)
                extra = distilled
            keras.utils.set_random_seed(seed)
            with distribute.scope(experiment):
                network = of_run(name, root, size, classifier_settings)
                alone = distribute.replicas() == 1
                train(network, real, extra, validation, settings, classifier_settings, seed, path, xla and alone)
            kept.mark(path, key)


def evaluate(experiment: Experiment, root: Path) -> None:
    xla = machine.start(experiment)
    from bcgan.evaluate import explanations, probes, score, synthetic, translations
    from bcgan.preprocess import store

    patches, folder = store.load(root / "preprocess"), root / "evaluate"
    scores = synthetic.evaluate(experiment, patches, root / "features", folder, xla)
    synthetic.log_scores(scores)
    runs.write_json(folder / "gan_scores.json", scores)
    score.evaluate(experiment, patches, root, folder)
    if experiment.evaluate.explanations:
        explanations.evaluate(experiment, patches, root, folder)
    if experiment.evaluate.probes:
        probes.evaluate(experiment, patches, root, folder)
    if experiment.translate.steps:
        translations.evaluate(experiment, patches, root, folder)


def factors(experiment: Experiment, root: Path) -> None:
    if not experiment.factors.levels:
        log.info("factors: left out, factors.levels is empty")
        return
    machine.start(experiment)
    from bcgan.evaluate import factors

    factors.evaluate(experiment, root, root / "factors")


def folds(experiment: Experiment, root: Path) -> None:
    if not experiment.folds.networks:
        log.info("folds: left out, folds.networks is empty")
        return
    xla = machine.start(experiment)
    from bcgan.evaluate import folds
    from bcgan.preprocess import store

    folds.evaluate(experiment, store.load(root / "preprocess"), root / "folds", xla)


def learning_curve(experiment: Experiment, root: Path) -> None:
    xla = machine.start(experiment)
    from bcgan.evaluate import learning_curve
    from bcgan.preprocess import store

    learning_curve.evaluate(experiment, store.load(root / "preprocess"), root / "learning_curve", xla)


STORE = ("preprocess/patches.npy", "preprocess/index.csv")
JUDGES = ("gan/discriminator.keras", "gan/critic.keras")
SYNTHETIC, PRETRAINED = "features/synthetic.npz", "pretrain/*.keras"
STAGES = (
    Stage("preprocess", ("data", "preprocess", "seed"), (), preprocess, memory_setting="data.size"),
    Stage("gan", ("gan", *TRAINING), STORE, gan, shared=True, memory_setting="gan.batch"),
    Stage("translate", ("translate", *TRAINING), STORE, translate, memory_setting="translate.batch"),
    Stage("features", ("features", *TRAINING), (*STORE, "gan/*.keras"), features, memory_setting="features.synthetic"),
    Stage("pretrain", ("pretrain", *TRAINING), STORE, pretrain, memory_setting="pretrain.batch"),
    Stage("classify", ("classify", *TRAINING), (*STORE, *JUDGES, SYNTHETIC, PRETRAINED), classify, shared=True),
    Stage(
        "evaluate",
        ("evaluate", "classify", "translate", "features", *TRAINING),
        (
            *STORE,
            "preprocess/split.json",
            *JUDGES,
            "translate/*.keras",
            "features/referee.keras",
            "features/properties.csv",
            "features/*.npz",
            "pretrain/seen.json",
            "classify/*.keras",
        ),
        evaluate,
        memory_setting="evaluate.gan_samples",
    ),
    Stage(
        "factors",
        ("factors", "data", "preprocess", "classify", "evaluate", *TRAINING),
        (*STORE, *JUDGES, SYNTHETIC, PRETRAINED),
        factors,
        trains=lambda experiment: experiment.factors.networks,
    ),
    Stage(
        "folds",
        ("folds", "data", "classify", "evaluate", *TRAINING),
        (*STORE, PRETRAINED),
        folds,
        trains=lambda experiment: experiment.folds.networks,
    ),
    Stage(
        "learning_curve",
        ("learning_curve", "gan", "translate", "features", "evaluate", *TRAINING),
        STORE,
        learning_curve,
        memory_setting="gan.batch",
        trains=lambda _: (),
    ),
)
COMPARED_BY = ("views", "resamples", "confidence")  # what a stage of trainings of its own reads of `evaluate`
NAMES = tuple(stage.name for stage in STAGES)
LAST = "evaluate"  # of the stages that run unless others are asked for, and that a report needs


def up_to(until: str = LAST) -> tuple[Stage, ...]:
    """The stages up to and with one; unless another is said, those that every run has."""
    return STAGES[: NAMES.index(until) + 1]


def key(stage: Stage, experiment: Experiment, root: Path) -> tuple[str, dict, dict[str, str]]:
    """The stage's key, and the settings and inputs that make it."""
    settings = settings_of(stage, experiment)
    if not stage.reads:
        inputs = _raw_inputs(experiment.data)
    else:
        inputs = {
            f"{name}/{output}": digest
            for name in NAMES[: NAMES.index(stage.name)]
            if (manifest := root / name / runs.MANIFEST).exists()
            for output, digest in runs.read_json(manifest)["outputs"].items()
            if any(fnmatch(f"{name}/{output}", pattern) for pattern in stage.reads)
        }
    return runs.key_of(stage.name, settings, inputs), settings, inputs


def settings_of(stage: Stage, experiment: Experiment) -> dict[str, Any]:
    """The settings that the stage's outputs depend on."""
    settings = experiment.model_dump(
        mode="json", include=set(stage.settings), exclude=APART if stage.trains else UNSEEN
    )
    if stage.trains:
        settings["evaluate"] = {key: settings["evaluate"][key] for key in COMPARED_BY}
    if stage.trains and "classify" in settings:
        trained = set(stage.trains(experiment))
        models = settings["classify"]["models"]
        settings["classify"]["models"] = {name: model for name, model in models.items() if name in trained}
    return settings


def _raw_inputs(data: Data) -> dict[str, str]:
    """What preprocess reads from outside: data, unless tensorflow-datasets keeps them by version, lists and labels."""
    places = () if data.name in ("histology_phantom", "patch_camelyon") else data.dir
    files = {"lists": data.lists, "labels": data.labels}
    return {"data": fingerprint(places)} | {name: fingerprint((path,) if path else ()) for name, path in files.items()}
