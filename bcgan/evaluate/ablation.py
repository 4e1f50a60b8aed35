"""Ablation: one factor changed at a time, several seeds, paired with the experiment as it is.

`ablation.variants` lists the changes, each a few keys of the experiment with other values. Finished trainings are
cached: an interruption loses at most one, and a new variant trains alone. A training that diverges is reported and left
out.
"""

import operator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bcgan import machine, progress, runs
from bcgan.artifacts import MANIFEST, StageRun
from bcgan.classifiers import CLASSIFIERS
from bcgan.classify.train import Patches, Recipe
from bcgan.classify.trainings import inputs_read_by
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import intervals, trials
from bcgan.experiment import TRAINING, Experiment, subset
from bcgan.models.classifier import of_run
from bcgan.models.variant import Variant, vary
from bcgan.preprocess import store
from bcgan.settings import Classifier
from bcgan.variation import differences, varied

BASELINE = "baseline"
METRICS = ("roc_auc", "balanced_accuracy", "f1")
# What a training here depends on: the networks and patches of the GAN are the run's own.
READ = ("data", "preprocess", "classify", "ablation", *TRAINING, "evaluate.tta_views")
WITH_VARIANTS = tuple(name for name, spec in CLASSIFIERS.items() if spec.has_variants)


Trained = dict[int, dict[str, np.ndarray]]  # the arrays of a variant's trials, by seed


class AblationVariant(NamedTuple):
    """One choice: the factor, the variant's name, and the experiment with that choice made."""

    factor: str
    name: str
    experiment: Experiment

    @property
    def folder(self) -> str:
        return f"{self.factor}-{self.name}".replace("/", "_").replace(" ", "_")


def list_variants(experiment: Experiment) -> list[AblationVariant]:
    """The experiment as it is, then every variant of every factor.

    Raises:
        InputError: a variant changes an unknown key or one that no training here reads, gives one a value of the wrong
            kind, varies a network that starts from weights, or has a name like another's.
    """
    variants = [AblationVariant(BASELINE, "", experiment)]
    for factor, choices in experiment.ablation.variants.items():
        for name, changes in choices.items():
            place = f"ablation.variants.{factor}.{name}"
            variants.append(AblationVariant(factor, name, varied(experiment, changes, place)))
            _refuse_what_changes_nothing(experiment, variants[-1].experiment, place)
            if variants[-1].folder in {variant.folder for variant in variants[:-1]}:
                raise InputError(f"{place}: its files would be another variant's as well. Give it another name.")
            settings = variants[-1].experiment.ablation
            if _network_variant(variants[-1]) != Variant() and settings.model not in WITH_VARIANTS:
                raise InputError(
                    f"{place}: {settings.model} starts from weights. Vary one of {', '.join(WITH_VARIANTS)}."
                )
    return variants


def _refuse_what_changes_nothing(experiment: Experiment, variant: Experiment, place: str) -> None:
    """A variant whose trainings are those of the experiment as it is would be told as a difference of nothing."""
    changed = [change.partition("=")[0] for change in differences(experiment, variant)]
    unread = [key for key in changed if not key.startswith(READ)]
    both = (_trial_settings(AblationVariant("", "", one)) for one in (experiment, variant))
    if unread or operator.eq(*both):
        reason = f"no training of this stage reads {unread[0]}" if unread else "it changes no training of this stage"
        raise InputError(f"{place}: {reason}. Change keys that begin with {', '.join(READ)}; or leave the variant out.")


def evaluate(run: StageRun) -> None:
    """Train every variant with every seed, and write ablation.json."""
    experiment = run.experiment
    planned = list_variants(experiment)
    for variant in planned:
        machine.start(variant.experiment)  # raises before anything is trained if this machine lacks something
    trained: dict[tuple[str, str], Trained] = {(variant.factor, variant.name): {} for variant in planned}
    with progress.bar(len(planned) * len(experiment.ablation.seeds), "ablation", "training") as bar:
        for variant in planned:
            for seed in experiment.ablation.seeds:
                try:
                    trained[variant.factor, variant.name][seed] = trials.predictions(
                        run, f"{variant.folder}-seed{seed}", [_trial_settings(variant), seed],
                        _inputs(variant, run.inputs), partial(_build, run, variant, seed),
                    )  # fmt: skip
                except WorkError as error:
                    progress.log.warning("ablation: %s %s is left out: %s", variant.factor, variant.name, error)
                bar.update()
    runs.write_json(run.folder / "ablation.json", summarise(experiment, planned, trained))


def summarise(
    experiment: Experiment, planned: list[AblationVariant], trained_variants: dict[tuple[str, str], Trained]
) -> dict[str, Any]:
    """Return {model, epochs, variants: [{factor, variant, seeds, figures, differences}]}.

    figures: {metric: {value, low, high}}. differences: {metric: {value, low, high, p}} from the experiment as it is, on
    the same test patches and seeds; `None` if there is no such training.
    """
    settings, rows = experiment.evaluate, []
    baseline = trained_variants[BASELINE, ""]
    for variant in planned:
        if not (trained := trained_variants[variant.factor, variant.name]):
            continue
        first = next(iter(trained.values()))
        patients = first["test_patients"]
        resampled = _resampled(trained, experiment)
        both = sorted(trained.keys() & baseline.keys())  # a training of either may have diverged
        # An audit with other settings may drop other patches.
        same = bool(both) and np.array_equal(baseline[both[0]]["test_ids"], first["test_ids"])
        of_both = [_resampled({seed: side[seed] for seed in both}, experiment) for side in (trained, baseline) if same]
        rows.append({
            "factor": variant.factor, "variant": variant.name, "seeds": len(trained),
            "figures": {
                name: intervals.interval(resampled[name], patients, settings.confidence_level)
                for name in METRICS
            },
            "differences": {
                name: intervals.difference(*(side[name] for side in of_both), patients, settings.confidence_level)
                for name in METRICS
            } if same and variant.factor != BASELINE else None,
        })  # fmt: skip
    return {"model": experiment.ablation.model, "epochs": experiment.ablation.epochs, "variants": rows}


def _resampled(trained: dict[int, dict[str, np.ndarray]], experiment: Experiment) -> dict[str, np.ndarray]:
    first = next(iter(trained.values()))
    scored = intervals.of_trainings(trained, first["validation_labels"])
    drawn = intervals.patient_weights(first["test_patients"], experiment.evaluate.bootstrap_samples, experiment.seed)
    return intervals.resampled(first["test_labels"], scored, drawn, np.random.default_rng(experiment.seed))


def _classifier_settings(variant: AblationVariant) -> Classifier:
    ablation = variant.experiment.ablation
    return variant.experiment.classify.models[ablation.model].replace(epochs=ablation.epochs)


def _network_variant(variant: AblationVariant) -> Variant:
    return Variant(**variant.experiment.ablation.model_dump(include=set(Variant._fields)))


def _trial_settings(variant: AblationVariant) -> dict[str, Any]:
    """Return the settings that a training of the variant depends on."""
    settings = trials.settings_of(variant.experiment, ("data", "preprocess", "classify"))
    return settings | {
        "model": variant.experiment.ablation.model,
        "classifier": _classifier_settings(variant).model_dump(mode="json"),
        "variant": _network_variant(variant)._asdict(),
    }


def _inputs(variant: AblationVariant, inputs: dict[str, str]) -> dict[str, str]:
    return inputs_read_by(variant.experiment.ablation.model, _classifier_settings(variant), inputs)


def _build(run: StageRun, variant: AblationVariant, seed: int, folder: Path) -> None:
    """Train a variant and write its predictions."""
    experiment, model = variant.experiment, _classifier_settings(variant)
    xla = machine.start(experiment)
    patches = store.load(_prepared_store(run, variant))
    labels = patches.index["label"].to_numpy()
    patch_sets = {
        role: Patches(patches.images[rows], labels[rows])
        for role in ("train", "validation", "test")
        for rows in (patches.rows(role),)
    }
    synthetic = None
    if model.uses_synthetic:
        loaded = store.load_synthetic(run.root / "features", experiment.data.size, model.filter_synthetic)
        synthetic = Patches(*loaded)
    test = patches.index.iloc[patches.rows("test")]
    arrays = {f"{role}_labels": patch_sets[role].labels for role in ("validation", "test")}
    arrays |= {"test_patients": test["patient"].to_numpy(str), "test_ids": test["id"].to_numpy(str)}
    keras.utils.set_random_seed(seed)
    size = experiment.classify.crop_size or experiment.data.size
    network = vary(of_run(experiment.ablation.model, run.root, size, model), _network_variant(variant))
    real = patch_sets.pop("train")
    trial = trials.Trial(network, real, synthetic, patch_sets, Recipe(experiment.classify, model, seed, xla), arrays)
    trials.train_trial(trial, experiment.evaluate.tta_views, folder)


def _prepared_store(run: StageRun, variant: AblationVariant) -> Path:
    """Return the folder of the variant's patches: the run's own, or one built for variants that prepare them so."""
    settings = subset(variant.experiment, ("data", "preprocess", "seed"))
    manifest = runs.read_json(run.root / "preprocess" / MANIFEST)
    if settings == manifest["settings"]:
        return run.root / "preprocess"
    # The inputs are hashes of the raw data: other files under the same path make another store.
    return run.cache.get_or_build("preprocess", settings, manifest["inputs"], partial(store.build, variant.experiment))
