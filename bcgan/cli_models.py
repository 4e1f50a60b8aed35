"""The commands that use a classifier or a generator: on images and slides, as files, a page or an export."""

import re
import sys
from collections.abc import Iterable

import click

from bcgan import execution, experiment
from bcgan.cli_options import (
    FORMATS,
    context_option,
    engine_option,
    experiment_options,
    model_option,
    mpp_csv_option,
    mpp_option,
    slide_options,
)
from bcgan.errors import InputError
from bcgan.sizes import MAX_SIZE, MIN_SIZE


@click.group()
def models() -> None:
    """Group the commands, which `bcgan.cli` adds to its own."""


@models.command(short_help="Write synthetic patches.")
@click.argument("run", required=False, metavar="[EXPERIMENT]")
@click.option("--label", type=click.Choice(["benign", "malignant"]), required=True, help="The class of the patches.")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="How many patches.")
@click.option(
    "--nuclear-density",
    "density",
    type=click.FloatRange(0, 1),
    help="Share of tissue that nuclei cover, to steer towards. Half of IDC's patches: 0.02 to 0.25 "
    "(benign), 0.30 to 0.76 (malignant).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write; samples/LABEL by default.")
def sample(run: str | None, label: str, count: int, density: float | None, seed: int, out: str | None) -> None:
    """Write synthetic patches of a class that pass the quality filter, and a manifest.

    With the generator of runs/EXPERIMENT, or with the one bundled with bcgan, trained on IDC.
    """
    from pathlib import Path

    _prepare_process(tensorflow=True)
    from bcgan.predict import sample as sampling

    out = out or f"samples/{label}"
    manifest = sampling.write(sampling.load(run), int(label == "malignant"), count, seed, Path(out), density)
    refused = ", ".join(f"{num_refused} {reason}" for reason, num_refused in manifest["refused"].items())
    click.echo(f"{out}: {count} {label} patches of {manifest['tried']} candidates (refused: {refused}), manifest.json")
    densities = manifest["density"]
    text = f"nuclear density: median {densities['median']:.2f} ({densities['low']:.2f} to {densities['high']:.2f})"
    if density is not None:
        low, high = densities["range"]
        text += f"; {density:.2f} was asked for, and the generator's {label} patches reach {low:.2f} to {high:.2f}"
    click.echo(text)


@models.command(short_help="Score images: patches, folders, archives, slides.")
@click.argument("images", nargs=-1, required=True)
@model_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    help="CSV file, or JSON lines if it ends in .jsonl; standard output if not given.",
)
@click.option("--json", "as_jsonl", is_flag=True, help="JSON lines in place of CSV.")
@mpp_option
@mpp_csv_option
@click.option("--maps", type=click.Path(file_okay=False), help="Heat maps, overlays, QuPath outlines: a folder.")
@context_option
@engine_option
@click.pass_context
def predict(
    context: click.Context, images, model, out: str | None, as_jsonl: bool, mpp, mpp_csv, maps: str | None,
    neighbours: bool, engine,
) -> None:  # fmt: skip
    """Score IMAGES: files, folders, archives, patterns, or - for a list on standard input.

    An image about as large as a patch is scored as one; a larger one is cut into patches where it contains tissue, at
    the resolution that it states or that --mpp gives. Tiles of one slide, named as QuPath and other tools name them,
    are scored together.
    """
    from pathlib import Path

    _prepare_process()
    from bcgan import progress
    from bcgan.predict import predict as predicting
    from bcgan.predict.model import load
    from bcgan.slides.files import find_images

    files = find_images(images, _read_file_list(images))
    mpp_choice = _make_mpp_choice(mpp, mpp_csv, files)
    classifier = load(model, engine, predicting.is_small_job(files), neighbours)
    as_jsonl = as_jsonl or bool(out and out.endswith(".jsonl"))
    Path(out or ".").parent.mkdir(parents=True, exist_ok=True)
    part = f"{out}.part" if out and out != "-" else "-"
    with click.open_file(part, "w", "utf-8") as file:
        counts = predicting.predict(classifier, files, file, as_jsonl, mpp_choice, Path(maps) if maps else None)
    if part != "-":
        Path(part).replace(out)
    for condition, thresholds in (
        ("by itself", classifier.card.thresholds),
        ("among its neighbours", classifier.card.spatial_context_thresholds),
    ):
        if thresholds:
            progress.log.info(
                "predict: a patch %s is malignant from %.4f on, and has no label between %.4f and %.4f",
                condition, thresholds.malignant, *thresholds.abstain_range,
            )  # fmt: skip
    progress.log.info(
        "predict: %s; %s",
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count),
        classifier.card.intended_use,
    )
    if counts["unreadable"] or counts["out_of_distribution"] or counts["no_tissue"]:
        context.exit(3)


