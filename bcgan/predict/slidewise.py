"""Many slides: one file a slide, by one process, by several, or by Apache Beam on a cluster.

The unit is a slide: every file or folder that lies directly in a source. A slide's file is written beside its place
and renamed when it is whole, so whatever was there is either current or nothing; a slide that is what its file was made
of, under the same settings, is skipped. All runners give the same bytes. What is done to a slide is a job's own affair:
`bcgan.predict.batch` scores it, `bcgan.predict.tile` cuts it into labelled patches.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from bcgan import __version__, progress
from bcgan.errors import InputError, WorkError
from bcgan.slides.files import ImageFile, children, find_images, fingerprint, printable


class Slide(NamedTuple):
    """name: of the file or folder, printable. path: where it lies. image: the image, with all its files; None: a folder
    or an archive of patches."""

    name: str
    path: Path
    image: ImageFile | None = None

    def images(self) -> list[ImageFile]:
        """The image, or those of the folder or archive."""
        return [self.image] if self.image else find_images([str(self.path)])


class Job(Protocol):
    """What is done to every slide; another process gets a copy of it.

    name, suffix: of the command and of its files. folders: whether a folder of patches is a slide too.
    """

    out: Path
    name: str
    suffix: str
    folders: bool

    def settings(self, slide: Slide) -> Any:
        """What the file depends on beside the slide, as JSON has it."""

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """Write the file; the number of patches by kind."""


def slides(sources: Iterable[str], folders: bool = True) -> list[Slide]:
    """Every image, and every folder and archive where these count, that lies directly in a source, by name.

    The files of one DICOM series are one slide, and the folder of a MIRAX slide's data is none.

    Raises:
        InputError: If a source is no folder, holds nothing, or two slides have one name.
    """
    by_name: dict[str, Slide] = {}
    for source in sources:
        if not Path(source).is_dir():
            raise InputError(f"{source} is no folder. Give folders of slides, or of a folder a slide.")
        for child in children(Path(source)):
            if child.kind != "image" and not folders:
                if child.kind == "archive":
                    progress.log.warning("%s: archives are not read as slides here and are left out", child.path)
                continue
            slide = Slide(printable(child.name), child.path, child.image)
            if slide.name in by_name:
                raise InputError(f"{child.path}: {by_name[slide.name].path} has the same name. Rename one of them.")
            by_name[slide.name] = slide
    if not by_name:
        raise InputError(f"{' '.join(sources)}: no slide there. Give folders of slides, or of a folder a slide.")
    return [by_name[name] for name in sorted(by_name)]


def run(
    slides_to_do: list[Slide], job: Job, runner: str, workers: int, options: tuple[str, ...] = ()
) -> dict[str, int]:
    """Write slides/<slide><suffix>, and .json with its key and the number of patches by kind; then summary.csv.

    Args:
        workers: int. Processes, of pool, and of beam where no options are given.
        options: Beam's own, such as --runner=FlinkRunner.

    Returns:
        {done, skipped, unreadable, refused}: numbers of slides; done: of those that were written now, skipped: of those
        that were up to date, unreadable: of those with patches that could not be read, refused: of those that cannot be
        done as they are.

    Raises:
        InputError: Beam is asked for and not installed.
        WorkError: slides failed; the others' files are kept.
    """
    (job.out / "slides").mkdir(parents=True, exist_ok=True)
    todo = [slide for slide in slides_to_do if _state(slide, job).get("key") != _key(slide, job)]
    if todo and runner == "beam":
        _on_beam(todo, job, workers, options)
    elif todo:
        done = (run_one(slide, job) for slide in todo) if runner == "serial" else _in_a_pool(todo, job, workers)
        with progress.bar(len(slides_to_do), job.name, "slide", start=len(slides_to_do) - len(todo)) as bar:
            for error in done:
                bar.update()
                if error:
                    progress.log.warning("%s: %s", job.name, error)
    known = {f"{slide.name}{job.suffix}" for slide in slides_to_do}
    if leftover := sorted({path.name for path in (job.out / "slides").glob(f"*{job.suffix}")} - known):
        progress.log.warning(
            "%s: %s is of no slide that was named (%d such files in %s). Remove it, unless it is wanted.",
            job.name, leftover[0], len(leftover), job.out / "slides",
        )  # fmt: skip
    states = {slide.name: _state(slide, job) for slide in slides_to_do}
    part = job.out / "summary.csv.part"
    rows = [
        {"slide": name} | state.get("patches", {}) | ({"refused": state["refused"]} if "refused" in state else {})
        for name, state in states.items()
    ]
    pd.DataFrame(rows).to_csv(part, index=False)
    part.replace(job.out / "summary.csv")
    if failed := [name for name, state in states.items() if not state]:
        raise WorkError(
            f"{len(failed)} of {len(slides_to_do)} slides failed, first {failed[0]}. Run it again for those alone."
        )
    tried = {slide.name for slide in todo}
    for name, state in states.items():
        if "refused" in state and name not in tried:
            progress.log.warning("%s: %s: %s (as before; it was not tried again)", job.name, name, state["refused"])
    refused = sum("refused" in state for state in states.values())
    unreadable = sum(state.get("patches", {}).get("unreadable", 0) > 0 for state in states.values())
    done = sum("refused" not in states[slide.name] for slide in todo)
    skipped = len(slides_to_do) - done - refused
    return {"done": done, "skipped": skipped, "unreadable": unreadable, "refused": refused}


def run_one(slide: Slide, job: Job) -> str:
    """Do one slide. What goes wrong is returned and not raised, so that other slides go on; "" where nothing did.

    A slide that cannot succeed as it is has its reason written down, and is not tried again until it or its settings
    change.
    """
    result, state = _places(slide, job)
    part = result.with_name(f".{result.name}.{os.getpid()}.part")
    try:
        for old in (state, result):
            old.unlink(missing_ok=True)
        key = _key(slide, job)  # before the work: what changes meanwhile is done again
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


def _places(slide: Slide, job: Job) -> tuple[Path, Path]:
    return tuple(job.out / "slides" / f"{slide.name}{suffix}" for suffix in (job.suffix, ".json"))


def _state(slide: Slide, job: Job) -> dict:
    """What was written of a slide's file, or why it was refused; empty where neither is complete."""
    result, path = _places(slide, job)
    try:
        state = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return state if result.exists() or "refused" in state else {}


def _key(slide: Slide, job: Job) -> str:
    files = (slide.path, *slide.image.parts) if slide.image else (slide.path,)
    read = [str(slide.path), fingerprint(files)]
    return hashlib.sha256(json.dumps([__version__, read, job.settings(slide)], sort_keys=True).encode()).hexdigest()


def _in_a_pool(todo: list[Slide], job: Job, workers: int) -> Iterator[str]:
    # A forked child would inherit its parent's threads in an unknown state.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(run_one, slide, job) for slide in todo]):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkError(
                "A worker died, most likely for want of memory. Slides that are done are kept; run it again with fewer "
                "--workers for the others."
            ) from error


def _on_beam(todo: list[Slide], job: Job, workers: int, options: tuple[str, ...]) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError(f"Apache Beam cannot be used ({error}): pip install -r requirements-beam.txt") from error
    here = (f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing")
    with beam.Pipeline(options=PipelineOptions(list(options or here))) as pipeline:
        errors = pipeline | beam.Create(todo) | beam.Reshuffle() | beam.Map(lambda slide: run_one(slide, job))
        errors | beam.Filter(bool) | beam.Map(progress.log.warning)
