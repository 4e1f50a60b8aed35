"""The commands that use a classifier or a generator: on images and slides, as files, a page or an export."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bcgan import execution, experiment, machine, outputs, runs, stages
from bcgan.cli_options import (
    FORMATS,
    context_option,
    engine_option,
    experiment_options,
    fast_option,
    make_mpp_choice,
    model_option,
    mpp_csv_option,
    mpp_option,
    patient_option,
    prepare_process,
)
from bcgan.errors import InputError

if TYPE_CHECKING:
    from bcgan.slides.files import ImageFile


@click.group()
def models() -> None:
    """Group the commands, which `bcgan.cli` adds to its own."""


@models.command(short_help="Write synthetic patches.")
@click.argument("run", required=False, metavar="[EXPERIMENT]")
@click.option("--label", metavar="CLASS", required=True, help="The class of the patches: benign, malignant or another.")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="How many patches.")
@click.option(
    "--nuclear-density",
    "density",
    type=click.FloatRange(0, 1),
    help="Share of tissue that nuclei cover, to steer towards. Half of IDC's patches: 0.02 to 0.23 "
    "(benign), 0.27 to 0.74 (malignant).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write; samples/LABEL by default.")
def sample(run: str | None, label: str, count: int, density: float | None, seed: int, out: str | None) -> None:
    """Write synthetic patches of a class that pass the quality filter, and a manifest.

    With the generator of runs/EXPERIMENT, or with the one bundled with bcgan, trained on IDC.
    """
    prepare_process(tensorflow=True)
    from bcgan.predict import sample as sampling

    folder, bundle = Path(out) if out else runs.home() / "samples" / label, sampling.load(run)
    manifest = sampling.write(bundle, sampling.find_label(bundle, label), count, seed, folder, density)
    refused = ", ".join(f"{num_refused} {reason}" for reason, num_refused in manifest["refused"].items())
    click.echo(
        f"{folder}: {count} {label} patches of {manifest['tried']} candidates (refused: {refused}), manifest.json"
    )
    densities = manifest["density"]
    text = f"nuclear density: median {densities['median']:.2f} ({densities['low']:.2f} to {densities['high']:.2f})"
    if density is not None:
        low, high = densities["range"]
        text += f"; {density:.2f} was asked for, and the generator's {label} patches reach {low:.2f} to {high:.2f}"
    click.echo(text)


@models.command(short_help="Write an audited data set of synthetic patches.")
@experiment_options
@click.option("--number", type=click.IntRange(1), default=10_000, show_default=True, help="How many patches.")
@click.option("--out", type=click.Path(file_okay=False), required=True, help="Folder to write; empty or new.")
@click.option("--license", "license_name", required=True, help="Licence: an SPDX name such as CC-BY-4.0, or a URL.")
@click.option("--creator", required=True, help="Who is responsible for the data set.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def release(
    name: str, data_dir: str | None, overrides, number: int, out: str, license_name: str, creator: str, seed: int
):
    """Write a data set of synthetic patches that others can use, if it passes an audit.

    With the generator of runs/EXPERIMENT. Patches that are too near to a training patch are removed. The rest is
    attacked, by patients, and networks are trained on it and tested on real patients. If a check fails, nothing is
    written. The folder has PNG files, a tensorflow-datasets folder, a data card, Croissant metadata and the audit.
    """
    settings = experiment.load(name, overrides, data_dir)
    prepare_process(tensorflow=True)
    run_settings, root = execution.load_finished_run(settings, "features", overrides)
    # What the audit trains is not part of the run, and follows the experiment as it is now.
    run_settings = run_settings.model_copy(update={"release": settings.release})
    from bcgan.release.release import Request, describe
    from bcgan.release.release import release as write

    with runs.lock(root):
        results = write(run_settings, root, Request(number, license_name, creator, seed), Path(out))
    click.echo(f"{describe(results)}\n{out}")


@models.command(short_help="Search settings of a classifier.")
@experiment_options
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Earlier ones included.")
def tune(name: str, data_dir: str | None, overrides, trials: int) -> None:
    """Search the settings of one classifier's training for the best ROC AUC on validation patients.

    In the space `tune` of EXPERIMENT. Run it again to resume an interrupted search, or with more trials.
    """
    settings = experiment.load(name, overrides, data_dir)

    prepare_process(tensorflow=True)
    from bcgan.evaluate import tuning

    run_settings, root = execution.load_finished_run(settings, tuning.last_stage(settings), overrides)
    run_settings = run_settings.model_copy(update={"tune": settings.tune})
    inputs = stages.stage_inputs("ablation", run_settings, root)
    with runs.lock(root):
        results = tuning.tune(run_settings, root, inputs, trials)
    click.echo(tuning.describe(results))


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
@click.option(
    "--summary", "summary_path", type=click.Path(dir_okay=False),
    help="CSV file with a row for each slide: fractions, areas, numbers of patches.",
)  # fmt: skip
@patient_option
@context_option
@fast_option
@engine_option
@click.pass_context
def predict(
    context: click.Context, images, model, out: str | None, as_jsonl: bool, mpp, mpp_csv, maps: str | None,
    summary_path: str | None, patient: str | None, neighbours: bool, fast: bool, engine,
) -> None:  # fmt: skip
    """Score IMAGES: files, folders, archives, patterns, or - for a list on standard input.

    An image about as large as a patch is scored as one; a larger one is cut into patches where it contains tissue, at
    the resolution that it states or that --mpp gives. Tiles of one slide, named as QuPath and other tools name them,
    are scored together.
    """
    if patient and not summary_path:
        raise InputError(
            "--patient adds rows to the table of --summary, which is missing. Add it, such as --summary slides.csv."
        )
    prepare_process()
    from bcgan.predict import predict as predicting
    from bcgan.predict import summary
    from bcgan.predict.loading import load
    from bcgan.predict.tile_groups import list_slides
    from bcgan.slides.files import find_images

    files = find_images(images, _read_file_list(images))
    tables = [Path(mpp_csv)] if mpp_csv else []
    outputs.check({"--out": out, "--summary": summary_path}, [*tables, *_list_files(files)])
    mpp_choice = make_mpp_choice(mpp, mpp_csv, files)
    classifier = load(model, engine, predicting.is_small_job(files), neighbours, fast)
    if patient:  # raises before anything is predicted
        summary.find_patients(list_slides(files, classifier.card.classes), patient)
    as_jsonl = as_jsonl or bool(out and out.endswith(".jsonl"))
    with outputs.open_text(out) as file:
        by_slide = predicting.predict(classifier, files, file, as_jsonl, mpp_choice, Path(maps) if maps else None)
    if summary_path:
        summary.write(summary.summarize(by_slide, classifier.card, patient), Path(summary_path))
    counts = sum(by_slide.values(), Counter())
    predicting.log_totals("predict", counts, classifier.card)
    if counts["unreadable"] or counts["out_of_distribution"] or counts["no_tissue"]:
        context.exit(3)


@models.command(short_help="Measure a classifier on labelled images.")
@experiment_options
@model_option
@mpp_option
@click.option("--out", type=click.Path(file_okay=False), default="assessment", show_default=True, help="A folder.")
@click.option(
    "--class", "classes", multiple=True, metavar="NAME=LABEL",
    help="Class of the data set for a class of a network in WSInfer's format; repeatable.",
)  # fmt: skip
@context_option
@engine_option
@click.pass_context
def assess(
    context: click.Context, name: str, data_dir: str | None, overrides, model, mpp, out: str, classes: tuple[str, ...],
    neighbours: bool, engine,
) -> None:  # fmt: skip
    """Measure a classifier on the labelled images of EXPERIMENT's data set, by patients; nothing is trained."""
    settings = experiment.load(name, overrides, data_dir)
    prepare_process()
    from bcgan.predict import assess as assessing
    from bcgan.predict.loading import load

    if wrong := [pair for pair in classes if "=" not in pair]:
        raise InputError(f"--class {wrong[0]}: write NAME=LABEL, a class of the network and one of the data set.")
    labels = dict(pair.split("=", 1) for pair in classes)
    assessment = assessing.assess(load(model, engine, neighbours=neighbours), settings, mpp, Path(out), labels)
    click.echo(f"{assessing.summarize(assessment)}\n{Path(out) / 'assessment.json'}")
    if assessment["unreadable"]:
        context.exit(3)