@models.command(short_help="Measure a classifier on labelled images.")
@experiment_options
@model_option
@mpp_option
@click.option("--out", type=click.Path(file_okay=False), default="assessment", show_default=True, help="A folder.")
@context_option
@engine_option
@click.pass_context
def assess(
    context: click.Context, name: str, data_dir: str | None, overrides, model, mpp, out: str, neighbours: bool, engine
) -> None:
    """Measure a classifier on the labelled images of EXPERIMENT's data set, by patients; nothing is trained."""
    settings = experiment.load(name, overrides, data_dir)
    from pathlib import Path

    _prepare_process()
    from bcgan.predict import assess as assessing
    from bcgan.predict.model import load

    assessment = assessing.assess(load(model, engine, neighbours=neighbours), settings, mpp, Path(out))
    click.echo(f"{assessing.summarize(assessment)}\n{Path(out) / 'assessment.json'}")
    if assessment["unreadable"]:
        context.exit(3)


@models.command(short_help="Score many slides, resumable.")
@slide_options
@click.option("--out", type=click.Path(file_okay=False), default="scores", show_default=True, help="A folder.")
@model_option
@click.option(
    "--maps", is_flag=True, help="Heat maps, overlays and QuPath outlines too: in OUT/maps, a folder a slide."
)
@context_option
@engine_option
def batch(
    sources, mpp, mpp_csv, runner: str, workers: int, options, out: str, model, maps: bool, neighbours: bool, engine
) -> None:
    """Score every slide in SOURCES: each file, and each folder of patches, directly in it.

    Every slide gets a file of rows; run it again, and only what is new or changed is scored.
    """
    from pathlib import Path

    _prepare_process()
    from bcgan.predict import slidewise
    from bcgan.predict.batch import PredictJob

    job = PredictJob(Path(out), model, engine, mpp, mpp_csv and Path(mpp_csv), neighbours, maps)
    slides = slidewise.find_slides(sources, job.folders)
    _make_mpp_choice(mpp, mpp_csv, [image for slide in slides for image in slide.images()])
    _run_slidewise(job, slides, runner, workers, options)


@models.command(short_help="Cut annotated slides into labelled patches.")
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
    from pathlib import Path

    try:
        re.compile(patient or "")
    except re.error as error:
        raise InputError(f"--patient: {patient!r} is not a regular expression ({error}).") from error
    _prepare_process()
    from bcgan import progress
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
    _make_mpp_choice(mpp, mpp_csv, [image for slide in slides for image in slide.images()])
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


def _prepare_process(tensorflow: bool = False) -> None:
    """Set environment variables and start the log. Call it before heavy imports."""
    from bcgan import machine, progress

    machine.prepare_environment(tensorflow=tensorflow)
    progress.start_log(None)


def _make_mpp_choice(mpp: float | None, mpp_csv: str | None, images: list):
    """Return the resolutions that the user gives, and warn of rows of the table without an image."""
    from pathlib import Path

    from bcgan.slides.mpp_table import MppChoice

    choice = MppChoice(mpp, mpp_csv and Path(mpp_csv))
    choice.report_unused(images)
    return choice


