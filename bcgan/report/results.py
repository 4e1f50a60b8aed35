"""The contents of results.json, the report's numbers for programs; unknown values are null."""

from typing import Any

import numpy as np

from bcgan.report import finding
from bcgan.report.run import Run

SCHEMA = 2
COPIED = (  # fields of `Run` that results.json has unchanged, under the same names
    "comparisons", "split_optimism", "probes", "explanations", "translations", "learning_curve", "tuning", "ablation",
    "cross_validation", "leak_audit",
)  # fmt: skip


def collect_results(run: Run, table1_totals: dict[str, int]) -> dict[str, Any]:
    """Return the contents of results.json; docs/reference/outputs.md documents its keys."""
    synthetic, real = (float(np.mean(by_class)) for by_class in run.layout_correlations().values())
    layout_correlation = {"value": synthetic, "floor": real, "ceiling": 1.0, "samples": len(run.synthetic["labels"])}
    return {
        "schema": SCHEMA,
        "experiment": run.experiment.name,
        "settings": run.experiment.model_dump(mode="json", exclude={"data": {"dir", "split_dir"}, "report": True}),
        "protocol": {
            "name": run.split["policy"],
            "seed": run.split["seed"],
            "split_sha256": run.split["sha256"],
            "data_sha256": run.data_sha256(),
            "roles": run.split["counts"],
        },
        "finding": finding.find(run)._asdict(),
        "cautions": finding.cautions(run),
        "table1": table1_totals,
        "classifiers": {
            name: {**scores["sets"], **{key: value for key, value in scores.items() if key != "sets"}}
            for name, scores in run.metrics.items()
        },
        "gan": run.gan_scores | {"layout_correlation": layout_correlation},
        "release": run.release_audit,
        **{name: getattr(run, name) for name in COPIED},
        "environment": run.manifests["classify"]["environment"],
        "seconds": {name: manifest["seconds"] for name, manifest in run.manifests.items()},
    }
