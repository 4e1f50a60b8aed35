"""Run the stages that are out of date, in order; on the other workers of a cluster, take part in shared trainings."""

import json
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bcgan import artifacts, machine, runs, stages, tracking, variation
from bcgan.artifacts import CACHE, Cache, StageRun
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.progress import log

POLL_INTERVAL_S = 1.0  # at which a secondary worker checks the progress of the first one
MAX_CHANGES, MAX_CHANGE_LENGTH = 3, 60  # settings that are named, and characters of each with its value
FIRST_WORKER_TIMEOUT_S = 60.0  # after which a secondary worker gives up waiting for the first one


def plan(experiment: Experiment, root: Path, force: tuple[str, ...] = ()) -> list[tuple[stages.Stage, str | None]]:
    """Return every stage with the reason why it would run now, or `None` if it would be skipped."""
    planned, stale = [], set()
    for stage in stages.STAGES:
        upstream = sorted({pattern.split("/")[0] for pattern in stage.inputs} & stale)
        if stage.name in force:
            reason = "forced"
        elif upstream:
            reason = f"{' and '.join(upstream)} will run"
        else:
            key, settings, inputs = stages.stage_key(stage, experiment, root)
            reason = _explain(artifacts.stale_reason(root / stage.name, key), root / stage.name, settings, inputs)
        if reason:
            stale.add(stage.name)
        planned.append((stage, reason))
    return planned


def _explain(reason: str | None, folder: Path, settings: dict, inputs: dict[str, str]) -> str | None:
    """Return why a stage is stale, with the names of settings that changed since it ran; `None` if it is up to date."""
    if reason != artifacts.CHANGED:
        return reason
    manifest = runs.read_json(folder / artifacts.MANIFEST)
    if changes := _list_changes(manifest.get("settings"), settings):
        return f"other settings than when it ran: {_shorten(changes)}"
    if manifest.get("inputs") != inputs:
        return "its input files changed"
    if manifest.get("definition") != artifacts.DEFINITIONS.get(folder.name):
        return "bcgan computes something else in this stage now"
    return "bcgan's version changed"


def _list_changes(before: Any, settings: dict[str, Any]) -> list[str]:
    """Return the settings that differ from those of a manifest, `before`, as `key.subkey=value`."""
    return variation.list_changes(before, json.loads(json.dumps(settings, default=str)))  # as the manifest has them


def _shorten(changes: list[str]) -> str:
    """Return the first changes as text, without the value of those that are long."""
    texts = [change if len(change) <= MAX_CHANGE_LENGTH else change.partition("=")[0] for change in changes]
    omitted = f" and {len(changes) - MAX_CHANGES} more" if len(changes) > MAX_CHANGES else ""
    return f"{', '.join(texts[:MAX_CHANGES])}{omitted}"


def execute(
    experiment: Experiment, force: tuple[str, ...] = (), dry_run: bool = False, until: str = stages.DEFAULT_LAST_STAGE
) -> None:
    """Run the stages that are out of date, up to and including `until`; log why each one runs or is skipped.

    Raises:
        InputError, WorkError: From the stage that failed. It can be resumed from the files in its partial folder.
    """
    experiment, root = _with_previous_data_dir(experiment), runs.root() / experiment.name
    until = max((until, *force), key=stages.NAMES.index)
    if dry_run:
        for stage, reason in plan(experiment, root, force)[: len(stages.stages_until(until))]:
            condition = "" if stage in stages.stages_until() else f" (only with --until {stage.name})"
            state = f"would run: {reason}{condition}" if reason else "would be skipped: up to date"
            log.info("%-16s %s", stage.name, state)
        return
    cluster = experiment.distribute != "off" and machine.cluster()
    if cluster and force:
        raise InputError("--force with TF_CONFIG: the other workers would not know. Run it once without TF_CONFIG.")
    if cluster or experiment.distribute == "on":
        from bcgan import distribute

        distribute.prepare(experiment)  # before TensorFlow computes anything
    if cluster and cluster["index"]:
        run_secondary_worker(experiment, root, until)
        return
    with runs.lock(root, timeout_s=10 if cluster else 0), tracking.tracked(experiment, root) as tracked:
        for stage in stages.stages_until(until):
            _update_stage(stage, experiment, root, stage.name in force)
            tracked.on_stage(stage.name, root / stage.name)


