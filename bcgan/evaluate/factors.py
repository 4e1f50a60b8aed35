"""What each choice is worth: one factor changed at a time, several seeds, paired with the experiment as it is.

The settings `factors.levels` name the choices, each a few keys of the experiment with other values. Every training is
kept, so that a kill costs one, and a level more its own; one that diverges is reported and the others are kept.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bcgan import machine, progress, runs
from bcgan.classify.kept import read_by
from bcgan.classify.train import Patches
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import intervals, trials
from bcgan.experiment import TRAINING, Classifier, Experiment
from bcgan.models.classifier import of_run
from bcgan.models.variant import Variant, vary
from bcgan.preprocess import store
from bcgan.variation import differences, varied

BASELINE = "as it is"
METRICS = ("roc_auc", "balanced_accuracy", "f1")
# What a training here depends on: the networks and patches of the GAN are the run's own.
READ = ("data", "preprocess", "classify", "factors", *TRAINING, "evaluate.views")
FROM_NOTHING = ("resnet_table1", "resnet34", "cnn")  # networks whose weights are drawn


class Level(NamedTuple):
    """One choice: the factor, the level's name, and the experiment with that choice made."""

    factor: str
    name: str
    experiment: Experiment

    @property
    def folder(self) -> str:
        return f"{self.factor}-{self.name}".replace("/", "_").replace(" ", "_")


def levels(experiment: Experiment) -> list[Level]:
    """The experiment as it is, then every level of every factor.

    Raises:
        InputError: a level changes an unknown key or one that no training here reads, gives one a value of the wrong
            kind, varies a network that starts from weights, or has a name like another's.
    """
    variants = [Level(BASELINE, "", experiment)]
    for factor, choices in experiment.factors.levels.items():
        for name, changes in choices.items():
            place = f"factors.levels.{factor}.{name}"
            variants.append(Level(factor, name, varied(experiment, changes, place)))
            _refuse_what_changes_nothing(experiment, variants[-1].experiment, place)
            if variants[-1].folder in {variant.folder for variant in variants[:-1]}:
                raise InputError(f"{place}: its files would be another level's as well. Give it another name.")
            factors = variants[-1].experiment.factors
            if _variant(variants[-1]) != Variant() and factors.network not in FROM_NOTHING:
                raise InputError(
                    f"{place}: {factors.network} starts from weights. Vary one of {', '.join(FROM_NOTHING)}."
                )
    return variants


def _refuse_what_changes_nothing(experiment: Experiment, level: Experiment, place: str) -> None:
    """A level whose trainings are those of the experiment as it is would be told as a difference of nothing."""
    changed = [change.partition("=")[0] for change in differences(experiment, level)]
    unread = [key for key in changed if not key.startswith(READ)]
    if unread or _key(Level("", "", level), 0, None) == _key(Level("", "", experiment), 0, None):
        reason = f"no training of this stage reads {unread[0]}" if unread else "it changes no training of this stage"
        raise InputError(f"{place}: {reason}. Change keys that begin with {', '.join(READ)}; or leave the level out.")


def evaluate(experiment: Experiment, root: Path, folder: Path) -> None:
    """Write <level>/seed<k>.npz (probabilities of validation and test patches), then factors.json."""
    planned = levels(experiment)
    for level in planned:
        machine.start(level.experiment)  # what this machine lacks is told before anything is trained
    with progress.bar(len(planned) * len(experiment.factors.seeds), "factors", "training") as bar:
        for level in planned:
            for seed in experiment.factors.seeds:
                path, key = folder / level.folder / f"seed{seed}.npz", _key(level, seed, folder)
                path.parent.mkdir(exist_ok=True)
                try:
                    trials.once(path, folder, key, partial(_run, level, seed, root, path, key))
                except WorkError as error:
                    progress.log.warning("factors: %s %s is left out: %s", level.factor, level.name, error)
                bar.update()
    runs.write_json(folder / "factors.json", summarise(experiment, planned, folder))


