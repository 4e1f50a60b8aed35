"""`bcgan compare`: the numbers of several reports side by side, on one page."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bcgan.errors import InputError
from bcgan.evaluate.intervals import describe
from bcgan.report.page import templates
from bcgan.report.results import SCHEMA
from bcgan.report.style import CLASSIFIER_NAMES, METRIC_NAMES, ROLE_NAMES
from bcgan.report.tables import GAN_NAMES

METRICS = ("roc_auc", "balanced_accuracy", "f1", "ece_calibrated")


def read(name: str) -> dict[str, Any]:
    """Read a report's numbers.

    Args:
        name: An experiment whose report is in reports/, or a path to a results.json.

    Raises:
        InputError: If there is none, it is not a report's, or it has another schema.
    """
    path = Path(name) if name.endswith(".json") else Path("reports") / name / "results.json"
    try:
        results = json.loads(path.read_text("utf-8"))
        if results["schema"] != SCHEMA:
            raise InputError(f"{path} has schema {results['schema']}, not {SCHEMA}. Render the report again.")
        compared = {key: results[key] for key in ("experiment", "protocol", "classifiers", "gan", "seconds")}
        return compared | {"settings": _flat(results["settings"])}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Render it: bcgan report {name}") from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no results.json of a report ({error}). Render it again.") from error


def render(names: list[str], out: Path) -> Path:
    """Write index.html, index.md and a CSV a table into `out`; gives the page's path."""
    reports = dict(zip(_titles(names), map(read, names), strict=True))
    tables = {
        "Protocol": _protocol(reports), "Settings that differ": _settings(reports),
        "Test patients": _classifiers(reports), "Synthetic patches": _gan(reports), "Seconds": _seconds(reports),
    }  # fmt: skip
    tables = {title: table for title, table in tables.items() if len(table)}
    out.mkdir(parents=True, exist_ok=True)
    pages = templates()
    for name in ("html", "md"):
        text = pages.get_template(f"compare.{name}").render(names=list(reports), tables=tables)
        (out / f"index.{name}").write_text(text, "utf-8")
    for title, table in tables.items():
        table.to_csv(out / f"{title.lower().replace(' ', '_')}.csv", index=False)
    return out / "index.html"


def _titles(names: list[str]) -> list[str]:
    titles = [Path(name).parent.name if name.endswith(".json") else name for name in names]
    return [f"{title} ({place})" if titles.count(title) > 1 else title for place, title in enumerate(titles, 1)]


def _rows(reports: dict[str, dict], lines: dict[str, Any]) -> pd.DataFrame:
    """A row a line; `lines` gives {title: function from a report to a figure, a number, a text or None}."""
    first, rows = next(iter(reports)), []
    for title, get in lines.items():
        by_report = {name: get(report) for name, report in reports.items()}
        row = {"Figure": title, **{name: _text(value) for name, value in by_report.items()}}
        for name, value in by_report.items():
            numbers = [entry["value"] if isinstance(entry, dict) else entry for entry in (value, by_report[first])]
            if name != first and all(isinstance(number, (int, float)) for number in numbers):
                row[f"{name} less {first}"] = f"{numbers[0] - numbers[1]:+.4g}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        return describe(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _protocol(reports: dict[str, dict]) -> pd.DataFrame:
    roles = [role for role in ROLE_NAMES if any(role in report["protocol"]["roles"] for report in reports.values())]
    lines: dict[str, Any] = {"Split": lambda report: report["protocol"]["name"]}
    for title, key in (("Patients' roles, SHA-256", "split_sha256"), ("Patches, SHA-256", "data_sha256")):
        lines[title] = lambda report, key=key: report["protocol"].get(key, "unknown")[:12]
    for role in roles:
        for unit in ("patients", "patches"):
            lines[f"{ROLE_NAMES[role].capitalize()}: {unit}"] = lambda report, role=role, unit=unit: (
                report["protocol"]["roles"].get(role, {}).get(unit)
            )
    return _rows(reports, lines)


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{key.subkey: value} of nested settings."""
    by_key = {}
    for key, value in tree.items():
        by_key |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return by_key


def _settings(reports: dict[str, dict]) -> pd.DataFrame:
    settings = [report["settings"] for report in reports.values()]
    keys = sorted(
        {
            key
            for report in settings
            for key in report
            if any(report[key] != other_settings.get(key) for other_settings in settings)
        }
    )
    return _rows(reports, {key: lambda report, key=key: str(report["settings"].get(key, "unknown")) for key in keys})


def _classifiers(reports: dict[str, dict]) -> pd.DataFrame:
    names = [name for name in CLASSIFIER_NAMES if any(name in report["classifiers"] for report in reports.values())]
    lines = {
        f"{CLASSIFIER_NAMES[name]}: {METRIC_NAMES[metric]}": (
            lambda report, name=name, metric=metric: report["classifiers"].get(name, {}).get("test", {}).get(metric)
        )
        for name in names
        for metric in METRICS
    }
    return _rows(reports, lines)


def _gan(reports: dict[str, dict]) -> pd.DataFrame:
    lines = {
        title: (lambda report, name=name: report["gan"][name]["value"] if name in report["gan"] else None)
        for name, title in GAN_NAMES.items()
    }
    return _rows(reports, lines)


def _seconds(reports: dict[str, dict]) -> pd.DataFrame:
    stages = list(dict.fromkeys(stage for report in reports.values() for stage in report["seconds"]))
    return _rows(
        reports, {stage.capitalize(): lambda report, stage=stage: report["seconds"].get(stage) for stage in stages}
    )
