"""`bcgan compare`: the numbers of several reports side by side, on one page."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from pydantic import ValidationError

from bcgan import progress, runs
from bcgan.classes import CLASSES, class_text
from bcgan.data import coordinate_patch_px, microns_per_pixel
from bcgan.errors import InputError
from bcgan.evaluate import paired
from bcgan.evaluate.intervals import format_estimate
from bcgan.report import inline_svg, style
from bcgan.report.comparability import class_conditions, classes_of, differences_left_out, score_conditions
from bcgan.report.gan_tables import GAN_NAMES
from bcgan.report.page import load_templates
from bcgan.report.results import SCHEMA
from bcgan.report.style import CLASSIFIER_NAMES, METRIC_NAMES, REPORT_COLORS, ROLE_NAMES, SHORT_NAMES
from bcgan.report.tables import format_difference
from bcgan.settings import Data

CLASS_METRICS = ("roc_auc", "sensitivity", "specificity")
METRICS = ("roc_auc", "balanced_accuracy", "f1", "ece_calibrated")


def read(name: str) -> dict[str, Any]:
    """Read a report's numbers.

    Args:
        name: An experiment whose report is in reports/, or a path to a results.json.

    Returns:
        experiment, protocol, classifiers, gan, seconds, finding, cautions, cross_validation: As in results.json.
        settings: {key.subkey: value}.
        data: The settings of the data set, for paired comparisons; `None` if they are unknown.

    Raises:
        InputError: If there is none, it is not a report's, or it has another schema.
    """
    path = Path(name) if name.endswith(".json") else runs.home() / "reports" / name / "results.json"
    try:
        results = json.loads(path.read_text("utf-8"))
        if results["schema"] != SCHEMA:
            raise InputError(f"{path} has schema {results['schema']}, not {SCHEMA}. Render the report again.")
        compared = {key: results[key] for key in ("experiment", "protocol", "classifiers", "gan", "seconds")}
        return compared | {
            "finding": results.get("finding"), "cautions": results.get("cautions", []),  # older reports have none
            "cross_validation": results.get("cross_validation"),
            "settings": _flatten(results["settings"]), "data": _read_data_settings(results["settings"]["data"]),
        }  # fmt: skip
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Render it: bcgan report {name}") from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a results.json of a report ({error}). Render it again.") from error


def _read_data_settings(data_settings: dict[str, Any]) -> Data | None:
    """Return the settings of a report's data set; `None` if settings have changed since."""
    try:
        return Data.model_validate(data_settings)
    except ValidationError:
        return None


def _read_grid(data_settings: Data | None, folder: Path) -> paired.Grid | None:
    """Return the scale and size of the patches of a run; `None` if they are unknown.

    Args:
        data_settings: Of the run's report.
        folder: Of a stage of the run, beside that of the stage `preprocess`, which has the sizes of the images.
    """
    mpp, path = data_settings and microns_per_pixel(data_settings), folder.with_name("preprocess") / "index.csv"
    if not mpp or not path.is_file():
        return None
    side = coordinate_patch_px(data_settings, pd.read_csv(path, usecols=["width", "height"]))
    return paired.Grid(mpp, side, data_settings.classes)


def render(names: list[str], out: Path) -> Path:
    """Write index.html, index.md and a CSV for each table into the folder `out`; return the path of index.html.

    Args:
        names: Experiments whose reports are in reports/, or paths to files results.json.
    """
    reports = dict(zip(_unique_titles(names), map(read, names), strict=True))
    tables = {
        "Protocol": _compare_protocols(reports), "Settings that differ": _compare_settings(reports),
        "Test patients": _compare_classifiers(reports),
        "Differences on the same test patches": _compare_predictions(reports, "evaluate"),
        "Differences by cross-validation": _compare_predictions(reports, "cross_validation"),
        "Each class against the rest": _compare_classes(reports), "Synthetic patches": _compare_gans(reports),
        "Seconds": _compare_seconds(reports),
    }  # fmt: skip
    tables = {title: table for title, table in tables.items() if len(table)}
    out.mkdir(parents=True, exist_ok=True)
    templates, forest = load_templates(), draw_forest(reports)
    style.save(forest, out, "forest")
    svg = inline_svg.inline((out / "figures/forest.svg").read_text("utf-8"), "forest", forest.caption, False)
    context = {
        "reports": reports, "names": list(reports), "tables": tables, "forest": forest, "svg": svg,
        "color_variables": {"light": inline_svg.color_variables(False), "dark": inline_svg.color_variables(True)},
        "notes": differences_left_out(reports),
        "file_names": {title: f"{title.lower().replace(' ', '_')}.csv" for title in tables},
    }  # fmt: skip
    for name in ("html", "md"):
        text = templates.get_template(f"compare.{name}").render(context)
        (out / f"index.{name}").write_text(text, "utf-8")
    for title, table in tables.items():
        table.to_csv(out / context["file_names"][title], index=False)
    return out / "index.html"


