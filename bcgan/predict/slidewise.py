"""Process many slides, one result file for each: in one process, in several, or with Apache Beam on a cluster.

A slide is a file or folder that lies directly in a source folder. Its result is written to a temporary file, which is
renamed when it is complete. A slide whose content and settings did not change since its result was written is skipped.
All runners write the same bytes. Jobs define what is done to a slide: `bcgan.predict.batch` predicts it,
`bcgan.predict.tile` cuts it into labeled patches.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from bcgan import __version__, progress
from bcgan.errors import InputError, WorkError
from bcgan.slides.files import ImageFile, find_images, list_children, printable
from bcgan.slides.fingerprints import fingerprint


class Slide(NamedTuple):
    """A slide to process.

    Attributes:
        name: Name of the file or folder, printable.
        path: Path of the file or folder.
        image: The image with all its files. `None` for a folder or an archive of patches.
    """

    name: str
    path: Path
    image: ImageFile | None = None

    def images(self) -> list[ImageFile]:
        """Return the image, or those of the folder or archive."""
        return [self.image] if self.image else find_images([str(self.path)])


class SlideJob(Protocol):
    """What is done to every slide. A job is pickled for worker processes.

    Attributes:
        out: Folder to write.
        name: Name of the command.
        suffix: Suffix of the result files.
        folders: Whether folders and archives of patches count as slides.
    """

    out: Path
    name: str
    suffix: str
    folders: bool

    def settings(self, slide: Slide) -> Any:
        """Return what the result depends on, apart from the slide; serializable as JSON."""

    def write(self, slide: Slide, path: Path) -> dict[str, float]:
        """Write the result file of a slide and return the number of patches by kind, and areas where it sums them."""

    def summary_columns(self, counts: dict[str, float]) -> dict[str, Any]:
        """Return the columns of a slide in summary.csv from its numbers of patches."""


def find_slides(sources: Iterable[str], folders: bool = True) -> list[Slide]:
    """Find the slides that lie directly in the source folders, sorted by name.

    The files of one DICOM series are one slide, and the data folder of a MIRAX slide is none.

    Args:
        folders: Whether folders and archives of patches count as slides.

    Raises:
        InputError: If a source is no folder, there is no slide, or two slides have the same name.
    """
    by_name: dict[str, Slide] = {}
    for source in sources:
        if not Path(source).is_dir():
            raise InputError(f"{source} is no folder. Give folders that contain slides, or one folder for each slide.")
        for child in list_children(Path(source)):
            if child.kind != "image" and not folders:
                if child.kind == "archive":
                    progress.log.warning("%s: archives are not read as slides here and are left out", child.path)
                continue
            slide = Slide(printable(child.name), child.path, child.image)
            if slide.name in by_name:
                raise InputError(f"{child.path}: {by_name[slide.name].path} has the same name. Rename one of them.")
            by_name[slide.name] = slide
    if not by_name:
        raise InputError(
            f"{' '.join(sources)}: no slide there. Give folders that contain slides, or one folder for each slide."
        )
    return [by_name[name] for name in sorted(by_name)]


def list_images(slides: Iterable[Slide]) -> list[ImageFile]:
    """Return the images of all slides; those of a folder that has none, which is refused later, are left out."""
    images: list[ImageFile] = []
    for slide in slides:
        with suppress(InputError):
            images += slide.images()
    return images


def run_job(
    slides: list[Slide], job: SlideJob, runner: str, workers: int, options: tuple[str, ...] = ()
) -> dict[str, int]:
    """Process the slides whose results are not up to date, and write summary.csv.

    Each slide has two files: slides/<slide><suffix>, the result, and slides/<slide>.json, its key and the number of
    patches by kind, or why the slide was refused.

    Args:
        runner: "serial", "pool" or "beam".
        workers: Number of processes, with the pool, and with Beam if there are no options.
        options: Options of Beam, such as --runner=FlinkRunner.

    Returns:
        Numbers of slides: `done` now, `skipped` as up to date, `unreadable` in part, `refused` as they are.

    Raises:
        InputError: If Beam is requested and not installed.
        WorkError: If slides failed; the results of the others are kept.
    """
    (job.out / "slides").mkdir(parents=True, exist_ok=True)
    stale = [slide for slide in slides if _read_state(slide, job).get("key") != _hash_inputs(slide, job)]
    if stale and runner == "beam":
        _run_on_beam(stale, job, workers, options)
    elif stale:
        if runner == "serial":
            errors = (process_slide(slide, job) for slide in stale)
        else:
            errors = _run_in_pool(stale, job, workers)
        with progress.bar(len(slides), job.name, "slide", start=len(slides) - len(stale)) as bar:
            for error in errors:
                bar.update()
                if error:
                    progress.log.warning("%s: %s", job.name, error)
    _warn_of_leftovers(slides, job)
    states = {slide.name: _read_state(slide, job) for slide in slides}
    _write_summary(states, job)
    if failed := [name for name, state in states.items() if not state]:
        raise WorkError(
            f"{len(failed)} of {len(slides)} slides failed, first {failed[0]}. Run the command again: it repeats only "
            "those."
        )
    tried = {slide.name for slide in stale}
    for name, state in states.items():
        if "refused" in state and name not in tried:
            progress.log.warning("%s: %s: %s (as before; it was not tried again)", job.name, name, state["refused"])
    num_refused = sum("refused" in state for state in states.values())
    num_unreadable = sum(state.get("patches", {}).get("unreadable", 0) > 0 for state in states.values())
    num_done = sum("refused" not in states[slide.name] for slide in stale)
    num_skipped = len(slides) - num_done - num_refused
    return {"done": num_done, "skipped": num_skipped, "unreadable": num_unreadable, "refused": num_refused}


def read_counts(slides: list[Slide], job: SlideJob) -> dict[str, dict[str, float]]:
    """Return what `SlideJob.write` returned of the slides that were processed, by their path."""
    states = {str(slide.path): _read_state(slide, job) for slide in slides}
    return {path: state["patches"] for path, state in states.items() if "patches" in state}


def _warn_of_leftovers(slides: list[Slide], job: SlideJob) -> None:
    """Warn of results that belong to none of the slides."""
    expected = {f"{slide.name}{job.suffix}" for slide in slides}
    present = {path.name for path in (job.out / "slides").glob(f"*{job.suffix}")}
    if leftovers := sorted(present - expected):
        progress.log.warning(
            "%s: %s belongs to no slide of the sources (%d such files in %s). Remove it if it is not needed.",
            job.name, leftovers[0], len(leftovers), job.out / "slides",
        )  # fmt: skip


def _write_summary(states: dict[str, dict], job: SlideJob) -> None:
    """Write summary.csv from the slides' states: a row each, with the job's columns, or why it was refused."""
    rows = []
    for name, state in states.items():
        row = {"slide": name} | (job.summary_columns(state["patches"]) if "patches" in state else {})
        if "refused" in state:
            row["refused"] = state["refused"]
        rows.append(row)
    part = job.out / "summary.csv.part"
    pd.DataFrame(rows).convert_dtypes().to_csv(part, index=False)
    part.replace(job.out / "summary.csv")


def process_slide(slide: Slide, job: SlideJob) -> str:
    """Process one slide, and return the error instead of raising it, so that the other slides are still processed.

    If the job refuses the slide (InputError, ValueError), the reason is recorded, and the slide is not tried again
    until it or its settings change.

    Returns:
        The slide's name and the error; "" if there was none.
    """
    result, state = _result_and_state_paths(slide, job)
    name_hash = hashlib.sha256(os.fsencode(result.name)).hexdigest()[:16]  # a longer name may be too long for a file
    part = result.with_name(f".{name_hash}.{os.getpid()}.part")
    try:
        for outdated in (state, result):
            outdated.unlink(missing_ok=True)
        # Computed before the work: if the slide changes meanwhile, it is processed again.
        key = _hash_inputs(slide, job)
        try:
            outcome, reason = {"patches": job.write(slide, part)}, ""
            part.replace(result)
        except (InputError, ValueError) as error:
            reason = printable(str(error))
            outcome = {"refused": reason}
        part.write_text(json.dumps({"key": key} | outcome), "utf-8")
        part.replace(state)
    except Exception as error:
        part.unlink(missing_ok=True)
        return f"{slide.name}: {str(error) if isinstance(error, OSError) else repr(error)}"
    return f"{slide.name}: {reason}" if reason else ""


def _result_and_state_paths(slide: Slide, job: SlideJob) -> tuple[Path, Path]:
    """Return the paths of a slide's result, <slide><suffix>, and of its state, <slide>.json."""
    return tuple(job.out / "slides" / f"{slide.name}{suffix}" for suffix in (job.suffix, ".json"))


