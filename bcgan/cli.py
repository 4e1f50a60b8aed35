"""The command line: thin. Exit codes: 0 done, 1 the work failed, 2 wrong use or input, 3 some inputs were refused (the
rest is done), 130 interrupted, resumable."""

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from bcgan import __version__, execution, experiment, stages, variation
from bcgan.errors import InputError, WorkError

ENGINES = ("auto", "openvino", "litert", "keras")
RUNNERS = ("serial", "pool", "beam")
FORMATS = ("savedmodel", "litert", "litert-int8", "onnx")


model_option = click.option("--model", type=click.Path(file_okay=False), help="A folder that `bcgan export` wrote.")
mpp_option = click.option(
    "--mpp", type=click.FloatRange(0, min_open=True),
    help="Microns per pixel of all images, in place of what the files state.",
)  # fmt: skip
mpp_csv_option = click.option(
    "--mpp-csv", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="A table of file,mpp for images of several resolutions; --mpp is for those that are not in it.",
)  # fmt: skip
engine_option = click.option(
    "--engine", type=click.Choice(ENGINES), default="auto",
    help="auto: OpenVINO on x86-64, LiteRT elsewhere and for a few patches, Keras where neither is installed.",
)  # fmt: skip
neighbours_option = click.option(
    "--neighbours/--no-neighbours", default=True, show_default=True,
    help="Whether the predictions of neighbouring patches are used where places are known.",
)  # fmt: skip


