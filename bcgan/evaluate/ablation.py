"""The stage `ablation`: change one factor at a time, and compare with the experiment as it is on validation patients.

`ablation.variants` lists the changes, each a few settings with other values. Every variant is trained with the same
seeds. Only the variant that gains most on the validation patients is scored on the test patients: if all were scored
there, the best would look better than it is. Finished trainings are cached: an interruption loses at most one, and only
new variants are trained. A training that diverges is reported and left out.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from bcgan import machine, progress, runs
from bcgan.artifacts import MANIFEST, StageRun
from bcgan.classifiers import CLASSIFIERS
from bcgan.classify.train import Patches, Recipe, select_patches
from bcgan.classify.trainings import inputs_read_by
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import intervals, trials
from bcgan.experiment import TRAINING, Experiment, subset
from bcgan.models.classifier import build_for_run
from bcgan.models.variant import Variant, apply_variant
from bcgan.preprocess import store
from bcgan.settings import Classifier
from bcgan.study_settings import CrossValidation
from bcgan.variation import diff_configs, with_overrides

BASELINE = "baseline"
METRICS = ("roc_auc", "balanced_accuracy", "f1")
SELECTION_METRIC = "roc_auc"
HELD_OUT = ("validation", "test")
# Prefixes of the settings that a training depends on; the GAN and its patches are those of the run.
READ_SETTINGS = (
    "data", "preprocess", "classify", "ablation", *TRAINING, "evaluate.tta_views", "evaluate.test_crops",
)  # fmt: skip
WITH_VARIANTS = tuple(name for name, spec in CLASSIFIERS.items() if spec.has_variants)

VariantTrials = dict[int, dict[str, np.ndarray]]  # by seed: what `train_variant` returns


class AblationVariant(NamedTuple):
    """A variant of the experiment."""

    factor: str  # what is changed
    name: str
    experiment: Experiment  # with the change

    @property
    def cache_name(self) -> str:
        """Return the variant's name in the cache."""
        return f"{self.factor}-{self.name}".replace("/", "_").replace(" ", "_")


def list_variants(experiment: Experiment) -> list[AblationVariant]:
    """Return the unchanged experiment, whose factor is BASELINE, then every variant of every factor.

    Raises:
        InputError: If a variant changes an unknown setting or one that no training reads, sets a value of the wrong
            type, changes the layers of a network that starts from pretrained weights, or has the same cache name as
            another.
    """
    variants = [AblationVariant(BASELINE, "", experiment)]
    for factor, choices in experiment.ablation.variants.items():
        for name, changes in choices.items():
            key = f"ablation.variants.{factor}.{name}"
            base_experiment = _without_frozen(experiment, changes.get("ablation.model"))
            variant = AblationVariant(factor, name, with_overrides(base_experiment, changes, key))
            _check_changes_training(experiment, variant.experiment, key)
            if variant.cache_name in {earlier.cache_name for earlier in variants}:
                raise InputError(f"{key}: its files would be another variant's as well. Give it another name.")
            model = variant.experiment.ablation.model
            if _network_variant(variant) != Variant() and model not in WITH_VARIANTS:
                raise InputError(f"{key}: {model} starts from weights. Vary one of {', '.join(WITH_VARIANTS)}.")
            variants.append(variant)
    return variants


def _without_frozen(experiment: Experiment, kept_model: str | None) -> Experiment:
    """Return the experiment without the classifiers of which only the head is fitted, and without cross-validation.

    Those classifiers refuse some settings that a variant may change: the variant would not be a valid experiment.

    Args:
        kept_model: A classifier that is kept even if it is frozen, so that validation reports it as one that is not
            trained, not as missing; `None` for none.
    """
    models = {
        name: model
        for name, model in experiment.classify.models.items()
        if name == kept_model or not CLASSIFIERS[name].is_frozen
    }
    members = tuple(name for name in experiment.evaluate.ensemble_models if name in models)
    return experiment.replace(
        classify=experiment.classify.replace(models=models),
        evaluate=experiment.evaluate.replace(ensemble_models=members),
        cross_validation=CrossValidation(),
    )


def _check_changes_training(experiment: Experiment, variant: Experiment, key: str) -> None:
    """Raise InputError if a variant changes a setting that no training reads, or changes no training at all.

    The report would otherwise state that such a change has no effect.

    Args:
        key: Of the variant, `ablation.variants.<factor>.<name>`, for the error.
    """
    model_name = variant.ablation.model
    # The variant was made without the frozen classifiers, which is no change of its own.
    changed = [change.partition("=")[0] for change in diff_configs(_without_frozen(experiment, model_name), variant)]
    unread = [name for name in changed if not name.startswith(READ_SETTINGS)]
    if unread:
        reason = f"no training of this stage reads {unread[0]}"
    elif trial_settings(AblationVariant("", "", experiment)) == trial_settings(AblationVariant("", "", variant)):
        reason = "it changes no training of this stage"
    else:
        return
    prefixes = ", ".join(READ_SETTINGS)
    raise InputError(f"{key}: {reason}. Change keys that begin with {prefixes}; or leave the variant out.")