def _run_slidewise(job, slides: list, runner: str, workers: int, options: tuple[str, ...]) -> None:
    """Run a job on every slide, log the counts, and exit with code 3 if something was refused."""
    from bcgan import progress
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


@models.command(short_help="Show which pixels support a label.")
@click.argument("images", nargs=-1, required=True)
@model_option
@mpp_option
@mpp_csv_option
@click.option("--out", type=click.Path(file_okay=False), default="explanations", show_default=True, help="A folder.")
@click.pass_context
def explain(context: click.Context, images, model, mpp: float | None, mpp_csv: str | None, out: str) -> None:
    """Show which pixels of each patch in IMAGES support its label, by three methods, as pictures and one page."""
    from pathlib import Path

    _prepare_process()
    from bcgan.predict.explain import write
    from bcgan.predict.model import load
    from bcgan.slides.files import find_images

    files = find_images(images, _read_file_list(images))
    refused = write(load(model), files, Path(out), _make_mpp_choice(mpp, mpp_csv, files))
    click.echo(Path(out) / "index.html")
    if refused:
        context.exit(3)


@models.command(short_help="Open a local page and an HTTP API.")
@model_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. The default takes requests from this machine alone.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--concurrent", type=click.IntRange(1), default=2, show_default=True, help="Images scored at a time.")
def serve(model: str | None, host: str, port: int, concurrent: int) -> None:
    """Open a local page and an HTTP API that score an image. Nothing that is sent is stored."""
    from bcgan import machine

    machine.prepare_environment()
    import uvicorn

    from bcgan.predict.model import load
    from bcgan.predict.serve import check_free, make_app

    check_free(host, port)
    app = make_app(load(model), concurrent)
    click.echo(f"http://{host}:{port} (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, log_level="warning")


@models.command(short_help="Write a run's classifier for predict and other runtimes.")
@experiment_options
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder to write; models/EXPERIMENT by default, models/formats with --model.",
)
@click.option(
    "--all-patients", is_flag=True, help="Train again on the patients of every role, and export that classifier."
)
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Also for another runtime; repeatable."
)
@click.option("--model", help="In place of a run: a folder that `bcgan export` wrote, or `shipped`; with --format.")
@click.option(
    "--patches", type=click.Path(exists=True), help="Patches to check the formats on; phantom patches if not given."
)
def export(name, data_dir, overrides, out, all_patients, formats, model, patches) -> None:
    """Write the classifier of a finished run as a folder for `bcgan predict --model`, and for other runtimes."""
    if model and not formats:
        raise InputError("--model is written for another runtime: say which with --format.")
    if model and all_patients:
        raise InputError("--all-patients trains, and --model is trained already. Leave one of them out.")
    settings = None if model else experiment.load(name, overrides, data_dir)
    from pathlib import Path

    _prepare_process()
    from bcgan.predict.model import load

    if settings:
        run_settings, root = execution.load_finished_run(settings)
        _prepare_process(tensorflow=True)
        from bcgan.predict.export import export as write

        folder = Path(out or f"models/{run_settings.name}")
        write(run_settings, root, folder, all_patients)
        classifier = load(folder) if formats else None
    else:
        classifier = load(None if model == "shipped" else model)
        folder = Path(out or "models/formats")
    if formats:
        from bcgan.predict import formats as writing
        from bcgan.predict.check import load_check_patches

        table = writing.write(classifier.network, formats, load_check_patches(patches, classifier.scale), folder)
        table.to_csv(folder / writing.TABLE, index=False, float_format="%.6g")
        click.echo(table.to_string(index=False))
    click.echo(folder)


def _read_file_list(images: tuple[str, ...]) -> Iterable[str]:
    """Return the lines of standard input if `-` is among `images`; file names in it may contain any bytes."""
    if "-" not in images:
        return ()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin
