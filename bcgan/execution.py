"""Running the stages: which have to, in what order, and what the other workers of a cluster do meanwhile."""

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bcgan import machine, runs, stages
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.progress import log

POLL = 1.0  # seconds between looks of a worker at how far the first one is
GRACE = 60.0  # seconds after which it no longer believes that the first one will come


def plan(experiment: Experiment, root: Path, force: tuple[str, ...] = ()) -> list[tuple[stages.Stage, str | None]]:
    """Every stage with why it would run now, or None where it would be skipped."""
    planned, stale = [], set()
    for stage in stages.STAGES:
        upstream = sorted({read.split("/")[0] for read in stage.reads} & stale)
        if stage.name in force:
            why = "forced"
        elif upstream:
            why = f"{' and '.join(upstream)} will run"
        else:
            key, _, _ = stages.key(stage, experiment, root)
            why = runs.why_stale(root / stage.name, key)
        if why:
            stale.add(stage.name)
        planned.append((stage, why))
    return planned


def execute(
    experiment: Experiment, force: tuple[str, ...] = (), dry_run: bool = False, until: str = stages.LAST
) -> None:
    """Run what has to run, in order, up to and with `until`; say why each stage runs or is skipped.

    Raises:
        InputError, WorkError: from the stage that failed; its folder keeps what can be resumed, and no manifest.
    """
    experiment, root = _where_it_lay(experiment), runs.ROOT / experiment.name
    until = max((until, *force), key=stages.NAMES.index)
    if dry_run:
        for stage, why in plan(experiment, root, force)[: len(stages.up_to(until))]:
            reason = "" if stage in stages.up_to() else f" (asked for by --until {stage.name})"
            state = f"would run: {why}{reason}" if why else "would be skipped: whole and current"
            log.info("%-10s %s", stage.name, state)
        return
    cluster = experiment.distribute != "off" and machine.cluster()
    if cluster and force:
        raise InputError("--force with TF_CONFIG: the other workers would not know. Run it once without TF_CONFIG.")
    if cluster or experiment.distribute == "on":
        from bcgan import distribute

        distribute.prepare(experiment)  # before TensorFlow computes anything
    if cluster and cluster["index"]:
        follow(experiment, root, until)
        return
    with runs.lock(root, patience=10 if cluster else 0):
        for stage in stages.up_to(until):
            _bring_up_to_date(stage, experiment, root, stage.name in force)


def _bring_up_to_date(stage: stages.Stage, experiment: Experiment, root: Path, forced: bool) -> None:
    """Run a stage, or say why not."""
    folder = root / stage.name
    key, settings, inputs = stages.key(stage, experiment, root)
    why = "forced" if forced else runs.why_stale(folder, key)
    if why is None:
        log.info("%s: skipped, whole and current", stage.name)
        return
    if not forced and runs.undo(folder, key):
        log.info("%s: skipped, what other settings had set aside is whole and current", stage.name)
        return
    log.info("%s: runs, %s", stage.name, why)
    runs.begin(folder, key, inputs, forced)
    began = time.monotonic()
    try:
        stage.run(experiment, root)
    except InputError:
        runs.undo(folder)
        raise
    except Exception as error:
        # TensorFlow's kind is known by its name: a stage without TensorFlow must not load it for this.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        raise WorkError(
            f"{stage.name}: out of memory. Lower {stage.memory_setting}, or close other programs, and run it again."
        ) from error
    runs.finish(folder, key, stage.name, settings, inputs, began)
    log.info("%s: done in %.0f s", stage.name, time.monotonic() - began)


def _where_it_lay(experiment: Experiment) -> Experiment:
    """Where nobody says where the data are, they are where `preprocess` found them."""
    manifest = runs.ROOT / experiment.name / "preprocess" / runs.MANIFEST
    try:
        settings = runs.read_json(manifest)["settings"]["data"]
        places, same_data = tuple(map(Path, settings["dir"])), settings["name"] == experiment.data.name
    except (OSError, ValueError, KeyError, TypeError):
        return experiment
    if experiment.data.dir or not (same_data and places and all(place.exists() for place in places)):
        return experiment
    log.info("data.dir: as before, %s", ":".join(map(str, places)))
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"dir": places})})


def follow(experiment: Experiment, root: Path, until: str) -> None:
    """What a worker other than the first does: take part in the trainings that are shared, in a scratch copy of what
    the first one left, and wait for it in between. It writes nothing into the run.

    Raises:
        WorkError: the first worker does not run, or went on with other settings or data.
    """
    root.mkdir(parents=True, exist_ok=True)
    began = time.time()
    for number, stage in enumerate(stages.up_to(until)):
        taken_part, waits_since, lost_since = not stage.shared, time.monotonic(), None
        # Its inputs are whole, but for those of the first stage, so that the key stays what it is.
        key = stages.key(stage, experiment, root)[0]
        while why := runs.why_stale(root / stage.name, key):
            if not taken_part and runs.unfinished(root / stage.name, "key") == key:
                log.info("%s: takes part, %s", stage.name, why)
                _take_part(stage, experiment, root)
                taken_part, waits_since = True, time.monotonic()
            lost_since = None if runs.is_locked(root) else lost_since or time.monotonic()
            if lost_since and time.monotonic() - lost_since > GRACE:
                raise WorkError(
                    f"{root}: the first worker does not run there. Start it, and see that both share this folder."
                )
            later = [root / later_stage.name / runs.UNFINISHED for later_stage in stages.STAGES[number + 1 :]]
            if time.monotonic() - waits_since > GRACE and any(p.exists() and p.stat().st_mtime > began for p in later):
                raise WorkError(
                    f"{root / stage.name}: the first worker went on with other settings or data. Give every worker "
                    "the same command, and the same files under the same path."
                )
            time.sleep(POLL)


def _take_part(stage: stages.Stage, experiment: Experiment, root: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for folder in (place for place in root.iterdir() if place.is_dir()):
            if folder.name == stage.name:
                shutil.copytree(folder, Path(scratch, folder.name))
            else:
                Path(scratch, folder.name).symlink_to(folder.resolve())
        stage.run(experiment, Path(scratch))


def require(experiment: Experiment) -> tuple[Experiment, Path]:
    """A finished run: the settings that it ran with, and its folder.

    Raises:
        InputError: a stage has not finished, or belongs to other files than the ones before it.
    """
    root = runs.ROOT / experiment.name
    again = f"Run: make train EXPERIMENT={experiment.name}"
    ran = experiment.model_dump(mode="json")
    for name in (stage.name for stage in stages.up_to()):
        if not (root / name / runs.MANIFEST).exists():
            raise InputError(f"{root / name}: not finished. {again}")
        for key, value in runs.read_json(root / name / runs.MANIFEST)["settings"].items():
            ran[key] = ran[key] | value if isinstance(value, dict) else value  # UNSEEN ones stay
    for name in ("factors", "folds", "learning_curve"):
        if (root / name / runs.MANIFEST).exists():
            variant = ran | {name: runs.read_json(root / name / runs.MANIFEST)["settings"][name]}
            with suppress(ValueError):  # of settings that no longer fit the others: the report leaves it out
                Experiment.model_validate(variant)
                ran = variant
    try:
        experiment = Experiment.model_validate(ran)
    except ValueError as error:
        raise InputError(f"{root}: made with settings that this bcgan does not know. {again}") from error
    for stage in stages.up_to()[1:]:
        if why := runs.why_stale(root / stage.name, stages.key(stage, experiment, root)[0]):
            raise InputError(f"{root / stage.name}: {why}. {again}")
    return experiment, root
