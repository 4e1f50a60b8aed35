"""`bcgan explain`: draw which pixels of a patch support its predicted class, and write a page of all patches."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader

from bcgan import outputs, progress
from bcgan.classes import capitalize
from bcgan.predict.maps import (
    ABSTAIN_REASONS,
    METHOD_NAMES,
    describe_colors,
    describe_test,
    draw_explanation,
    explained_label,
    probability_name,
)
from bcgan.predict.model import VERDICTS, Model, Predictions
from bcgan.predict.predict import MppOf, describe_thresholds
from bcgan.slides.files import ImageFile, printable
from bcgan.slides.patches import PatchGrid, read_one_patch


def write(model: Model, images: list[ImageFile], out: Path, mpp_of: MppOf | None = None) -> int:
    """Write one PNG for each patch and index.html.

    Args:
        images: Files of one patch each.
        mpp_of: Returns the resolution that the user gives for an image. Defaults to what each file states.

    Returns:
        The number of files that could not be explained; the page has their reasons.
    """
    outputs.make_folder(out)
    explained, refused = [], []
    with progress.bar(len(images), "explain", "patch") as bar:
        for index, image in enumerate(images):
            bar.update()
            try:
                grid = read_one_patch(image, model.scale, mpp_of and mpp_of(image))
            except (OSError, ValueError) as error:
                refused.append(str(error))
                progress.log.warning("explain: %s", error)
                continue
            name = image.name.rsplit("/", 1)[-1]
            file = f"{index:04d}-{Path(name).stem}.png"
            predictions = predict_patch(model, grid)
            draw_explanation(out / file, name, grid.patches[0], model, predictions)
            description = _describe(model, grid.patches[0], predictions)
            explained.append({"name": image.path, "link": quote(os.fsencode(file)), **description})
    templates = Environment(
        loader=PackageLoader("bcgan", "predict"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = templates.get_template("explain.html").render(
        explained=explained,
        refused=[printable(reason) for reason in refused],
        card=model.card,
        colors=describe_colors(model.card),
        rule=describe_thresholds(model.card.thresholds, model.card.classes),
        tests=[(title, describe_test(model.card, name)) for name, title in METHOD_NAMES.items()],
    )
    (out / "index.html").write_text(page, "utf-8")
    return len(refused)


def predict_patch(model: Model, grid: PatchGrid) -> Predictions:
    """Predict an image that is one patch, as `bcgan predict` does; the tissue of the whole image counts."""
    return model.predict(grid.patches, has_tissue=grid.tissue.mean((1, 2)) >= model.card.min_tissue)


def _describe(model: Model, patch: np.ndarray, predictions: Predictions) -> dict[str, Any]:
    """Return the prediction for a patch in words and in numbers, for the page.

    Args:
        patch: uint8, (size, size, 3).
        predictions: Of this patch alone.

    Returns:
        call: In words.
        probability, uncertainty: `None` if the patch was rejected.
        probability_name: In words, such as "Probability of malignancy".
        ood_score: See `Model.ood_scores`.
    """
    probability, uncertainty, called, verdict, _, by_class = (values[0] for values in predictions)
    classes = model.card.classes
    calls = {
        "scored": f"Called {classes[called]}",
        "abstained": f"No call: {ABSTAIN_REASONS[len(classes) > 2]}",
        "out_of_distribution": "No call: unlike the tissue that this classifier knows",
        "no_tissue": "No call: no tissue",
    }
    has_score = VERDICTS[verdict] in ("scored", "abstained")
    return {
        "call": calls[VERDICTS[verdict]],
        "probability": float(probability) if has_score else None,
        "probability_name": capitalize(probability_name(classes, explained_label(model, patch, by_class))),
        "uncertainty": float(uncertainty) if has_score else None,
        "ood_score": float(model.ood_scores(patch[None])[0]),
    }
