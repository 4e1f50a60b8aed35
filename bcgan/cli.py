"""The command line.

Exit codes: 0 done, 1 the work failed, 2 wrong use or input, 3 some inputs were refused (the rest is done),
130 interrupted, resumable.
"""

import os
import sys
from pathlib import Path
from typing import Any

import click

from bcgan import __version__, execution, experiment, experiment_files, ledger, machine, progress, runs, stages
from bcgan.artifacts import prune
from bcgan.cli_models import models
from bcgan.cli_options import experiment_options
from bcgan.cli_slides import slide_commands
from bcgan.errors import InputError, WorkError
from bcgan.variation import diff_configs

# The order of `bcgan --help`.
COMMAND_GROUPS = {
    "Train and report": ("list", "init", "run", "status", "report", "compare", "tune", "tables", "doctor", "clean"),
    "Use a classifier": ("predict", "batch", "explain", "serve", "assess", "probe"),
    "Patches and exports": ("tile", "sample", "release", "export"),
}


class GroupedCommands(click.Group):
    """A group whose help lists its commands by purpose."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under the headings of COMMAND_GROUPS."""
        for heading, names in COMMAND_GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(80)) for name in names])


@click.group(
    cls=GroupedCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A GAN and a ResNet for breast histopathology patches, evaluated by patient. Research use only.",
)
@click.version_option(__version__)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback where something fails.")
@click.option(
    "--home",
    envvar="BCGAN_HOME",
    type=click.Path(file_okay=False),
    help="Folder of runs/, reports/, models/ and your pipelines/; the current one by default (BCGAN_HOME).",
)
def cli(home: str | None) -> None:
    """Group the commands, and set the folder of --home. `main` reads --debug itself."""
    if home:  # the default, the current folder, may be read-only: some commands write nothing there
        runs.set_home(Path(home))


@cli.command("list", short_help="List the experiments.")
def list_command() -> None:
    """List the experiments: your own in pipelines/, and those that come with bcgan."""
    files = experiment_files.list_all()
    width = max(map(len, files))
    for name, file in files.items():
        click.echo(f"{name:{width}}  {'(yours) ' if file.is_own else ''}{experiment_files.summarize(file.path)}")


@cli.command(short_help="Write an experiment to edit.")
@click.argument("name")
@click.option("--from", "base", default="folder", show_default=True, help="The experiment that is copied.")
def init(name: str, base: str) -> None:
    """Write pipelines/NAME.yaml, a copy of another experiment, to edit."""
    path, home = experiment_files.init(name, base), runs.home()
    option = "" if home.samefile(".") else f" --home {home}"
    click.echo(f"{path}: edit it, then: bcgan{option} run {name}")


@cli.command(short_help="Run or resume an experiment's stages.")
@experiment_options
@click.option(
    "--until",
    type=click.Choice(stages.NAMES),
    default=stages.DEFAULT_LAST_STAGE,
    show_default=True,
    help="The last stage to run.",
)
@click.option(
    "--force", type=click.Choice(stages.NAMES), multiple=True, help="Run a stage again from the start; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Show what would run and why, and run nothing.")
def run(name: str, data_dir: str | None, overrides: tuple[str, ...], until: str, force, dry_run: bool) -> None:
    """Run an experiment's stages; those that are up to date are skipped, an interrupted one resumes.

    EXPERIMENT is a name that `bcgan list` shows, or a path to a YAML file; `phantom` by default. The stages preprocess,
    gan, translate, features, pretrain, classify and evaluate run; ablation, cross_validation and learning_curve only
    with --until.
    """
    settings = experiment.load(name, overrides, data_dir)
    machine.prepare_environment()
    cluster = machine.cluster() if settings.distribute != "off" else None
    is_first_worker = not (cluster and cluster["index"])
    progress.start_log(runs.root() / settings.name / "log.txt" if is_first_worker and not dry_run else None)
    execution.execute(settings, force, dry_run, until)