def draw_forest(reports: dict[str, dict[str, Any]]) -> style.ReportFigure:
    """Draw a forest plot: the test ROC AUC of every classifier with its interval, a color for each report.

    Classifiers are ordered by their ROC AUC in the first report that has them, the best on top.

    Args:
        reports: {title: what `read` returns}, with {value, low, high} at classifiers/<name>/test/roc_auc.
    """
    estimates = {
        name: {title: report["classifiers"][name]["test"]["roc_auc"]
               for title, report in reports.items() if name in report["classifiers"]}
        for name in CLASSIFIER_NAMES
    }  # fmt: skip
    names = sorted(
        (name for name, by_report in estimates.items() if by_report),
        key=lambda name: next(iter(estimates[name].values()))["value"] or 0,
    )
    spacing, rows = 0.7 / len(reports), []  # of the reports, if classifiers are 1 apart
    figure, axes = plt.subplots(figsize=(6.5, len(names) * (0.14 + 0.13 * len(reports)) + 0.9))
    for classifier_y, name in enumerate(names):
        for position, (title, color) in enumerate(zip(reports, REPORT_COLORS * len(reports), strict=False)):
            estimate = estimates[name].get(title)
            if not estimate or estimate["value"] is None:
                continue
            y = classifier_y + spacing * ((len(reports) - 1) / 2 - position)
            style.draw_estimate(axes, estimate, y, color, lw=1.8, ms=4.5)
            rows.append({"report": title, "classifier": name, **estimate})
    axes.set_yticks(range(len(names)), [SHORT_NAMES[name] for name in names], fontsize=9)
    axes.set(xlabel="Test ROC AUC", ylim=(-0.6, len(names) - 0.4))
    axes.grid(axis="x", color=style.MUTED, alpha=0.25, lw=0.6)
    handles = [plt.Line2D([], [], marker="o", color=color) for color, _ in
               zip(REPORT_COLORS * len(reports), reports, strict=False)]  # fmt: skip
    figure.legend(handles, list(reports), loc="outside upper center", ncol=min(3, len(reports)), fontsize=8.5)
    sns.despine(figure)
    caption = (
        "Test ROC AUC of every classifier with its interval, by report. Two reports have the same test patients only "
        "where the protocol says so."
    )
    return style.ReportFigure(figure, pd.DataFrame(rows), "All classifiers", caption)


def _unique_titles(names: list[str]) -> list[str]:
    """Return a title for each report: its experiment, with its position if another one has the same."""
    titles = [Path(name).parent.name if name.endswith(".json") else name for name in names]
    return [f"{title} ({position})" if titles.count(title) > 1 else title for position, title in enumerate(titles, 1)]


