"""`bcgan explain`: of every patch a picture of where the evidence for its call lies, and one page of them all."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from bcgan import progress
from bcgan.data.records import printable
from bcgan.errors import InputError
from bcgan.predict.images import read_patch
from bcgan.predict.maps import draw_explanation
from bcgan.predict.model import VERDICTS, Model
from bcgan.predict.predict import scale_of


def write(model: Model, paths: list[Path], out: Path, microns_per_pixel: float | None = None) -> int:
    """Write a PNG a patch and index.html; how many files were refused, each with its reason on the page.

    Args:
        microns_per_pixel: float. Of the images; None: that of the model's patches.

    Raises:
        InputError: none of the files is a patch.
    """
    out.mkdir(parents=True, exist_ok=True)
    shown, refused, scale = [], [], scale_of(model, microns_per_pixel)
    with progress.bar(len(paths), "explain", "patch") as bar:
        for number, path in enumerate(paths):
            bar.update()
            try:
                patch = read_patch(path, model.card.size, scale)
            except InputError as error:
                refused.append(str(error))
                progress.log.warning("explain: %s", error)
                continue
            file = f"{number:04d}-{path.stem}.png"
            draw_explanation(out / file, path.name, patch, model)
            shown.append({"name": printable(str(path)), "link": quote(os.fsencode(file)), **_said(model, patch)})
    if not shown:
        raise InputError(refused[0])
    page = Environment(loader=PackageLoader("bcgan", "predict"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = page.get_template("explain.html").render(shown=shown, refused=map(printable, refused), card=model.card)
    (out / "index.html").write_text(text, "utf-8")
    return len(refused)


def _said(model: Model, patch) -> dict[str, Any]:
    """A patch's call in words, and the numbers behind it."""
    probability, uncertainty, called, verdict = (one[0] for one in model.predict(patch[None]))
    calls = {
        "scored": f"Called {model.card.classes[called]}",
        "abstained": "No call: too near the threshold",
        "out_of_distribution": "No call: unlike the tissue that this classifier knows",
    }
    return {
        "call": calls[VERDICTS[verdict]],
        "probability": float(probability),
        "uncertainty": float(uncertainty),
        "strangeness": float(model.strangeness(patch[None])[0]),
    }
