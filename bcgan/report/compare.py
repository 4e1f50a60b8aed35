"""`bcgan compare`: the numbers of several reports side by side, on one page."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bcgan.errors import InputError
from bcgan.evaluate.intervals import describe
from bcgan.report.page import templates
from bcgan.report.style import CLASSIFIER_NAMES, METRIC_NAMES, ROLE_NAMES
from bcgan.report.tables import GAN_NAMES

METRICS = ("roc_auc", "balanced_accuracy", "f1", "ece_calibrated")


def read(name: str) -> dict[str, Any]:
    """A report's numbers: `name` is an experiment whose report lies in reports/, or a path to a results.json.

    Raises:
        InputError: there is none, or it is no report's.
    """
    path = Path(name) if name.endswith(".json") else Path("reports") / name / "results.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        asked = {key: found[key] for key in ("experiment", "protocol", "classifiers", "gan", "seconds")}
        return asked | {"settings": _flat(found.get("settings", {}))}  # a report of an older bcgan has none
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
        found = {name: get(report) for name, report in reports.items()}
        row = {"Figure": title, **{name: _text(one) for name, one in found.items()}}
        for name, one in found.items():
            numbers = [value["value"] if isinstance(value, dict) else value for value in (one, found[first])]
            if name != first and all(isinstance(number, (int, float)) for number in numbers):
                row[f"{name} less {first}"] = f"{numbers[0] - numbers[1]:+.4g}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _text(one: Any) -> str:
    if one is None:
        return "unknown"
    if isinstance(one, dict):
        return describe(one)
    return f"{one:,.4g}" if isinstance(one, float) else f"{one:,}" if isinstance(one, int) else str(one)


def _protocol(reports: dict[str, dict]) -> pd.DataFrame:
    roles = [role for role in ROLE_NAMES if any(role in one["protocol"]["roles"] for one in reports.values())]
    lines: dict[str, Any] = {"Split": lambda one: one["protocol"]["name"]}
    for title, key in (("Patients' roles, SHA-256", "split_sha256"), ("Patches, SHA-256", "data_sha256")):
        lines[title] = lambda one, key=key: one["protocol"].get(key, "unknown")[:12]
    for role in roles:
        for what in ("patients", "patches"):
            lines[f"{ROLE_NAMES[role].capitalize()}: {what}"] = lambda one, role=role, what=what: (
                one["protocol"]["roles"].get(role, {}).get(what)
            )
    return _rows(reports, lines)


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{key.subkey: value} of nested settings."""
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return found


def _settings(reports: dict[str, dict]) -> pd.DataFrame:
    settings = [one["settings"] for one in reports.values()]
    keys = sorted({key for one in settings for key in one if any(one[key] != other.get(key) for other in settings)})
    return _rows(reports, {key: lambda one, key=key: str(one["settings"].get(key, "unknown")) for key in keys})


def _classifiers(reports: dict[str, dict]) -> pd.DataFrame:
    names = [name for name in CLASSIFIER_NAMES if any(name in one["classifiers"] for one in reports.values())]
    lines = {
        f"{CLASSIFIER_NAMES[name]}: {METRIC_NAMES[metric]}": (
            lambda one, name=name, metric=metric: one["classifiers"].get(name, {}).get("test", {}).get(metric)
        )
        for name in names
        for metric in METRICS
    }
    return _rows(reports, lines)


def _gan(reports: dict[str, dict]) -> pd.DataFrame:
    lines = {
        title: (lambda one, name=name: one["gan"][name]["value"] if name in one["gan"] else None)
        for name, title in GAN_NAMES.items()
    }
    return _rows(reports, lines)


def _seconds(reports: dict[str, dict]) -> pd.DataFrame:
    stages = list(dict.fromkeys(stage for one in reports.values() for stage in one["seconds"]))
    return _rows(reports, {stage.capitalize(): lambda one, stage=stage: one["seconds"].get(stage) for stage in stages})
