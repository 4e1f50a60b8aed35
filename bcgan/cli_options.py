"""Options that several commands share."""

import re
from pathlib import Path

import click

from bcgan import machine, progress
from bcgan.errors import InputError
from bcgan.slides.files import ImageFile
from bcgan.slides.mpp_table import MppChoice

ENGINES = ("auto", "openvino", "litert", "keras")
RUNNERS = ("serial", "pool", "beam")
FORMATS = ("savedmodel", "litert", "litert-int8", "onnx", "wsinfer", "hub")

model_option = click.option(
    "--model", type=click.Path(file_okay=False), help="A folder that `bcgan export` wrote, or one in WSInfer's format."
)


def _check_pattern(_context, _parameter, pattern: str | None) -> str | None:
    """Return the value of --patient, for click; raise InputError if it is no regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise InputError(
            f"--patient: {pattern!r} is no regular expression ({error}). Write one, such as '^[^_]+'."
        ) from error
    return pattern


patient_option = click.option(
    "--patient", metavar="REGEX", callback=_check_pattern,
    help="Finds the patient in a slide's name, its first group or all that it matches: rows of patients too. "
    "With a slash, in its whole path.",
)  # fmt: skip
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
context_option = click.option(
    "--spatial-context/--no-spatial-context", "neighbours", default=True, show_default=True,
    help="Whether to use the predictions of neighbouring patches, if the patches' coordinates are known.",
)  # fmt: skip


fast_option = click.option(
    "--fast", is_flag=True,
    help="Average all orientations only of patches near a threshold: twice as fast. With neighbours up to 1 % of calls "
    "differ.",
)  # fmt: skip


def experiment_options(command):
    """Add the argument EXPERIMENT and the options that change its settings to a command."""
    for option in (
        click.argument("name", default="phantom", metavar="[EXPERIMENT]"),
        click.option("--data-dir", help="Folders or archives with the data, joined by ':'; in place of data.dir."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a setting, such as gan.steps=500 (all: bcgan/settings.py, study_settings.py); repeatable.",
        ),
    ):
        command = option(command)
    return command


def slide_options(command):
    """Add the argument SOURCES and the options of commands that work slide by slide."""
    for option in (
        click.argument("sources", nargs=-1, required=True),
        mpp_option,
        mpp_csv_option,
        click.option(
            "--runner",
            type=click.Choice(RUNNERS),
            default="serial",
            show_default=True,
            help="What runs the slides: this process, processes of this machine, or Apache Beam.",
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


def prepare_process(tensorflow: bool = False) -> None:
    """Set environment variables and start the log. Call it before heavy imports."""
    machine.prepare_environment(tensorflow=tensorflow)
    progress.start_log(None)


def make_mpp_choice(mpp: float | None, mpp_csv: str | None, images: list[ImageFile]) -> MppChoice:
    """Return a function from an image to the resolution that the user gives; check that each row is of one image.

    Args:
        mpp: Value of --mpp, microns per pixel of all images.
        mpp_csv: Path of the table of --mpp-csv, which has the microns per pixel of each image.
    """
    choice = MppChoice(mpp, mpp_csv and Path(mpp_csv))
    choice.check_images(images)
    return choice