def _make_table(
    reports: dict[str, dict], values: dict[str, dict[str, Any]], conditions: dict[str, dict[str, Any]] | None = None
) -> pd.DataFrame:
    """Make a table with a column for each report, and one for each further report's difference from the first.

    Args:
        values: {title of a row: {title of a report: an estimate {value, low, high}, a number, a text or `None`}}.
        conditions: {title of a row: {title of a report: what has to be that of the first report for a difference}}.
    """
    first, rows = next(iter(reports)), []
    for title, by_report in values.items():
        row = {"Figure": title, **{name: _format_value(value) for name, value in by_report.items()}}
        condition = (conditions or {}).get(title, dict.fromkeys(by_report))
        for name, value in by_report.items():
            numbers = [entry["value"] if isinstance(entry, dict) else entry for entry in (value, by_report[first])]
            is_comparable = name != first and condition[name] == condition[first]
            if is_comparable and all(isinstance(number, (int, float)) for number in numbers):
                row[f"{name} less {first}"] = f"{numbers[0] - numbers[1]:+.4g}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _look_up(reports: dict[str, dict], *keys: str, default: Any = None) -> dict[str, Any]:
    """Return what each report has below nested keys, by its title; `default` if it lacks one of them."""
    values = {}
    for title, report in reports.items():
        value: Any = report
        for key in keys:
            value = value.get(key, {})
        values[title] = default if value == {} else value
    return values


def _format_value(value: Any) -> str:
    """Return an estimate, a number, a text or `None` as text."""
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        return format_estimate(value)
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _compare_protocols(reports: dict[str, dict]) -> pd.DataFrame:
    """Return a table of the split, the data and sizes of roles, and of the classes if they are not the usual two."""
    values: dict[str, dict[str, Any]] = {}
    names = {title: classes_of(report) for title, report in reports.items()}
    if any(class_tuple != CLASSES for class_tuple in names.values()):
        values["Classes"] = {title: ", ".join(map(class_text, class_tuple)) for title, class_tuple in names.items()}
    values["Split"] = _look_up(reports, "protocol", "name")
    for row, key in (("Patients' roles, SHA-256", "split_sha256"), ("Patches, SHA-256", "data_sha256")):
        digests = _look_up(reports, "protocol", key, default="unknown")
        values[row] = {title: digest[:12] for title, digest in digests.items()}
    for role in (
        role for role in ROLE_NAMES if any(role in report["protocol"]["roles"] for report in reports.values())
    ):
        for unit in ("patients", "patches"):
            values[f"{ROLE_NAMES[role].capitalize()}: {unit}"] = _look_up(reports, "protocol", "roles", role, unit)
    return _make_table(reports, values)


def _flatten(tree: dict[str, Any], parent: str = "") -> dict[str, Any]:
    """Return nested settings as {key.subkey: value}."""
    by_key = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            by_key |= _flatten(value, f"{parent}{key}.")
        else:
            by_key[f"{parent}{key}"] = value
    return by_key


def _compare_settings(reports: dict[str, dict]) -> pd.DataFrame:
    """Return a table of the settings that are not the same in all reports."""
    all_settings = [report["settings"] for report in reports.values()]
    keys = sorted(
        {
            key
            for settings in all_settings
            for key in settings
            if any(settings[key] != other_settings.get(key) for other_settings in all_settings)
        }
    )
    values = {}
    for key in keys:
        values[key] = {title: str(report["settings"].get(key, "unknown")) for title, report in reports.items()}
    return _make_table(reports, values)


def _compare_classifiers(reports: dict[str, dict]) -> pd.DataFrame:
    """Return a table of METRICS of every classifier on test patients."""
    values = {
        f"{CLASSIFIER_NAMES[name]}: {METRIC_NAMES[metric]}": _look_up(reports, "classifiers", name, "test", metric)
        for name in CLASSIFIER_NAMES
        if any(name in report["classifiers"] for report in reports.values())
        for metric in METRICS
    }
    return _make_table(reports, values, dict.fromkeys(values, class_conditions(reports)))


