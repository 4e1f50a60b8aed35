"""`bcgan tune`: search settings of one classifier's training by its ROC AUC on validation patients.

Optuna proposes the settings (tree-structured Parzen estimator: Bergstra et al. 2011). The first trial is the experiment
as it is. Test patients are not looked at. Trials are kept in the run: a search that is interrupted loses one.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcgan import __version__, artifacts, progress, runs
from bcgan.artifacts import Cache, StageRun
from bcgan.classifiers import CLASSIFIERS
from bcgan.classify.trainings import inputs_read_by
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import ablation, metrics
from bcgan.experiment import Experiment
from bcgan.settings import Classifier
from bcgan.study_settings import Tune
from bcgan.variation import with_overrides

if TYPE_CHECKING:
    import optuna

FOLDER, RESULTS = "tune", "tune.json"
# Names of the searched settings, of one classifier and of all.
OF_CLASSIFIER, OF_ALL_CLASSIFIERS = ("learning_rate", "epochs"), ("batch_size", "stain_jitter", "color_jitter", "loss")
JOURNAL = "journal.log"  # of Optuna: every trial
INSTALL = "pip install -r requirements-tune.txt"


def last_stage(experiment: Experiment) -> str:
    """Return the last stage that has to be finished before the classifier of `tune` can be trained."""
    name = experiment.tune.model
    if not CLASSIFIERS[name].trains_on_patches_alone:
        return "pretrain"
    return "features" if _classifier_settings(experiment).uses_synthetic else "preprocess"


def tune(experiment: Experiment, root: Path, inputs: dict[str, str], num_trials: int) -> dict[str, Any]:
    """Search until there are `num_trials` finished trials, earlier ones included, and write tune/tune.json.

    Args:
        experiment: With the settings of the finished run, and `tune` as it is now.
        root: Folder of the run, whose stages up to `last_stage` are finished.
        inputs: SHA-256 of the files that the stage `ablation` reads, by name.

    Returns:
        The content of tune.json: {model, space, trials, best, baseline, baseline_state, inputs, bcgan}.

        - trials: [{number, roc_auc, seconds, settings}], the best first; roc_auc is `None` if a trial diverged.
        - best: Settings to put into the experiment, by their names there.
        - baseline: roc_auc of the experiment as it was then, or `None`.
        - baseline_state: measured, diverged, not tried, or outside the space.

    Raises:
        InputError: If Optuna is not installed.
        WorkError: If every trial diverged.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(f"bcgan tune needs the package optuna. Run: {INSTALL}") from error
    optuna.logging.set_verbosity(logging.WARNING)
    space, folder = experiment.tune, root / FOLDER
    folder.mkdir(exist_ok=True)
    used_inputs = inputs_read_by(space.model, _classifier_settings(experiment), inputs)
    run = StageRun(experiment, root, folder, used_inputs, Cache(root, FOLDER))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    name = _study_name(experiment, run.inputs)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(
        seed=experiment.seed + len(study.trials),  # a resumed search does not propose the same again
        n_startup_trials=min(10, max(2, num_trials // 3)),
    )
    start = _current_settings(experiment)
    _repeat_interrupted(study)
    num_done = len(_finished_trials(study))
    if num_done < num_trials and _is_in_space(start, space):
        study.enqueue_trial(start, skip_if_exists=True)
    with progress.bar(max(num_trials, num_done), "tune", "trial", start=num_done) as bar:
        while len(_finished_trials(study)) < num_trials:
            _run_trial(run, study, space)
            bar.update()
            if best := max((trial.value for trial in study.trials if trial.value is not None), default=None):
                bar.set_postfix(AUC=f"{best:.3f}", refresh=False)
    code = {"bcgan": __version__, "definition": artifacts.DEFINITIONS[FOLDER]}
    results = _summarize(study, experiment) | {"inputs": run.inputs} | code
    runs.write_json(folder / RESULTS, results)
    return results


def read_results(root: Path) -> dict[str, Any] | None:
    """Return the results of the last `bcgan tune`; `None` if there are none, or, with a warning, if they are outdated.

    They are outdated if an output of a stage that the search read has changed, or another version of bcgan wrote them.

    Args:
        root: Folder of the run.
    """
    path = root / FOLDER / RESULTS
    if not path.exists():
        return None
    results = runs.read_json(path)
    outputs = artifacts.list_outputs(root, {file.split("/")[0] for file in results["inputs"]})
    code = results.get("bcgan"), results.get("definition")
    if code == (__version__, artifacts.DEFINITIONS[FOLDER]) and results["inputs"].items() <= outputs.items():
        return results
    progress.log.warning(
        "report: %s is left out: it was made from other files or by another version. Run: bcgan tune %s",
        path,
        root.name,
    )
    return None


def describe(results: dict[str, Any]) -> str:
    """Return the text that `bcgan tune` prints: the best trial, the unchanged experiment, and the settings to set."""
    best, baseline = results["trials"][0], results["baseline"]
    as_it_is = results["baseline_state"] if baseline is None else f"{baseline:.4f}"
    overrides = " ".join(f"{key}={value}" for key, value in results["best"].items())
    return (
        f"{len(results['trials'])} trials of {results['model']}: validation ROC AUC {best['roc_auc']:.4f}, the "
        f"experiment as it is: {as_it_is}\nThe best of many is too good on the patients that chose it: train it with "
        f'other seeds before you believe it.\nSET="{overrides}"'
    )


def _classifier_settings(experiment: Experiment) -> Classifier:
    """Return the experiment's settings of the classifier of `tune`; default ones if it is not listed."""
    return experiment.classify.models.get(experiment.tune.model, Classifier())


def _run_trial(run: StageRun, study: "optuna.Study", space: Tune) -> None:
    """Train one trial, and tell the study its ROC AUC on the validation patches, or that it diverged."""
    from optuna.trial import TrialState

    trial, start_time = study.ask(), time.monotonic()
    variant = _make_variant(run.experiment, _suggest_settings(trial, space))
    try:
        arrays = ablation.train_variant(run, variant, run.experiment.seed)
    except WorkError as error:
        progress.log.warning("tune: trial %d: %s", trial.number, error)
        trial.set_user_attr("diverged", True)
        study.tell(trial, state=TrialState.FAIL)
        return
    trial.set_user_attr("seconds", round(time.monotonic() - start_time, 1))
    study.tell(trial, metrics.macro_roc_auc(arrays["validation_labels"], arrays["validation"]))


def _suggest_settings(trial: "optuna.Trial", space: Tune) -> dict[str, Any]:
    """Let Optuna choose the settings of a trial from the space; {name in `tune`: value}."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", *space.learning_rate, log=True),
        "epochs": trial.suggest_int("epochs", *space.epochs),
        "batch_size": trial.suggest_categorical("batch_size", space.batch_size),
        "stain_jitter": trial.suggest_float("stain_jitter", *space.stain_jitter),
        "color_jitter": trial.suggest_float("color_jitter", *space.color_jitter),
        "loss": trial.suggest_categorical("loss", space.loss),
    }


def _setting_names(model: str) -> dict[str, str]:
    """Return {name in `tune`: name of the experiment's setting}, such as `classify.batch_size`."""
    of_classifier = {name: f"classify.models.{model}.{name}" for name in OF_CLASSIFIER}
    return of_classifier | {name: f"classify.{name}" for name in OF_ALL_CLASSIFIERS}


def _make_variant(experiment: Experiment, settings: dict[str, Any]) -> ablation.AblationVariant:
    """Return the experiment with the settings of a trial, as a variant that `ablation.train_variant` trains.

    Args:
        settings: {name in `tune`: value}, as from `_suggest_settings`.
    """
    names = _setting_names(experiment.tune.model)
    models = experiment.classify.models
    listed = models if experiment.tune.model in models else models | {experiment.tune.model: Classifier()}
    base = experiment.replace(classify=experiment.classify.replace(models=listed))
    changes = {names[name]: value for name, value in settings.items()}
    changes |= {"ablation.model": experiment.tune.model, "ablation.epochs": settings["epochs"]}
    return ablation.AblationVariant("trial", "", with_overrides(base, changes, "tune"))


def _current_settings(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment's present values of the settings that are searched, by their names in `tune`."""
    model, classify = _classifier_settings(experiment), experiment.classify
    of_classifier = {name: getattr(model, name) for name in OF_CLASSIFIER}
    return of_classifier | {name: getattr(classify, name) for name in OF_ALL_CLASSIFIERS}


def _study_name(experiment: Experiment, inputs: dict[str, str]) -> str:
    """Return the name of the study, a hash of the search space, the settings that all trials share, and the inputs.

    The searched settings are hashed with the first value of their space, not with the experiment's own: a change of
    these values must not start another study.

    Args:
        inputs: SHA-256 of the files that a trial reads, by name.
    """
    searched = {name: getattr(experiment.tune, name)[0] for name in _setting_names(experiment.tune.model)}
    shared_settings = ablation.trial_settings(_make_variant(experiment, searched))
    space = experiment.tune.model_dump(mode="json")
    return artifacts.make_key("tune", {"space": space, "of": shared_settings}, inputs)


def _is_in_space(settings: dict[str, Any], space: Tune) -> bool:
    """Return whether settings, by their names in `tune`, lie in the space that is searched."""
    return all(
        value in getattr(space, name) if name in ("batch_size", "loss")
        else getattr(space, name)[0] <= value <= getattr(space, name)[1]
        for name, value in settings.items()
    )  # fmt: skip


def _finished_trials(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Return the trials that were trained to the end, and those that diverged."""
    from optuna.trial import TrialState

    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE or trial.user_attrs.get("diverged")]


def _repeat_interrupted(study: "optuna.Study") -> None:
    """Mark trials that an interruption left running as failed, and enqueue their settings: their trainings resume."""
    from optuna.trial import TrialState

    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def _summarize(study: "optuna.Study", experiment: Experiment) -> dict[str, Any]:
    """Return what tune.json says of the trials: all keys that `tune` documents but inputs and bcgan."""
    model, names = experiment.tune.model, _setting_names(experiment.tune.model)
    rows = [
        {"number": trial.number, "roc_auc": trial.value, "seconds": trial.user_attrs.get("seconds"),
         "settings": trial.params}
        for trial in _finished_trials(study)
    ]  # fmt: skip
    rows.sort(key=lambda row: -1.0 if row["roc_auc"] is None else row["roc_auc"], reverse=True)
    if rows[0]["roc_auc"] is None:
        raise WorkError("tune: every trial diverged. Lower the ends of tune.learning_rate, or set precision=float32.")
    best = rows[0]["settings"]
    return {
        "model": model, "space": experiment.tune.model_dump(mode="json", exclude={"model"}), "trials": rows,
        "best": {names[name]: value for name, value in best.items()},
        **_describe_baseline(rows, _current_settings(experiment), experiment.tune),
    }  # fmt: skip


def _describe_baseline(rows: list[dict[str, Any]], start: dict[str, Any], space: Tune) -> dict[str, Any]:
    """Return {baseline, baseline_state} of the finished trials, as `tune` documents them.

    Args:
        rows: The trials of tune.json.
        start: The experiment's present values of the searched settings.
    """
    values = [row["roc_auc"] for row in rows if row["settings"] == start]
    if not values:
        return {"baseline": None, "baseline_state": "not tried" if _is_in_space(start, space) else "outside the space"}
    return {"baseline": values[0], "baseline_state": "diverged" if values[0] is None else "measured"}
