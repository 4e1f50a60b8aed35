"""The commands that work slide by slide, resumable and on several processes: `batch` scores, `tile` cuts patches."""

import re
from pathlib import Path

import click

from bcgan import outputs, progress
from bcgan.cli_options import (
    context_option,
    engine_option,
    fast_option,
    make_mpp_choice,
    model_option,
    patient_option,
    prepare_process,
    slide_options,
)
from bcgan.errors import InputError
from bcgan.sizes import MAX_SIZE, MIN_SIZE


@click.group()
def slide_commands() -> None:
    """Group the commands, which `bcgan.cli` adds to its own."""


@slide_commands.command(short_help="Score many slides, resumable.")
@slide_options
@click.option("--out", type=click.Path(file_okay=False), default="scores", show_default=True, help="A folder.")
@model_option
@click.option(
    "--maps", is_flag=True, help="Heat maps, overlays and QuPath outlines too: in OUT/maps, a folder a slide."
)
@patient_option
@context_option
@fast_option
@engine_option
def batch(
    sources, mpp, mpp_csv, runner: str, workers: int, options, out: str, model, maps: bool, patient: str | None,
    neighbours: bool, fast: bool, engine,
) -> None:  # fmt: skip
    """Score slides: each file and each subfolder of the folders SOURCES is one slide.

    Every slide gets a file of rows. Run it again, and only new or changed slides are scored.
    """
    prepare_process()
    from bcgan.predict import slidewise
    from bcgan.predict.batch import PredictJob

    job = PredictJob(Path(out), model, engine, mpp, mpp_csv and Path(mpp_csv), neighbours, fast, maps)
    slides = slidewise.find_slides(sources, job.folders)
    make_mpp_choice(mpp, mpp_csv, slidewise.list_images(slides))
    patients = job.out / "patients.csv"
    if patient:
        from bcgan.predict import summary

        summary.find_patients([str(slide.path) for slide in slides], patient)  # raises before anything is scored
    outputs.make_folder(job.out)
    patients.unlink(missing_ok=True)  # of an earlier call
    code = 0
    try:
        _run_slidewise(job, slides, runner, workers, options)
    except click.exceptions.Exit as stop:  # some were refused: those that were not are summarized
        code = stop.exit_code
    if counts_by_slide := slidewise.read_counts(slides, job):
        job.log_totals(counts_by_slide)
    if patient and (rows := job.summarize_patients(counts_by_slide, patient)):
        summary.write(rows, patients)
    if code:
        click.get_current_context().exit(code)


@slide_commands.command(short_help="Cut annotated slides into labelled patches.")
@slide_options
@click.option("--out", type=click.Path(file_okay=False), default="patches", show_default=True, help="A folder.")
@click.option(
    "--annotations", required=True, type=click.Path(exists=True, file_okay=False),
    help="A folder with <slide>.geojson, polygons as QuPath writes them.",
)  # fmt: skip
@click.option(
    "--class", "classes", multiple=True, metavar="NAME=LABEL",
    help="Label of an annotation class, benign or malignant; repeatable. Without it, Tumor, Tumour and Malignant are "
    "malignant; Benign, Normal and Stroma are benign.",
)  # fmt: skip
@click.option("--malignant", multiple=True, metavar="NAME", help="Short for --class NAME=malignant; repeatable.")
@click.option(
    "--ignore", multiple=True, metavar="NAME",
    help="An annotation class whose tissue is left out, as that of all names that end in *; repeatable.",
)  # fmt: skip
@click.option(
    "--region", multiple=True, metavar="NAME",
    help="An annotation class that outlines what was annotated, as Region* does; repeatable. Where a slide has one, "
    "all tissue outside is left out.",
)  # fmt: skip
@click.option(
    "--outside", type=click.Choice(["benign", "ignore"]), default="benign", show_default=True,
    help="What tissue outside of all polygons is.",
)  # fmt: skip
@click.option(
    "--patient", metavar="PATTERN",
    help="Finds the patient in a slide's name without its suffix; all of that name if not given.",
)  # fmt: skip
@click.option(
    "--size", type=click.IntRange(MIN_SIZE, MAX_SIZE), default=50, show_default=True, help="Side of a patch, pixels.",
)  # fmt: skip
@click.option(
    "--patch-mpp", type=click.FloatRange(0.1, 20), default=4.0, show_default=True, metavar="MICRONS",
    help="Microns per pixel of a patch.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the table of annotation classes, and write nothing.")
def tile(
    sources, mpp, mpp_csv, runner, workers, options, out, annotations,
    classes, malignant, ignore, region, outside, patient, size, patch_mpp, dry_run,
) -> None:  # fmt: skip
    """Cut every annotated slide in SOURCES into labelled patches, as the experiment `tiled` trains on.

    By default patches are as those of the data set idc: 50 pixels of 4 microns. The experiment `tiled` trains on
    them; for others, set data.size and data.mpp as --size and --patch-mpp. The innermost polygon decides. A class that
    nobody decided stops the command. Every slide gets an archive; run it again, and only what is new or changed is
    cut.
    """
    try:
        re.compile(patient or "")
    except re.error as error:
        raise InputError(f"--patient: {patient!r} is not a regular expression ({error}).") from error
    prepare_process()
    from bcgan.predict import slidewise
    from bcgan.predict import tile as tiling
    from bcgan.slides import annotation_table
    from bcgan.slides import annotations as qupath

    outside = qupath.IGNORED if outside == "ignore" else qupath.BENIGN
    decisions = qupath.decide(classes, ignore, malignant, region, outside)
    job = tiling.TileJob(
        Path(out), Path(annotations), decisions, patient, mpp, mpp_csv and Path(mpp_csv), size, patch_mpp
    )
    slides = slidewise.find_slides(sources, job.folders)
    make_mpp_choice(mpp, mpp_csv, slidewise.list_images(slides))
    tiling.check_patients(slides, patient)  # before archives of an earlier run are replaced
    files = tiling.read_all_annotations(slides, job)
    table = annotation_table.class_table(files, decisions, tiling.patch_areas(slides, job))
    click.echo(annotation_table.format_table(table))
    annotation_table.check_decided(table)
    if not dry_run:
        _run_slidewise(job, slides, runner, workers, options)
    elif failures := tiling.find_failures(slides, job):
        for failure in failures:
            progress.log.warning("tile: %s", failure)
        progress.log.warning("tile: %d of %d slides cannot be cut", len(failures), len(slides))
        click.get_current_context().exit(3)


def _run_slidewise(job, slides: list, runner: str, workers: int, options: tuple[str, ...]) -> None:
    """Run a job on every slide, log the counts, and exit with code 3 if something was refused."""
    from bcgan.predict import slidewise

    counts = slidewise.run_job(slides, job, runner, workers, tuple(f"--{option}" for option in options))
    progress.log.info(
        "%s: %d slides done, %d were up to date; %s/summary.csv", job.name, counts["done"], counts["skipped"], job.out
    )
    if counts["unreadable"] or counts["refused"]:
        progress.log.warning(
            "%s: %d slides have patches that could not be read, %d slides were refused, with the reason in the log and "
            "in summary.csv", job.name, counts["unreadable"], counts["refused"],
        )  # fmt: skip
        click.get_current_context().exit(3)