def _compare_predictions(reports: dict[str, dict], stage: str) -> pd.DataFrame:
    """Return a table of paired differences of classifiers from those of the first report, on test patches of both.

    A report is left out with a warning if its run is not in runs/ or has other patches, and without one if it has no
    cross-validation.

    Args:
        stage: `evaluate`, or `cross_validation`, in which every patch is a test patch once.
    """
    (first, reference), *further_reports = reports.items()
    settings = reference["settings"]
    keys = ("evaluate.bootstrap_samples", "evaluate.confidence_level", "seed")
    bootstrap = paired.BootstrapSettings(*(settings[key] for key in keys))
    rows = []
    for title, report in further_reports:
        if stage == "cross_validation" and not (reference["cross_validation"] and report["cross_validation"]):
            continue
        try:
            if classes_of(report) != classes_of(reference):
                raise InputError(f"{title} and {first} have other classes. Compare reports of the same classes.")
            folders = _find_stage_folder(first, reference, stage), _find_stage_folder(title, report, stage)
            grids = tuple(map(_read_grid, (reference["data"], report["data"]), folders))
            differences = paired.compare_runs(*folders, bootstrap, None if None in grids else grids)
        except InputError as error:
            progress.log.warning("compare: %s: no paired differences of the stage %s: %s", title, stage, error)
            continue
        rows += [
            {
                "Classifier": CLASSIFIER_NAMES[row["classifier"]],
                "Metric": METRIC_NAMES[row["metric"]],
                f"{title} less {first}": format_difference(row),
                "Patches": row["patches"],
                "Patients": row["patients"],
            }
            for row in differences
        ]
    return pd.DataFrame(rows).fillna("")


def _find_stage_folder(title: str, report: dict, stage: str) -> Path:
    """Return the folder of a stage in the run that a report describes.

    Args:
        title: Of the report, for errors.
        report: The content of its results.json.
        stage: "evaluate" or "cross_validation".

    Raises:
        InputError: If the folder is missing, or its results differ from the report's, as after another run.
    """
    folder = runs.root() / report["experiment"] / "evaluate"
    if not (folder / "metrics.json").is_file():
        raise InputError(f"{folder / 'metrics.json'} does not exist. Run: bcgan run {report['experiment']}")
    measured = runs.read_json(folder / "metrics.json")
    for name, reported in report["classifiers"].items():
        if name not in measured or measured[name]["sets"]["test"]["roc_auc"] != reported["test"]["roc_auc"]:
            raise InputError(_outdated_text(folder, title, report))
    if stage == "evaluate":
        return folder
    folder = folder.with_name(stage)
    path = folder / "probabilities.csv"
    if not path.is_file() or "fold" not in pd.read_csv(path, nrows=0):
        raise InputError(
            f"{folder} has no predictions by fold: an earlier version wrote it. Run "
            f"bcgan run {report['experiment']} --until {stage}, which reuses the trainings"
        )
    if runs.read_json(folder / "cross_validation.json") != report[stage]:
        raise InputError(_outdated_text(folder, title, report))
    return folder


def _compare_classes(reports: dict[str, dict]) -> pd.DataFrame:
    """Return a table of CLASS_METRICS of each class against the rest, of reports on more than two classes."""
    class_names_of_reports = dict.fromkeys(name for report in reports.values() for name in classes_of(report))
    values = {}
    for name in CLASSIFIER_NAMES:
        for class_name in class_names_of_reports:
            keys = ("classifiers", name, "by_class", "test", class_name)
            if any(_look_up(reports, *keys).values()):
                for metric in CLASS_METRICS:
                    title = f"{CLASSIFIER_NAMES[name]}, {class_text(class_name)}: {METRIC_NAMES[metric]}"
                    values[title] = _look_up(reports, *keys, metric)
    return _make_table(reports, values, dict.fromkeys(values, class_conditions(reports)))


def _compare_gans(reports: dict[str, dict]) -> pd.DataFrame:
    """Return a table of the scores of synthetic patches."""
    values = {title: _look_up(reports, "gan", name, "value") for name, title in GAN_NAMES.items()}
    return _make_table(reports, values, score_conditions(reports))


def _compare_seconds(reports: dict[str, dict]) -> pd.DataFrame:
    """Return a table of the seconds that each stage took."""
    stages = dict.fromkeys(stage for report in reports.values() for stage in report["seconds"])
    return _make_table(reports, {stage.capitalize(): _look_up(reports, "seconds", stage) for stage in stages})


def _outdated_text(folder: Path, title: str, report: dict) -> str:
    return f"{folder} has other results than the report {title}. Render it again: bcgan report {report['experiment']}"
