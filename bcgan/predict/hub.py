"""Write a classifier as a folder for a model hub: README.md with metadata, the files, and an example."""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from bcgan import __version__
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.errors import InputError
from bcgan.evaluate.intervals import format_estimate
from bcgan.predict import engines
from bcgan.predict.model import CARD, FILES, SHIPPED, Model
from bcgan.predict.predict import describe_thresholds
from bcgan.preprocess.images import encode_png

FOLDER = "hub"
EXAMPLE = "example.png"
METRIC_NAMES = {"roc_auc": "ROC AUC", "f1": "F1", "ece_calibrated": "Calibration error"}
SHIPPED_CARD = "MODEL_CARD.md"


def write(model: Model, folder: Path, license_name: str) -> Path:
    """Write README.md, the files of the exported folder and a phantom patch as an example; nothing is uploaded.

    Args:
        folder: The folder `hub` in it is made; one that `write` made is replaced.
        license_name: An SPDX identifier, or the address of a licence.

    Returns:
        The folder that was written.

    Raises:
        InputError: If the folder has other files, or the model is not one that `bcgan export` wrote.
    """
    if any(name not in model.card.sha256 for name in FILES):
        raise InputError(f"{model.folder}: --format hub writes classifiers of `bcgan export`. Choose such a --model.")
    out = folder / FOLDER
    files = {name: model.checked_file(name) for name in (*FILES, *engines.LITERT_FILES) if name in model.card.sha256}
    known = {*FILES, *engines.LITERT_FILES, CARD, SHIPPED_CARD, EXAMPLE, "README.md"}
    if out.exists() and (foreign := {path.name for path in out.iterdir()} - known):
        raise InputError(f"{out} has other files, such as {min(foreign)}. Choose another folder with --out.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, path in files.items():
        shutil.copy2(path, out / name)
    (out / CARD).write_text(model.card.model_dump_json(indent=1) + "\n", "utf-8")
    if model.folder == SHIPPED:
        shutil.copy2(SHIPPED / SHIPPED_CARD, out)
    (out / EXAMPLE).write_bytes(encode_png(example_patches(2, model.card.size)[0][1]))
    (out / "README.md").write_text(_readme(model, license_name), "utf-8")
    return out


def license_fields(name: str) -> dict[str, str]:
    """Return a hub's metadata on a licence: hubs know SPDX names in lower case, and others by name or link."""
    if re.fullmatch(r"[A-Za-z]+[A-Za-z0-9.+]*(-[A-Za-z0-9.+]+)+|MIT", name):
        return {"license": name.lower()}
    return {"license": "other", "license_link" if name.startswith("http") else "license_name": name}


def metadata(model: Model, license_name: str) -> dict[str, Any]:
    """Return the metadata at the head of README.md, with the metrics of each group of held-out patients.

    Returns:
        The keys of model hubs, license, library_name, pipeline_tag, tags and model-index, which has all metrics.
    """
    card = model.card
    data_name = str(card.training_data.get("data", "unknown"))
    measured = ", by earlier networks that had not seen them" if card.is_trained_on_all else ""
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": f"{data_name}, {group} patients{measured}", "type": data_name, "split": group},
            "metrics": [
                {"type": metric, "value": round(figures["value"], 4), "name": _metric_text(metric, figures)}
                for metric, figures in by_metric.items()
                if figures["value"] is not None
            ],
        }
        for group, by_metric in card.metrics.items()
    ]
    name = f"bcgan-{card.training_data.get('experiment', 'classifier')}"
    return {
        **license_fields(license_name), "library_name": "bcgan", "pipeline_tag": "image-classification",
        "tags": ["histopathology", "breast-cancer", "keras", "medical-imaging", "research-use-only"],
        "model-index": [{"name": name, "results": results}],
    }  # fmt: skip


def _metric_text(metric: str, figures: dict[str, Any]) -> str:
    """Return a metric's name and its value with interval, such as "ROC AUC, 0.946 (0.932 to 0.959)"."""
    name = METRIC_NAMES.get(metric, metric.replace("_", " ").capitalize())
    return f"{name}, {format_estimate(figures)}"


def _readme(model: Model, license_name: str) -> str:
    """Return the text of README.md."""
    card, training = model.card, model.card.training_data
    head = yaml.safe_dump(metadata(model, license_name), sort_keys=False, allow_unicode=True)
    rows = [
        f"| {group} | {METRIC_NAMES.get(metric, metric.replace('_', ' '))} | {format_estimate(figures)} |"
        for group, by_metric in card.metrics.items()
        for metric, figures in by_metric.items()
    ]
    scale = f"{card.microns_per_pixel:g} microns" if card.microns_per_pixel else "an unknown number of microns"
    measured = (
        "The values are of networks that had not seen the held-out patients; these files were trained on them too."
        if card.is_trained_on_all
        else "These files were not trained on them."
    )
    rule = f"A patch {describe_thresholds(card.thresholds, card.classes)}."
    if len(card.classes) > 2:
        called = "Each patch counts as the most probable class, also where the classifier gives no label."
    else:
        called = f"Each patch is called {card.classes[1]} from {card.thresholds.limits[1]:.4f} on"
        if card.spatial_context:
            called += f", with neighbouring patches from {card.spatial_context_thresholds.limits[1]:.4f} on"
        called += ", also in the range without a label."
    patients = training.get("patients", "?")
    names = training.get("networks", [])
    networks = (", ".join(names) or "unknown") + ("; their logits are averaged" if len(names) > 1 else "")
    return f"""---
{head}---

# A classifier of histopathology patches: {", ".join(card.classes)}

{card.intended_use}

- **Input**: a patch of {card.size} x {card.size} pixels, RGB, {scale} a pixel. `{EXAMPLE}` is one, drawn by a program.
- **Output**: a calibrated probability of each class, averaged over {card.tta_views} orientations. {rule}
- **Networks**: {networks}.
- **Trained on**: {training.get("data", "?")}, {training.get("patches", "?")} patches of {patients} patients.
- **Refuses**: glass, and tissue unlike that of the training, by `quality_filter.npz`.

## Use

With bcgan {__version__}:

    bcgan predict {EXAMPLE} --model .

    import bcgan
    model = bcgan.load(".")
    rows = model.predict_image("{EXAMPLE}")

`{CARD}` has the calibration, the thresholds and the SHA-256 of every file, which is checked before anything is loaded.

## Held-out patients

Values, with intervals by patient bootstrap where there are enough patients, each patch by itself (`_neighbours`: with
neighbouring patches), averaged over {card.tta_views} orientations; a report of the run may average over fewer.
Thresholds are of validation patients. {called} {measured}

| patients | metric | |
|---|---|---|
{chr(10).join(rows)}

Licence: {license_name}
"""