def experiment_options(command):
    for option in (
        click.argument("name", default="phantom", metavar="[EXPERIMENT]"),
        click.option("--data-dir", help="Folders or archives with the data, joined by ':'; in place of data.dir."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable."),
    ):
        command = option(command)
    return command


def slide_options(command):
    for option in (
        click.argument("sources", nargs=-1, required=True),
        mpp_option,
        mpp_csv_option,
        click.option(
            "--by", "runner", type=click.Choice(RUNNERS), default="serial", show_default=True, help="Who does it."
        ),
        click.option(
            "--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes, of pool and beam."
        ),
        click.option(
            "--beam", "options", multiple=True, metavar="NAME=VALUE", help="For Apache Beam, as runner=FlinkRunner."
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback where something fails.")
def cli() -> None:  # `main` looks for --debug
    """A GAN and a ResNet for breast histopathology patches, evaluated by patient. Research use only."""


@cli.command()
@experiment_options
@click.option("--until", type=click.Choice(stages.NAMES), default=stages.LAST, help="The last stage to run.")
@click.option(
    "--force", type=click.Choice(stages.NAMES), multiple=True, help="Run a stage again from the start; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Say what would run and why, and run nothing.")
def run(name: str, data_dir: str | None, overrides: tuple[str, ...], until: str, force, dry_run: bool) -> None:
    """Run an experiment's stages; those that are up to date are skipped, an interrupted one resumes."""
    settings = experiment.load(name, overrides, data_dir)
    from bcgan import machine, progress, runs

    machine.prepare_environment()
    first = not (settings.distribute != "off" and (cluster := machine.cluster()) and cluster["index"])
    progress.start_log(runs.ROOT / settings.name / "log.txt" if first and not dry_run else None)
    execution.execute(settings, force, dry_run, until)


@cli.command()
@experiment_options
def status(name: str, data_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Show which stages are up to date, which would run, and why."""
    settings = experiment.load(name, overrides, data_dir)
    from bcgan import progress

    progress.start_log(None)
    execution.execute(settings, dry_run=True, until=stages.NAMES[-1])


@cli.command()
@click.argument("name", metavar="EXPERIMENT")
def clean(name: str) -> None:
    """Delete a run's cached trainings that its finished stages do not use, and unfinished stages."""
    from bcgan import artifacts, progress, runs

    progress.start_log(None)
    root = runs.ROOT / name
    if not root.is_dir():
        raise InputError(f"{root} does not exist. Name an experiment that was run.")
    with runs.lock(root):
        freed = artifacts.prune(root)
    progress.log.info("clean: %.1f MB freed in %s", freed / 1e6, root)


@cli.command()
@experiment_options
@click.option("--patient-images/--no-patient-images", default=True, help="Whether patients' tissue may be shown.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write; reports/EXPERIMENT by default.")
def report(name: str, data_dir: str | None, overrides, patient_images: bool, out: str | None) -> None:
    """Render figures, tables, report.html, report.md and results.json."""
    settings = experiment.load(name, overrides, data_dir)
    from pathlib import Path

    from bcgan import machine, progress

    progress.start_log(None)
    ran, root = execution.require(settings)
    machine.prepare_environment(tensorflow=True)
    from bcgan.report.page import render

    changed = variation.differences(experiment.load(name), ran)
    click.echo(render(ran, root, Path(out or f"reports/{ran.name}"), patient_images, changed))


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="EXPERIMENT EXPERIMENT...")
@click.option("--out", type=click.Path(file_okay=False), default="reports/comparison", show_default=True)
def compare(names: tuple[str, ...], out: str) -> None:
    """Put the numbers of several rendered reports on one page, and their differences from the first."""
    if len(names) < 2:
        raise InputError(f"{names[0]}: one report has nothing to be compared with. Name two or more.")
    from pathlib import Path

    from bcgan import machine

    machine.prepare_environment()
    from bcgan.report.compare import render

    click.echo(render(list(names), Path(out)))


@cli.command()
@click.argument("run", required=False, metavar="[EXPERIMENT]")
@click.option("--label", type=click.Choice(["benign", "malignant"]), required=True, help="The class to make.")
@click.option("--number", type=click.IntRange(1), default=64, show_default=True, help="How many patches.")
@click.option(
    "--density",
    type=click.FloatRange(0, 1),
    help="Share of tissue that nuclei cover, to steer towards. Half of IDC's patches: 0.02 to 0.25 "
    "(benign), 0.30 to 0.76 (malignant).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write; samples/LABEL by default.")
def sample(run: str | None, label: str, number: int, density: float | None, seed: int, out: str | None) -> None:
    """Write synthetic patches of a class, those that a classifier recognises and that lie near real ones.

    With the generator of runs/EXPERIMENT, or with the one that comes with bcgan, trained on IDC.
    """
    from pathlib import Path

    _begin(tensorflow=True)
    from bcgan.predict import sample as sampling

    out = out or f"samples/{label}"
    manifest = sampling.write(sampling.load(run), int(label == "malignant"), number, seed, Path(out), density)
    refused = ", ".join(f"{count} {why}" for why, count in manifest["refused"].items())
    click.echo(f"{out}: {number} {label} patches of {manifest['tried']} candidates (refused: {refused}), manifest.json")
    densities = manifest["density"]
    text = f"nuclear density: median {densities['median']:.2f} ({densities['low']:.2f} to {densities['high']:.2f})"
    if density is not None:
        low, high = densities["range"]
        text += f"; {density:.2f} was asked for, and the generator's {label} patches reach {low:.2f} to {high:.2f}"
    click.echo(text)


@cli.command()
@click.argument("images", nargs=-1, required=True)
@model_option
@click.option(
    "--out", type=click.Path(dir_okay=False), help="CSV, or JSON lines by the suffix .jsonl; else the screen."
)
@click.option("--json", "lines", is_flag=True, help="JSON lines in place of CSV.")
@mpp_option
@mpp_csv_option
@click.option("--maps", type=click.Path(file_okay=False), help="Heat maps, overlays, QuPath outlines: a folder.")
@neighbours_option
@engine_option
@click.pass_context
def predict(
    context: click.Context, images, model, out: str | None, lines: bool, mpp, mpp_csv, maps: str | None,
    neighbours: bool, engine,
) -> None:  # fmt: skip
    """Score IMAGES: files, folders, archives, patterns, or - for a list on standard input.

    An image about as large as a patch is scored as one; a larger one is cut into patches where it contains tissue, at
    the resolution that it states or that --mpp gives. Tiles of one slide, named as QuPath and other tools name them,
    are scored together.
    """
    from pathlib import Path

    _begin()
    from bcgan import progress
    from bcgan.predict import predict as predicting
    from bcgan.predict.model import load
    from bcgan.slides.files import find_images

    files = find_images(images, _listed(images))
    mpp_of = _mpp_choice(mpp, mpp_csv, files)
    classifier = load(model, engine, predicting.is_small_job(files), neighbours)
    lines = lines or bool(out and out.endswith(".jsonl"))
    Path(out or ".").parent.mkdir(parents=True, exist_ok=True)
    part = f"{out}.part" if out and out != "-" else "-"
    with click.open_file(part, "w", "utf-8") as file:
        counts = predicting.predict(classifier, files, file, lines, mpp_of, Path(maps) if maps else None)
    if part != "-":
        Path(part).replace(out)
    for position, thresholds in (
        ("by itself", classifier.card.thresholds),
        ("among its neighbours", classifier.card.spatial_context_thresholds),
    ):
        if thresholds:
            progress.log.info(
                "predict: a patch %s is malignant from %.4f on, and has no label between %.4f and %.4f",
                position, thresholds.malignant, *thresholds.abstain_range,
            )  # fmt: skip
    progress.log.info(
        "predict: %s; %s", ", ".join(f"{n} {v}" for v, n in counts.items() if n), classifier.card.intended_use
    )
    if counts["unreadable"] or counts["out_of_distribution"] or counts["no_tissue"]:
        context.exit(3)


@cli.command()
@experiment_options
@model_option
@mpp_option
@click.option("--out", type=click.Path(file_okay=False), default="assessment", show_default=True, help="A folder.")
@neighbours_option
@engine_option
@click.pass_context
def assess(
    context: click.Context, name: str, data_dir: str | None, overrides, model, mpp, out: str, neighbours: bool, engine
) -> None:
    """Hold a classifier against the labels of EXPERIMENT's data set, by patients, without training anything."""
    settings = experiment.load(name, overrides, data_dir)
    from pathlib import Path

    _begin()
    from bcgan.predict import assess as assessing
    from bcgan.predict.model import load

    assessment = assessing.assess(load(model, engine, neighbours=neighbours), settings, mpp, Path(out))
    click.echo(f"{assessing.summary(assessment)}\n{Path(out) / 'assessment.json'}")
    if assessment["unreadable"]:
        context.exit(3)


@cli.command()
@slide_options
@click.option("--out", type=click.Path(file_okay=False), default="scores", show_default=True, help="A folder.")
@model_option
@click.option(
    "--maps", is_flag=True, help="Heat maps, overlays and QuPath outlines too: in OUT/maps, a folder a slide."
)
@neighbours_option
@engine_option
def batch(
    sources, mpp, mpp_csv, runner: str, workers: int, options, out: str, model, maps: bool, neighbours: bool, engine
) -> None:
    """Judge every slide in SOURCES: each file, and each folder of patches, that lies directly there.

    Every slide gets a file of rows; run it again, and only what is new or changed is judged.
    """
    from pathlib import Path

    _begin()
    from bcgan.predict import slidewise
    from bcgan.predict.batch import Scores

    job = Scores(Path(out), model, engine, mpp, mpp_csv and Path(mpp_csv), neighbours, maps)
    slides = slidewise.slides(sources, job.folders)
    _mpp_choice(mpp, mpp_csv, [image for slide in slides for image in slide.images()])
    _run_slidewise(job, slides, runner, workers, options)


@cli.command()
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
@click.option("--dry-run", is_flag=True, help="Print the table of annotation classes, and write nothing.")
def tile(
    sources, mpp, mpp_csv, runner, workers, options, out, annotations,
    classes, malignant, ignore, region, outside, patient, dry_run,
) -> None:  # fmt: skip
    """Cut every annotated slide in SOURCES into labelled patches, as the experiment `tiled` trains on.

    Patches are as those of the data set idc: 50 pixels of 4 microns. The innermost polygon decides. A class that
    nobody decided stops the command. Every slide gets an archive; run it again, and only what is new or changed is
    cut.
    """
    from pathlib import Path

    try:
        re.compile(patient or "")
    except re.error as error:
        raise InputError(f"--patient: {patient!r} is no regular expression ({error}).") from error
    _begin()
    from bcgan import progress
    from bcgan.predict import slidewise
    from bcgan.predict import tile as tiling
    from bcgan.slides import annotations as qupath

    outside = qupath.IGNORED if outside == "ignore" else qupath.BENIGN
    decisions = qupath.decide(classes, ignore, malignant, region, outside)
    job = tiling.Patches(Path(out), Path(annotations), decisions, patient, mpp, mpp_csv and Path(mpp_csv))
    slides = slidewise.slides(sources, job.folders)
    _mpp_choice(mpp, mpp_csv, [image for slide in slides for image in slide.images()])
    tiling.check_patients(slides, patient)  # before old archives make room
    table = qupath.class_table(tiling.survey(slides, job), decisions, tiling.patch_areas(slides, job))
    click.echo(qupath.format_table(table))
    qupath.check_decided(table)
    if not dry_run:
        _run_slidewise(job, slides, runner, workers, options)
    elif failures := tiling.find_failures(slides, job):
        for failure in failures:
            progress.log.warning("tile: %s", failure)
        progress.log.warning("tile: %d of %d slides cannot be cut", len(failures), len(slides))
        click.get_current_context().exit(3)


def _begin(tensorflow: bool = False) -> None:
    """What a command does first, before anything heavy is imported."""
    from bcgan import machine, progress

    machine.prepare_environment(tensorflow=tensorflow)
    progress.start_log(None)


def _mpp_choice(mpp: float | None, mpp_csv: str | None, images: list):
    """The resolutions that the user gives; rows of the table that fit no image are named."""
    from pathlib import Path

    from bcgan.slides.mpp_table import MppChoice

    choice = MppChoice(mpp, mpp_csv and Path(mpp_csv))
    choice.report_unused(images)
    return choice


def _run_slidewise(job, slides: list, runner: str, workers: int, options: tuple[str, ...]) -> None:
    from bcgan import progress
    from bcgan.predict import slidewise

    done = slidewise.run(slides, job, runner, workers, tuple(f"--{option}" for option in options))
    progress.log.info(
        "%s: %d slides done, %d were current; %s/summary.csv", job.name, done["done"], done["skipped"], job.out
    )
    if done["unreadable"] or done["refused"]:
        progress.log.warning(
            "%s: %d slides have patches that could not be read, %d slides were refused, with the reason in the log and "
            "in summary.csv", job.name, done["unreadable"], done["refused"],
        )  # fmt: skip
        click.get_current_context().exit(3)


@cli.command()
@click.argument("images", nargs=-1, required=True)
@model_option
@mpp_option
@mpp_csv_option
@click.option("--out", type=click.Path(file_okay=False), default="explanations", show_default=True, help="A folder.")
@click.pass_context
def explain(context: click.Context, images, model, mpp: float | None, mpp_csv: str | None, out: str) -> None:
    """Draw which pixels of each of IMAGES, patches, support its call, by three methods; and a page of all."""
    from pathlib import Path

    _begin()
    from bcgan.predict.explain import write
    from bcgan.predict.model import load
    from bcgan.slides.files import find_images

    files = find_images(images, _listed(images))
    refused = write(load(model), files, Path(out), _mpp_choice(mpp, mpp_csv, files))
    click.echo(Path(out) / "index.html")
    if refused:
        context.exit(3)


@cli.command()
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The loopback: only this machine can ask.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--concurrent", type=click.IntRange(1), default=2, show_default=True, help="Images judged at a time.")
def serve(model: str | None, host: str, port: int, concurrent: int) -> None:
    """Open a local page, and an HTTP API, where an image is judged. Nothing that is sent is kept."""
    from bcgan import machine

    machine.prepare_environment()
    import uvicorn

    from bcgan.predict.model import load
    from bcgan.predict.serve import check_free, make_app

    check_free(host, port)
    app = make_app(load(model), concurrent)
    click.echo(f"http://{host}:{port} (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, log_level="warning")


@cli.command()
@experiment_options
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder to write; models/EXPERIMENT by default, models/formats with --model.",
)
@click.option("--everyone", is_flag=True, help="Train once more, on the patients of every role, and write that.")
@click.option(
    "--format", "kinds", multiple=True, type=click.Choice(FORMATS), help="Also for another runtime; repeatable."
)
@click.option("--model", help="In place of a run: a folder that `bcgan export` wrote, or `shipped`; with --format.")
@click.option(
    "--patches", type=click.Path(exists=True), help="Patches to check the formats on; phantom tissue if none."
)
def export(name, data_dir, overrides, out, everyone, kinds, model, patches) -> None:
    """Write the classifier of a finished run as a folder for `bcgan predict --model`, and for other runtimes."""
    if model and not kinds:
        raise InputError("--model is written for another runtime: say which with --format.")
    if model and everyone:
        raise InputError("--everyone trains, and --model is trained already. Leave one of them out.")
    settings = None if model else experiment.load(name, overrides, data_dir)
    from pathlib import Path

    _begin()
    from bcgan.predict.model import load

    if settings:
        ran, root = execution.require(settings)
        _begin(tensorflow=True)
        from bcgan.predict.export import export as write

        place = Path(out or f"models/{ran.name}")
        write(ran, root, place, everyone)
        classifier = load(place) if kinds else None
    else:
        classifier = load(None if model == "shipped" else model)
        place = Path(out or "models/formats")
    if kinds:
        from bcgan.predict import formats
        from bcgan.predict.check import load_check_patches

        table = formats.write(classifier.network, kinds, load_check_patches(patches, classifier.scale), place)
        table.to_csv(place / formats.TABLE, index=False, float_format="%.6g")
        click.echo(table.to_string(index=False))
    click.echo(place)


@cli.command()
@click.option("--out", type=click.Path(file_okay=False), help="Also write the summaries into this folder.")
def tables(out: str | None) -> None:
    """Print every network's summary and hold Table 1 against the paper, row by row."""
    from bcgan import machine

    machine.prepare_environment(tensorflow=True)
    from bcgan.report.summaries import write_summaries

    for text in write_summaries(out):
        click.echo(text)


@cli.command()
@experiment_options
def doctor(name: str, data_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Show what this machine has and what would be chosen for an experiment, with the reasons."""
    settings = experiment.load(name, overrides, data_dir)
    from bcgan import machine

    for key, value in machine.environment().items():
        click.echo(f"{key}: {value}")
    for key, (value, reason) in machine.choices(settings).items():
        click.echo(f"{key}: {value} ({reason})")
    from bcgan.predict.engines import quickest

    why = {
        "openvino": "the quickest on x86-64 processors; a few patches by LiteRT, where it is installed",
        "litert": "OpenVINO is not installed, or this is no x86-64 processor",
        "keras": "neither OpenVINO nor LiteRT is installed",
    }
    click.echo(f"prediction: {quickest()} ({why[quickest()]}; --engine changes it)")


def _listed(images: tuple[str, ...]) -> Iterable[str]:
    """The lines of standard input where `-` asks for them; names of files may hold any bytes."""
    if "-" not in images:
        return ()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; foreseen errors are one sentence on standard error, their traceback with --debug."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported; bcgan doctor has the reason
    debug = "--debug" in (arguments if arguments is not None else sys.argv)
    if debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    try:
        code = cli(arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (InputError, WorkError) as error:
        if debug:
            raise
        click.echo(f"bcgan: {error}", err=True)
        code = 2 if isinstance(error, InputError) else 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("bcgan: interrupted; run the same command again to resume.", err=True)
        code = 130
    except MemoryError:
        if debug:
            raise
        click.echo("bcgan: out of memory. Close other programs, or give fewer or smaller images.", err=True)
        code = 1
    except OSError as error:
        if debug:
            raise
        click.echo(
            f"bcgan: {error.filename or 'a file'}: {error.strerror or error}. Check the disk and its permissions.",
            err=True,
        )
        code = 1
    sys.exit(code or 0)