def evaluate(run: StageRun) -> None:
    """Train every variant with every seed, and write ablation.json.

    Raises:
        WorkError: If every training of the experiment as it is diverged.
    """
    experiment = run.experiment
    variants = list_variants(experiment)
    for variant in variants:
        machine.configure(variant.experiment)  # raises before anything is trained if this machine lacks something
    finished: dict[tuple[str, str], VariantTrials] = {(variant.factor, variant.name): {} for variant in variants}
    with progress.bar(len(variants) * len(experiment.ablation.seeds), "ablation", "training") as bar:
        for variant in variants:
            if variant.factor != BASELINE and not finished[BASELINE, ""]:
                raise WorkError(
                    "ablation: the experiment as it is diverged with every seed, so that no choice can be compared. "
                    f"Lower classify.models.{experiment.ablation.model}.learning_rate, or set precision=float32."
                )
            for seed in experiment.ablation.seeds:
                try:
                    finished[variant.factor, variant.name][seed] = train_variant(run, variant, seed)
                except WorkError as error:
                    progress.log.warning("ablation: %s %s is left out: %s", variant.factor, variant.name, error)
                bar.update()
    runs.write_json(run.folder / "ablation.json", summarize(experiment, variants, finished))


def train_variant(run: StageRun, variant: AblationVariant, seed: int) -> dict[str, np.ndarray]:
    """Train a variant with one seed, or read its results from the cache, and return them.

    Returns:
        For each role of HELD_OUT, with n patches: <role>, float32 probabilities, (n,) or (n, classes); <role>_labels,
        integers; <role>_ids and <role>_patients, text, (n,) each.

    Raises:
        WorkError: If the loss is NaN or infinite.
    """
    return trials.get_predictions(
        run, f"{variant.cache_name}-seed{seed}", [trial_settings(variant), seed], _inputs(variant, run.inputs),
        partial(_build, run, variant, seed),
    )  # fmt: skip


def summarize(
    experiment: Experiment, variants: list[AblationVariant], finished: dict[tuple[str, str], VariantTrials]
) -> dict[str, Any]:
    """Return the content of ablation.json.

    Args:
        variants: The unchanged experiment (BASELINE), then every variant.
        finished: Trials by (factor, name of the variant), then by seed; empty if every training diverged.

    Returns:
        model, epochs: Of `experiment.ablation`.
        variants: [{factor, variant, seeds, figures, differences}], on the validation patches. seeds is the number of
            trainings; figures are {metric: {value, low, high}}; differences are the variant's figures less the
            baseline's, on the same patches and seeds, {metric: {value, low, high, p, p_floor}}, where p_floor is the
            smallest p that the resamples can give. differences is `None` for the baseline, and if no seed or not the
            same patches are shared.
        selected: The variant with the largest gain in SELECTION_METRIC on validation patients, measured on test
            patients: {factor, variant, seeds, baseline, figures, differences}. Only variants with every seed of the
            baseline count. `None` if none gains.
    """
    rows, baseline = [], finished[BASELINE, ""]
    for variant in variants:
        trials_by_seed = finished[variant.factor, variant.name]
        if not trials_by_seed:
            continue
        is_baseline = variant.factor == BASELINE
        rows.append({
            "factor": variant.factor, "variant": variant.name, "seeds": len(trials_by_seed),
            "figures": _measure(trials_by_seed, "validation", experiment),
            "differences": None if is_baseline else _compare(trials_by_seed, baseline, "validation", experiment),
        })  # fmt: skip
    selected = None
    gains = {}
    for row in rows:
        key = row["factor"], row["variant"]
        if row["differences"] and finished[key].keys() >= baseline.keys():
            gains[key] = row["differences"][SELECTION_METRIC]["value"] or 0.0
    best = max(gains, key=gains.get, default=None)
    if best and gains[best] > 0:
        trials_by_seed = {seed: finished[best][seed] for seed in baseline}
        selected = {
            "factor": best[0], "variant": best[1], "seeds": len(baseline),
            "baseline": _measure(baseline, "test", experiment),
            "figures": _measure(trials_by_seed, "test", experiment),
            "differences": _compare(trials_by_seed, baseline, "test", experiment),
        }  # fmt: skip
    ablation = experiment.ablation
    return {"model": ablation.model, "epochs": ablation.epochs, "variants": rows, "selected": selected}


def _measure(trials_by_seed: VariantTrials, role: str, experiment: Experiment) -> dict[str, dict[str, float | None]]:
    """Return {metric: {value, low, high}} of METRICS on the patches of a role, means over a variant's seeds."""
    bootstrapped = _bootstrap(trials_by_seed, role, experiment)
    labels, patients = _labels_and_patients(trials_by_seed, role)
    return {
        name: intervals.percentile_interval(
            bootstrapped[name],
            intervals.patients_of_metric(name, labels, patients),
            experiment.evaluate.confidence_level,
            intervals.limits_of(name),
        )
        for name in METRICS
    }