def _update_stage(stage: stages.Stage, experiment: Experiment, root: Path, forced: bool) -> None:
    """Run a stage, unless it is up to date.

    Args:
        root: The run's folder, which has a folder for each stage.
        forced: Whether it runs even so. Its cached trainings are deleted then, unless it resumes an interrupted forced
            run with the same key.

    Raises:
        WorkError: If memory runs out. Other errors of the stage are raised as they are.
    """
    folder = root / stage.name
    key, settings, inputs = stages.stage_key(stage, experiment, root)
    reason = "forced" if forced else _explain(artifacts.stale_reason(folder, key), folder, settings, inputs)
    if reason is None:
        log.info("%s: skipped, up to date", stage.name)
        return
    log.info("%s: runs, %s", stage.name, reason)
    run = StageRun(experiment, root, artifacts.partial_folder(folder), inputs, Cache(root, stage.name))
    state, start_time = artifacts.read_unfinished_state(folder), time.monotonic()
    if forced and not (state.get("key") == key and state.get("restarted")):
        run.cache.clear()

    def make(_: Path) -> dict[str, list[str]]:
        stage.run(run)
        return {"cache": sorted(run.cache.used)}

    try:
        definition = artifacts.DEFINITIONS.get(stage.name)
        record = {"stage": stage.name, "definition": definition, "settings": settings, "inputs": inputs}
        artifacts.build(folder, key, make, record, forced)
    except InputError:
        artifacts.discard_empty(folder)
        raise
    except Exception as error:
        # TensorFlow's error is recognized by its name, so that stages without TensorFlow need not import it.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        raise WorkError(
            f"{stage.name}: out of memory. Lower {stage.memory_setting}, or close other programs, and run it again."
        ) from error
    log.info("%s: done in %.0f s", stage.name, time.monotonic() - start_time)


def _with_previous_data_dir(experiment: Experiment) -> Experiment:
    """Return the experiment; if it has no data.dir, with the folders that `preprocess` read, if they still exist."""
    manifest = runs.root() / experiment.name / "preprocess" / artifacts.MANIFEST
    try:
        settings = runs.read_json(manifest)["settings"]["data"]
        folders = tuple(map(Path, settings["dir"]))
        same_data = settings["name"] == experiment.data.name
    except (OSError, ValueError, KeyError, TypeError):
        return experiment
    if experiment.data.dir or not (same_data and folders and all(folder.exists() for folder in folders)):
        return experiment
    log.info("data.dir: as before, %s", ":".join(map(str, folders)))
    return experiment.replace(data=experiment.data.replace(dir=folders))


def run_secondary_worker(experiment: Experiment, root: Path, until: str) -> None:
    """Run what a worker other than the first does: take part in distributed stages, wait for the first one otherwise.

    It writes nothing into the run: it trains in a scratch copy of what the first worker has written.

    Raises:
        WorkError: If the first worker does not run, or has continued with other settings or data.
    """
    root.mkdir(parents=True, exist_ok=True)
    start_time = time.time()
    for index, stage in enumerate(stages.stages_until(until)):
        has_taken_part, waiting_since, unlocked_since = not stage.distributed, time.monotonic(), None
        # The inputs are complete (the stages before have finished), so the key does not change while we wait.
        key = stages.stage_key(stage, experiment, root)[0]
        while reason := artifacts.stale_reason(root / stage.name, key):
            if not has_taken_part and artifacts.read_unfinished_state(root / stage.name).get("key") == key:
                log.info("%s: takes part, %s", stage.name, reason)
                _run_in_scratch_copy(stage, experiment, root)
                has_taken_part, waiting_since = True, time.monotonic()
            unlocked_since = None if runs.is_locked(root) else unlocked_since or time.monotonic()
            if unlocked_since and time.monotonic() - unlocked_since > FIRST_WORKER_TIMEOUT_S:
                raise WorkError(
                    f"{root}: the first worker does not run there. Start it, and see that both share this folder."
                )
            timed_out = time.monotonic() - waiting_since > FIRST_WORKER_TIMEOUT_S
            if timed_out and _any_started_after(start_time, stages.STAGES[index + 1 :], root):
                raise WorkError(
                    f"{root / stage.name}: the first worker went on with other settings or data. Give every worker "
                    "the same command, and the same files under the same path."
                )
            time.sleep(POLL_INTERVAL_S)