@models.command(short_help="Measure features that somebody else computed.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--run", help="The experiment whose patches the features are of; found by `ids`.")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="A table: image (the slide), x, y, label, patient.",
)
@click.option("--out", type=click.Path(dir_okay=False), help="A JSON file with the results.")
def probe(files: tuple[str, ...], run: str | None, labels: str | None, out: str | None) -> None:
    """Measure the features in FILES (.npz, or .h5 as TRIDENT writes it) by a linear and a nearest-neighbor probe.

    Patients are never on both sides. With --run the run's patients train, select and test, as in its report's table of
    probes; otherwise every patient is tested once, in five folds.
    """
    prepare_process(tensorflow=True)
    from bcgan.evaluate import embedding_probes, embeddings, intervals
    from bcgan.evaluate.paired import BootstrapSettings

    paths = [Path(file) for file in files]
    outputs.check({"--out": out}, [*paths, *([Path(labels)] if labels else ())])
    places = embeddings.read_places(Path(labels)) if labels else None
    joined = embeddings.join([embeddings.read(path, places) for path in paths], paths)
    seeds, bootstrap = (0, 1, 2), BootstrapSettings(1000, 0.95, 0)
    if run:
        settings, root = execution.load_finished_run(experiment.load(run), until="preprocess")
        from bcgan.preprocess import store

        joined = embeddings.match(joined, store.load(root / "preprocess"), run, settings.seed)
        seeds, bootstrap = settings.evaluate.probe_seeds or seeds, BootstrapSettings(*settings.bootstrap)
    results = embedding_probes.probe(joined, seeds, bootstrap)
    click.echo(
        f"{results['dimensions']} dimensions, {results['patches']:,} patches of {results['patients']} patients, "
        f"{results['tested_patients']} tested"
    )
    for name, title in (("linear", "logistic regression"), ("neighbors", "nearest neighbours")):
        texts = {key: intervals.format_estimate(estimate) for key, estimate in results[name].items()}
        accuracy = f", balanced accuracy {texts['balanced_accuracy']}" if "balanced_accuracy" in texts else ""
        click.echo(f"{title}: ROC AUC {texts['roc_auc']}{accuracy}")
    if out:
        with outputs.open_text(out) as file:
            file.write(json.dumps(results, indent=1, sort_keys=True) + "\n")


