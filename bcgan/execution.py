"""Running the stages: which have to, in what order, and what the other workers of a cluster do meanwhile."""

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bcgan import artifacts, machine, runs, stages
from bcgan.artifacts import CACHE, Cache, StageRun
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.progress import log

POLL = 1.0  # seconds between looks of a worker at how far the first one is
GRACE = 60.0  # seconds after which it no longer believes that the first one will come


def plan(experiment: Experiment, root: Path, force: tuple[str, ...] = ()) -> list[tuple[stages.Stage, str | None]]:
    """Every stage with why it would run now, or None where it would be skipped."""
    planned, stale = [], set()
    for stage in stages.STAGES:
        upstream = sorted({read.split("/")[0] for read in stage.inputs} & stale)
        if stage.name in force:
            why = "forced"
        elif upstream:
            why = f"{' and '.join(upstream)} will run"
        else:
            key, _, _ = stages.key(stage, experiment, root)
            why = artifacts.stale_reason(root / stage.name, key)
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
            reason = "" if stage in stages.up_to() else f" (only with --until {stage.name})"
            state = f"would run: {why}{reason}" if why else "would be skipped: up to date"
            log.info("%-16s %s", stage.name, state)
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
    """Run a stage, unless it is up to date."""
    folder = root / stage.name
    key, settings, inputs = stages.key(stage, experiment, root)
    reason = "forced" if forced else artifacts.stale_reason(folder, key)
    if reason is None:
        log.info("%s: skipped, up to date", stage.name)
        return
    log.info("%s: runs, %s", stage.name, reason)
    run = StageRun(experiment, root, artifacts.partial_folder(folder), inputs, Cache(root, stage.name))
    state, start_time = artifacts.unfinished(folder), time.monotonic()
    if forced and not (state.get("key") == key and state.get("restarted")):
        run.cache.clear()

    def make(_: Path) -> dict[str, list[str]]:
        stage.run(run)
        return {"cache": sorted(run.cache.used)}

    try:
        record = {"stage": stage.name, "settings": settings, "inputs": inputs}
        artifacts.build(folder, key, make, record, forced)
    except InputError:
        artifacts.discard_empty(folder)
        raise
    except Exception as error:
        # TensorFlow's error is recognised by its name, so that stages without TensorFlow need not import it.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        raise WorkError(
            f"{stage.name}: out of memory. Lower {stage.memory_setting}, or close other programs, and run it again."
        ) from error
    log.info("%s: done in %.0f s", stage.name, time.monotonic() - start_time)


def _where_it_lay(experiment: Experiment) -> Experiment:
    """Where nobody says where the data are, they are where `preprocess` found them."""
    manifest = runs.ROOT / experiment.name / "preprocess" / artifacts.MANIFEST
    try:
        settings = runs.read_json(manifest)["settings"]["data"]
        places, same_data = tuple(map(Path, settings["dir"])), settings["name"] == experiment.data.name
    except (OSError, ValueError, KeyError, TypeError):
        return experiment
    if experiment.data.dir or not (same_data and places and all(place.exists() for place in places)):
        return experiment
    log.info("data.dir: as before, %s", ":".join(map(str, places)))
    return experiment.replace(data=experiment.data.replace(dir=places))


def follow(experiment: Experiment, root: Path, until: str) -> None:
    """What a worker other than the first does: take part in the trainings that are shared, in a scratch copy of what
    the first one left, and wait for it in between. It writes nothing into the run.

    Raises:
        WorkError: the first worker does not run, or went on with other settings or data.
    """
    root.mkdir(parents=True, exist_ok=True)
    began = time.time()
    for number, stage in enumerate(stages.up_to(until)):
        taken_part, waits_since, lost_since = not stage.distributed, time.monotonic(), None
        # Its inputs are whole, but for those of the first stage, so that the key stays what it is.
        key = stages.key(stage, experiment, root)[0]
        while why := artifacts.stale_reason(root / stage.name, key):
            if not taken_part and artifacts.unfinished(root / stage.name).get("key") == key:
                log.info("%s: takes part, %s", stage.name, why)
                _take_part(stage, experiment, root)
                taken_part, waits_since = True, time.monotonic()
            lost_since = None if runs.is_locked(root) else lost_since or time.monotonic()
            if lost_since and time.monotonic() - lost_since > GRACE:
                raise WorkError(
                    f"{root}: the first worker does not run there. Start it, and see that both share this folder."
                )
            later = [
                artifacts.partial_folder(root / later_stage.name) / artifacts.STATE
                for later_stage in stages.STAGES[number + 1 :]
            ]
            if time.monotonic() - waits_since > GRACE and any(p.exists() and p.stat().st_mtime > began for p in later):
                raise WorkError(
                    f"{root / stage.name}: the first worker went on with other settings or data. Give every worker "
                    "the same command, and the same files under the same path."
                )
            time.sleep(POLL)


def _take_part(stage: stages.Stage, experiment: Experiment, root: Path) -> None:
    """Run a distributed stage in a scratch copy of the run, of which other stages' outputs are only linked."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        folder, cache = artifacts.partial_folder(root / stage.name), Cache(root, stage.name)
        for path in (path for path in root.iterdir() if path.is_dir() and path.name not in (folder.name, CACHE)):
            (scratch / path.name).symlink_to(path.resolve())
        copies = {folder: scratch / folder.name, cache.folder: scratch / CACHE / stage.name}
        for source, target in copies.items():
            if source.exists():
                shutil.copytree(source, target)
        inputs = stages.key(stage, experiment, root)[2]
        stage.run(StageRun(experiment, scratch, scratch / folder.name, inputs, Cache(scratch, stage.name)))


def require(experiment: Experiment) -> tuple[Experiment, Path]:
    """A finished run: the settings that it ran with, and its folder.

    Raises:
        InputError: a stage has not finished, or belongs to other files than the ones before it.
    """
    root = runs.ROOT / experiment.name
    again = f"Run: make train EXPERIMENT={experiment.name}"
    ran = experiment.model_dump(mode="json")
    for name in (stage.name for stage in stages.up_to()):
        if not (root / name / artifacts.MANIFEST).exists():
            raise InputError(f"{root / name}: not finished. {again}")
        for key, value in runs.read_json(root / name / artifacts.MANIFEST)["settings"].items():
            ran[key] = ran[key] | value if isinstance(value, dict) else value  # WITHOUT_EFFECT_ON_OUTPUTS ones stay
    for name in ("ablation", "cross_validation", "learning_curve"):
        if (root / name / artifacts.MANIFEST).exists():
            variant = ran | {name: runs.read_json(root / name / artifacts.MANIFEST)["settings"][name]}
            with suppress(ValueError):  # of settings that no longer fit the others: the report leaves it out
                Experiment.model_validate(variant)
                ran = variant
    try:
        experiment = Experiment.model_validate(ran)
    except ValueError as error:
        raise InputError(f"{root}: made with settings that this bcgan does not know. {again}") from error
    for stage in stages.up_to()[1:]:
        if why := artifacts.stale_reason(root / stage.name, stages.key(stage, experiment, root)[0]):
            raise InputError(f"{root / stage.name}: {why}. {again}")
    return experiment, root