def _any_started_after(start_time: float, later_stages: tuple[stages.Stage, ...], root: Path) -> bool:
    """Return whether a build of one of the stages has started since `start_time`, in seconds since the epoch."""
    paths = [artifacts.partial_folder(root / stage.name) / artifacts.STATE for stage in later_stages]
    return any(path.exists() and path.stat().st_mtime > start_time for path in paths)


def _run_in_scratch_copy(stage: stages.Stage, experiment: Experiment, root: Path) -> None:
    """Run a stage in a scratch copy of the run: a secondary worker takes part in a training, but writes nothing.

    The stage's unfinished build and its cache are copied, so that it resumes where the first worker does. The outputs
    of other stages are linked.
    """
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        unfinished, cache = artifacts.partial_folder(root / stage.name), Cache(root, stage.name)
        for path in root.iterdir():
            if path.is_dir() and path.name not in (unfinished.name, CACHE):
                (scratch / path.name).symlink_to(path.resolve())
        copies = {unfinished: scratch / unfinished.name, cache.folder: scratch / CACHE / stage.name}
        for source, target in copies.items():
            if source.exists():
                shutil.copytree(source, target)
        inputs = stages.stage_key(stage, experiment, root)[2]
        stage.run(StageRun(experiment, scratch, scratch / unfinished.name, inputs, Cache(scratch, stage.name)))


def load_finished_run(
    experiment: Experiment, until: str = stages.DEFAULT_LAST_STAGE, overrides: tuple[str, ...] = ()
) -> tuple[Experiment, Path]:
    """Return the settings that a finished run was made with, and its folder.

    Args:
        experiment: The experiment as it is now. Settings that changed since the run are logged, and do not count.
        until: The last stage that has to be finished. Defaults to the last that every run has.
        overrides: The `key.subkey=value` pairs of the command, which have to be those of the run.

    Raises:
        InputError: If a stage has not finished, or was made from other files than those of the stages before it, or
            with another value of a setting in `overrides`.
    """
    root = runs.root() / experiment.name
    last = "" if until == stages.DEFAULT_LAST_STAGE else f" --until {until}"
    remedy = f"Run: bcgan run {experiment.name}{last}"
    run_settings, changes = experiment.model_dump(mode="json"), {}
    for stage in stages.stages_until(until):
        if not (root / stage.name / artifacts.MANIFEST).exists():
            raise InputError(f"{root / stage.name}: not finished. {remedy}")
        settings_of_stage = runs.read_json(root / stage.name / artifacts.MANIFEST)["settings"]
        changes |= dict.fromkeys(_list_changes(settings_of_stage, stages.stage_settings(stage, experiment)))
        for key, value in settings_of_stage.items():
            # A manifest lacks WITHOUT_EFFECT_ON_OUTPUTS: those keep the experiment's values.
            run_settings[key] = run_settings[key] | value if isinstance(value, dict) else value
    for name in ("ablation", "cross_validation", "learning_curve"):
        if (root / name / artifacts.MANIFEST).exists():
            with_stage = run_settings | {name: runs.read_json(root / name / artifacts.MANIFEST)["settings"][name]}
            with suppress(ValueError):  # if its settings no longer fit the others, the report leaves the stage out
                Experiment.model_validate(with_stage)
                run_settings = with_stage
    _report_changes(root, list(changes), overrides, remedy)
    try:
        experiment = Experiment.model_validate(run_settings)
    except ValueError as error:
        raise InputError(f"{root}: made with settings that this bcgan does not know. {remedy}") from error
    for stage in stages.stages_until(until)[1:]:
        if reason := artifacts.stale_reason(root / stage.name, stages.stage_key(stage, experiment, root)[0]):
            raise InputError(f"{root / stage.name}: {reason}. {remedy}")
    return experiment, root


def _report_changes(root: Path, changes: list[str], overrides: tuple[str, ...], remedy: str) -> None:
    """Log which settings changed since a run, of which the experiment's values do not count.

    Args:
        root: The run's folder.
        changes: `key.subkey=value`, with the value that does not count.

    Raises:
        InputError: If one of them is among the overrides.
    """
    changes = [change for change in changes if not change.startswith("data.dir")]  # data may have moved
    for pair in overrides:
        key = pair.partition("=")[0].strip()
        if any(change == pair or change.startswith((f"{key}=", f"{key}.", f"{key} ")) for change in changes):
            raise InputError(f"{pair} has no effect: {root} was made with another value. {remedy} --set {pair}")
    if changes:
        log.warning("%s was made with other settings, which count: now %s", root, _shorten(changes))