@cli.command(short_help="Show which stages are up to date, and their times.")
@experiment_options
def status(name: str, data_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Show which stages are up to date, which would run, and why; then the time that each took."""
    settings = experiment.load(name, overrides, data_dir)
    progress.start_log(None)
    execution.execute(settings, dry_run=True, until=stages.NAMES[-1])
    entries = ledger.read(runs.root() / settings.name)
    for entry in entries:
        title = f"  {entry.training}" if entry.training else entry.stage
        cores = "" if entry.busy_cores is None else f"{entry.busy_cores:5.1f} cores busy"
        time_spent, memory = ledger.format_seconds(entry.seconds), f"{entry.peak_memory_mib / 1024:5.1f} GB"
        progress.log.info("%-34s %12s %s  %s", title, time_spent, memory, cores)


@cli.command(short_help="Delete unused cached trainings.")
@click.argument("name", metavar="EXPERIMENT")
def clean(name: str) -> None:
    """Delete a run's cached trainings that its finished stages do not use, and unfinished stages."""
    progress.start_log(None)
    stem = Path(name).stem  # also of a YAML file, as other commands take it
    root = runs.root() / stem
    if not experiment.NAME.fullmatch(stem) or not root.is_dir():
        raise InputError(f"{root} does not exist. Name an experiment that was run.")
    with runs.lock(root):
        freed = prune(root)
    progress.log.info("clean: %.1f MB freed in %s", freed / 1e6, root)


@cli.command(short_help="Render the report of a finished run.")
@experiment_options
@click.option("--patient-images/--no-patient-images", default=True, help="Whether patients' tissue may be shown.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write; reports/EXPERIMENT by default.")
def report(name: str, data_dir: str | None, overrides, patient_images: bool, out: str | None) -> None:
    """Render figures, tables, report.html, report.md and results.json."""
    settings = experiment.load(name, overrides, data_dir)
    progress.start_log(None)
    run_settings, root = execution.load_finished_run(settings, overrides=overrides)
    machine.prepare_environment(tensorflow=True)
    from bcgan.report.page import render

    changed = diff_configs(experiment.load(name), run_settings)
    folder = Path(out) if out else runs.home() / "reports" / run_settings.name
    click.echo(render(run_settings, root, folder, patient_images, changed))


@cli.command(short_help="Compare the numbers of several reports.")
@click.argument("names", nargs=-1, required=True, metavar="EXPERIMENT EXPERIMENT...")
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write; reports/comparison by default.")
def compare(names: tuple[str, ...], out: str | None) -> None:
    """Compare the numbers of several reports on one page, with differences from the first.

    If the runs of the reports are in runs/, the page also has the differences on the test patches of both, with
    intervals.
    """
    if len(names) < 2:
        raise InputError(f"{names[0]}: one report cannot be compared. Name two or more.")
    progress.start_log(None)
    machine.prepare_environment()
    from bcgan.report.compare import render

    click.echo(render(list(names), Path(out) if out else runs.home() / "reports" / "comparison"))


@cli.command(short_help="Print the networks' summaries and Table 1.")
@click.option("--out", type=click.Path(file_okay=False), help="Also write the summaries into this folder.")
def tables(out: str | None) -> None:
    """Print the summaries of the GAN's networks and of the ResNets, and compare Table 1 with the paper, row by row."""
    machine.prepare_environment(tensorflow=True)
    from bcgan.report.summaries import write_summaries

    for text in write_summaries(out):
        click.echo(text)


@cli.command(short_help="Show what an experiment would use on this machine.")
@experiment_options
def doctor(name: str, data_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Show devices, threads and precision that an experiment would use here, with the reasons."""
    settings = experiment.load(name, overrides, data_dir)
    for key, value in machine.environment().items():
        click.echo(f"{key}: {value}")
    for key, (value, reason) in machine.choose_settings(settings).items():
        click.echo(f"{key}: {value} ({reason})")
    from bcgan.predict.engines import fastest_engine

    reasons = {
        "openvino": "the fastest on x86-64 processors; LiteRT for a few patches, if it is installed",
        "litert": "OpenVINO is not installed, or this is not an x86-64 processor",
        "keras": "neither OpenVINO nor LiteRT is installed",
    }
    click.echo(f"prediction: {fastest_engine()} ({reasons[fastest_engine()]}; --engine changes it)")


for command in (*models.commands.values(), *slide_commands.commands.values()):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. Expected errors are one sentence on standard error; --debug adds the traceback."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported; bcgan doctor has the reason
    # scikit-learn's threads that wait for one another let other processes work: where these are busy, t-SNE takes a
    # fourth of the time or less.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in (arguments if arguments is not None else sys.argv)
    if debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    try:
        code = cli(arguments, standalone_mode=False)
    except click.exceptions.Exit as request:
        code = request.exit_code
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