def _labels_and_patients(trials_by_seed: VariantTrials, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and the patients of a role's patches, (n,) each."""
    first = next(iter(trials_by_seed.values()))
    return first[f"{role}_labels"], first[f"{role}_patients"]


def _compare(
    trials_by_seed: VariantTrials, baseline: VariantTrials, role: str, experiment: Experiment
) -> dict[str, dict[str, float | None]] | None:
    """Return {metric: {value, low, high, p, p_floor}}: a variant's METRICS minus the baseline's, paired.

    Only seeds that both have are compared, as trainings of either may have diverged.

    Returns:
        `None` if they share no seed, or have different patches of the role: another audit may drop other patches.
    """
    seeds = sorted(trials_by_seed.keys() & baseline.keys())
    if not seeds or not np.array_equal(baseline[seeds[0]][f"{role}_ids"], trials_by_seed[seeds[0]][f"{role}_ids"]):
        return None
    labels, patients = _labels_and_patients(trials_by_seed, role)
    candidate, reference = (
        _bootstrap({seed: trials_of_variant[seed] for seed in seeds}, role, experiment)
        for trials_of_variant in (trials_by_seed, baseline)
    )
    return {
        name: intervals.paired_difference(
            candidate[name],
            reference[name],
            intervals.patients_of_metric(name, labels, patients),
            experiment.evaluate.confidence_level,
            same_seeds=True,
        )
        for name in METRICS
    }


def _bootstrap(trials_by_seed: VariantTrials, role: str, experiment: Experiment) -> dict[str, np.ndarray]:
    """Return each metric of a variant on a role's patches, as `intervals.bootstrap_metrics` does.

    Thresholds and calibration come from the validation patches, also if these are measured.
    """
    first = next(iter(trials_by_seed.values()))
    predictions = intervals.predictions_of_trials(trials_by_seed, first["validation_labels"], role)
    patients = first[f"{role}_patients"]
    weights = intervals.patient_weights(patients, experiment.evaluate.bootstrap_samples, experiment.seed)
    return intervals.bootstrap_metrics(first[f"{role}_labels"], predictions, weights)


def _classifier_settings(variant: AblationVariant) -> Classifier:
    """Return the settings of the variant's classifier, with the ablation's epochs."""
    ablation = variant.experiment.ablation
    return variant.experiment.classify.models[ablation.model].replace(epochs=ablation.epochs)


def _network_variant(variant: AblationVariant) -> Variant:
    """Return the activation, normalization and dropout of the variant."""
    return Variant(**variant.experiment.ablation.model_dump(include=set(Variant._fields)))


def trial_settings(variant: AblationVariant) -> dict[str, Any]:
    """Return the settings that a training of the variant depends on, apart from the seed, for its cache key."""
    settings = trials.trial_settings(variant.experiment, ("data", "preprocess", "classify"))
    return settings | {
        "model": variant.experiment.ablation.model,
        "classifier": _classifier_settings(variant).training_settings(),
        "variant": _network_variant(variant)._asdict(), "held_out": HELD_OUT,
    }  # fmt: skip


def _inputs(variant: AblationVariant, inputs: dict[str, str]) -> dict[str, str]:
    """Return those of the stage's inputs, {file: SHA-256}, that a training of the variant reads."""
    return inputs_read_by(variant.experiment.ablation.model, _classifier_settings(variant), inputs)


def _build(run: StageRun, variant: AblationVariant, seed: int, folder: Path) -> None:
    """Train a variant with one seed, and write what `train_variant` returns into `folder`."""
    experiment, model = variant.experiment, _classifier_settings(variant)
    xla = machine.configure(experiment)
    patches = store.load(_prepared_store(run, variant))
    patch_sets = {}
    for role in ("train", *HELD_OUT):
        patch_sets[role] = select_patches(patches, patches.role_indices(role))
    synthetic = None
    if model.uses_synthetic:
        features = run.root / "features"
        synthetic = Patches(*store.load_synthetic(features, experiment.data.size, model.filter_synthetic))
    arrays = {}
    for role in HELD_OUT:
        index = patches.index.iloc[patches.role_indices(role)]
        arrays |= {f"{role}_labels": patch_sets[role].labels, f"{role}_ids": index["id"].to_numpy(str)}
        arrays |= {f"{role}_patients": index["patient"].to_numpy(str)}
    keras.utils.set_random_seed(seed)
    size = experiment.classify.crop_size or experiment.data.size
    network = build_for_run(experiment.ablation.model, run.root, size, model, experiment.num_classes)
    network = apply_variant(network, _network_variant(variant))
    real = patch_sets.pop("train")
    trial = trials.Trial(network, real, synthetic, patch_sets, Recipe(experiment.classify, model, seed, xla), arrays)
    trials.train_trial(trial, experiment.evaluate, folder)


def _prepared_store(run: StageRun, variant: AblationVariant) -> Path:
    """Return the folder of the variant's patch store: the run's, or a cached one for changed data settings."""
    settings = subset(variant.experiment, ("data", "preprocess", "seed"))
    manifest = runs.read_json(run.root / "preprocess" / MANIFEST)
    if settings == manifest["settings"]:
        return run.root / "preprocess"
    # The inputs are hashes of the raw data, so that other files under the same path make another store.
    return run.cache.get_or_build("preprocess", settings, manifest["inputs"], partial(store.build, variant.experiment))