@models.command(short_help="Show which pixels support a label.")
@click.argument("images", nargs=-1, required=True)
@model_option
@mpp_option
@mpp_csv_option
@click.option("--out", type=click.Path(file_okay=False), default="explanations", show_default=True, help="A folder.")
@click.pass_context
def explain(
    context: click.Context, images: tuple[str, ...], model: str | None, mpp: float | None, mpp_csv: str | None, out: str
) -> None:
    """Show which pixels of each patch in IMAGES support its label, by three methods, as pictures and one page."""
    prepare_process()
    from bcgan.predict.explain import write
    from bcgan.predict.loading import load
    from bcgan.slides.files import find_images

    files = find_images(images, _read_file_list(images))
    refused = write(load(model), files, Path(out), make_mpp_choice(mpp, mpp_csv, files))
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
    machine.prepare_environment()
    import uvicorn

    from bcgan.predict.loading import load
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
@click.option("--license", "license_name", default="", help="For the hub: an SPDX name such as Apache-2.0, or a URL.")
def export(name, data_dir, overrides, out, all_patients, formats, model, patches, license_name: str) -> None:
    """Write the classifier of a finished run as a folder for `bcgan predict --model`, and for other runtimes."""
    if model and not formats:
        raise InputError(
            f"--model {model} is exported already; it can only be converted. Add --format, such as --format litert."
        )
    if "hub" in formats and not license_name.strip():
        raise InputError("--format hub needs --license: an SPDX name such as Apache-2.0, or the address of a licence.")
    if model and all_patients:
        raise InputError("--all-patients trains, and --model is trained already. Leave one of them out.")
    settings = None if model else experiment.load(name, overrides, data_dir)
    prepare_process()
    from bcgan.predict.loading import load

    if settings:
        run_settings, root = execution.load_finished_run(settings, overrides=overrides)
        prepare_process(tensorflow=True)
        from bcgan.predict.export import export as write

        folder = Path(out) if out else runs.home() / "models" / run_settings.name
        write(run_settings, root, folder, all_patients)
        classifier = load(folder) if formats else None
    else:
        classifier = load(None if model == "shipped" else model)
        folder = Path(out) if out else runs.home() / "models" / "formats"
    if formats:
        from bcgan.predict import formats as writing
        from bcgan.predict.check import load_check_patches

        table = writing.write_all(
            classifier, formats, load_check_patches(patches, classifier.scale), folder, license_name
        )
        if len(table):
            table.to_csv(folder / writing.TABLE, index=False, float_format="%.6g")
            click.echo(table.to_string(index=False))
    click.echo(folder)


def _list_files(images: Iterable["ImageFile"]) -> Iterator[Path]:
    """Yield the files on disk that images are read from; of a member of an archive, the outer archive."""
    for image in images:
        yield from (image.local, *image.parts) if image.local else ()
        parts = image.path.split("!")  # names of archives may have exclamation marks too
        yield from (path for end in range(1, len(parts)) if (path := Path("!".join(parts[:end]))).is_file())


def _read_file_list(images: tuple[str, ...]) -> Iterable[str]:
    """Return the lines of standard input, paths of images, if `-` is among the arguments `images`; else nothing."""
    if "-" not in images:
        return ()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files may be no valid UTF-8
    return sys.stdin
