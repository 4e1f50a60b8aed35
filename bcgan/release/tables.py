"""The audit of a release as tables, for its data card and for the report."""

from typing import Any

import pandas as pd

from bcgan.classifiers import CLASSIFIERS
from bcgan.evaluate.intervals import format_estimate
from bcgan.release.privacy import TITLES

STARTS = {"released": "trained on the release", "initial": "initial weights"}
PASSED = {True: "yes", False: "no", None: ""}


def privacy(audit: dict[str, Any]) -> pd.DataFrame:
    """Return the privacy checks of a release as a table, a row each; `audit` is the content of its audit.json."""
    rows = [
        (
            TITLES[check["name"]], check["space"].replace("_", " "), format_estimate(check),
            "" if check["limit"] is None else f"{check['limit']:.3f}", PASSED[check["passed"]],
        )
        for check in audit["privacy"]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Privacy", "By", "Result", "At most", "Passed"])


def utility(audit: dict[str, Any]) -> pd.DataFrame:
    """Return the test results of networks trained on a release and on real patches; `audit` as in `privacy`."""
    rows = []
    for name, network in audit["utility"]["networks"].items():
        for kind, text in (("released", "the release"), ("real", "real patches")):
            metrics = network[kind]
            count = network["patches" if kind == "released" else "real_patches"]
            rows.append((
                CLASSIFIERS[name].title, f"{text}, {count:,}", *map(format_estimate, metrics.values()),
                format_estimate(network["difference"]) if kind == "released" else "",
            ))  # fmt: skip
    columns = ["Network", "Trained on", "ROC AUC", "Sensitivity", "Specificity", "Calibration error after scaling",
               "ROC AUC, difference from real patches"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def tuning(audit: dict[str, Any]) -> pd.DataFrame:
    """Return the ROC AUC of a network tuned on a few real patients, by where it started; empty if none was tuned."""
    measured = audit["utility"]["tuning"] or {"rows": []}
    rows = [
        (row["patients"], row["patches"], STARTS[row["from"]], format_estimate(row["roc_auc"]))
        for row in measured["rows"]
    ]
    return pd.DataFrame(rows, columns=["Real patients", "Real patches", "Start", "ROC AUC"])


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    rows = [
        table.columns,
        ["---"] * len(table.columns),
        *table.astype(object).where(table.notna(), "").to_numpy(),
    ]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