def summarise(experiment: Experiment, planned: list[Level], folder: Path) -> dict[str, Any]:
    """{network, epochs, levels: [{factor, level, seeds, figures: {metric: {value, low, high}}, differences: {metric:
    {value, low, high, p}}}]}; differences from the experiment as it is, on the same test patches and seeds, None where
    there is no such training."""
    settings, rows = experiment.evaluate, []
    seeds = experiment.factors.seeds
    baseline = _trained(planned[0], seeds, folder)
    for level in planned:
        if not (trained := _trained(level, seeds, folder)):
            continue
        first = next(iter(trained.values()))
        patients = first["test_patients"]
        resampled = _resampled(trained, experiment)
        both = sorted(trained.keys() & baseline.keys())  # a training of either may have diverged
        # An audit with other settings may drop other patches.
        same = bool(both) and np.array_equal(baseline[both[0]]["test_ids"], first["test_ids"])
        of_both = [_resampled({seed: side[seed] for seed in both}, experiment) for side in (trained, baseline) if same]
        rows.append({
            "factor": level.factor, "level": level.name, "seeds": len(trained),
            "figures": {
                name: intervals.interval(resampled[name], patients, settings.confidence)
                for name in METRICS
            },
            "differences": {
                name: intervals.difference(*(side[name] for side in of_both), patients, settings.confidence)
                for name in METRICS
            } if same and level.factor != BASELINE else None,
        })  # fmt: skip
    return {"network": experiment.factors.network, "epochs": experiment.factors.epochs, "levels": rows}


def _trained(level: Level, seeds: tuple[int, ...], folder: Path) -> dict[int, dict[str, np.ndarray]]:
    paths = {seed: folder / level.folder / f"seed{seed}.npz" for seed in seeds}
    return {seed: runs.read_arrays(path) for seed, path in paths.items() if path.exists()}


def _resampled(trained: dict[int, dict[str, np.ndarray]], experiment: Experiment) -> dict[str, np.ndarray]:
    first = next(iter(trained.values()))
    scored = intervals.of_trainings(trained, first["validation_labels"])
    drawn = intervals.patient_weights(first["test_patients"], experiment.evaluate.resamples, experiment.seed)
    return intervals.resampled(first["test_labels"], scored, drawn, np.random.default_rng(experiment.seed))


def _classifier_settings(level: Level) -> Classifier:
    factors = level.experiment.factors
    return level.experiment.classify.models[factors.network].model_copy(update={"epochs": factors.epochs})


def _variant(level: Level) -> Variant:
    return Variant(**level.experiment.factors.model_dump(include=set(Variant._fields)))


def _key(level: Level, seed: int, folder: Path | None) -> str:
    """What a training of the level depends on; without a folder, by its settings alone."""
    classifier_settings, network = _classifier_settings(level), level.experiment.factors.network
    trial = classifier_settings.model_dump(mode="json"), [network, *_variant(level)], seed
    inputs = read_by(network, classifier_settings, folder) if folder else {}
    return trials.key(folder, level.experiment, ("data", "preprocess", "classify"), *trial, inputs=inputs)


def _run(level: Level, seed: int, root: Path, path: Path, key: str) -> None:
    experiment = level.experiment
    xla = machine.start(experiment)
    settings, factors = experiment.classify, experiment.factors
    patches = store.load(_prepared(level, root, path.parent))
    index = patches.index
    patch_sets = {
        role: Patches(patches.images[rows], index["label"].to_numpy()[rows])
        for role in ("train", "validation", "test")
        for rows in (patches.rows(role),)
    }
    classifier_settings = _classifier_settings(level)
    synthetic = None
    if classifier_settings.meets_synthetic:
        synthetic = Patches(
            *store.load_synthetic(root / "features", experiment.data.size, classifier_settings.selected)
        )
    test = index.iloc[patches.rows("test")]
    extra_arrays = {f"{role}_labels": patch_sets[role].labels for role in ("validation", "test")}
    extra_arrays |= {"test_patients": test["patient"].to_numpy(str), "test_ids": test["id"].to_numpy(str)}
    keras.utils.set_random_seed(seed)
    network = of_run(factors.network, root, settings.crop or experiment.data.size, classifier_settings)
    network = vary(network, _variant(level))
    real = patch_sets.pop("train")
    views = experiment.evaluate.views
    trials.run(
        path, network, real, synthetic, patch_sets, settings, classifier_settings, views, seed, xla, key, extra_arrays
    )


def _prepared(level: Level, root: Path, folder: Path) -> Path:
    """The store of a level: the run's own, or one made for it where the level prepares patches otherwise."""
    run_settings = runs.read_json(root / "preprocess" / runs.MANIFEST)["settings"]
    level_settings = level.experiment.model_dump(mode="json", include={"data", "preprocess", "seed"})
    if level_settings == run_settings:
        return root / "preprocess"
    place = folder / "preprocess"
    if not (place / "split.json").exists():
        place.mkdir(exist_ok=True)
        store.build(level.experiment, place)
    return place