def _read_state(slide: Slide, job: SlideJob) -> dict:
    """Return the state of a slide's result; {} if neither a result nor a refusal is complete.

    Returns:
        key: Hash of all that the result depends on.
        patches: Numbers of patches by kind, as the job counts them; or
        refused: Why the slide cannot be processed.
    """
    result, path = _result_and_state_paths(slide, job)
    try:
        state = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return state if result.exists() or "refused" in state else {}


def _hash_inputs(slide: Slide, job: SlideJob) -> str:
    """Return a hash of all that the result of a slide depends on: its files, the settings and bcgan's version."""
    files = (slide.path, *slide.image.parts) if slide.image else (slide.path,)
    source = [str(slide.path), fingerprint(files)]
    content = json.dumps([__version__, source, job.settings(slide)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _run_in_pool(slides: list[Slide], job: SlideJob, workers: int) -> Iterator[str]:
    """Process slides in worker processes, and yield what `process_slide` returns as each one ends."""
    # A forked child would inherit its parent's threads in an unknown state.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=progress.hide_bars) as pool:
        try:
            for future in as_completed([pool.submit(process_slide, slide, job) for slide in slides]):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkError(
                "A worker process died, probably because memory ran out. Finished slides are kept; run the command "
                "again with fewer --workers for the others."
            ) from error


def _run_on_beam(slides: list[Slide], job: SlideJob, workers: int, options: tuple[str, ...]) -> None:
    """Process slides with Apache Beam, on this machine if there are no options."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError(f"Apache Beam cannot be used ({error}): pip install -r requirements-beam.txt") from error
    local_options = (f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing")
    with beam.Pipeline(options=PipelineOptions(list(options or local_options))) as pipeline:
        errors = pipeline | beam.Create(slides) | beam.Reshuffle() | beam.Map(lambda slide: process_slide(slide, job))
        errors | beam.Filter(bool) | beam.Map(progress.log.warning)
