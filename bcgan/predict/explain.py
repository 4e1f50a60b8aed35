"""`bcgan explain`: of every patch a picture of where the evidence for its call lies, and one page of them all."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from bcgan import progress
from bcgan.predict.maps import NAMES, describe_test, draw_explanation
from bcgan.predict.model import VERDICTS, Model
from bcgan.predict.predict import MppOf
from bcgan.slides.files import ImageFile, printable
from bcgan.slides.patches import read_patch


def write(model: Model, images: list[ImageFile], out: Path, mpp_of: MppOf | None = None) -> int:
    """Write a PNG a patch and index.html; how many files were refused, each with its reason on the page.

    Args:
        mpp_of: the resolution that the user gives for an image, in place of what the file states. Defaults to none.
    """
    out.mkdir(parents=True, exist_ok=True)
    explained, refused = [], []
    with progress.bar(len(images), "explain", "patch") as bar:
        for number, image in enumerate(images):
            bar.update()
            try:
                patch = read_patch(image, model.scale, mpp_of and mpp_of(image))
            except (OSError, ValueError) as error:
                refused.append(str(error))
                progress.log.warning("explain: %s", error)
                continue
            name = image.name.rsplit("/", 1)[-1]
            file = f"{number:04d}-{Path(name).stem}.png"
            draw_explanation(out / file, name, patch, model)
            explained.append({"name": image.path, "link": quote(os.fsencode(file)), **_describe(model, patch)})
    page = Environment(loader=PackageLoader("bcgan", "predict"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = page.get_template("explain.html").render(
        explained=explained,
        refused=[printable(reason) for reason in refused],
        card=model.card,
        tests=[(title, describe_test(model.card, name)) for name, title in NAMES.items()],
    )
    (out / "index.html").write_text(text, "utf-8")
    return len(refused)


def _describe(model: Model, patch) -> dict[str, Any]:
    """A patch's call in words, and the numbers behind it; None where there is no probability."""
    probability, uncertainty, called, verdict, _ = (values[0] for values in model.predict(patch[None]))
    calls = {
        "scored": f"Called {model.card.classes[called]}",
        "abstained": "No call: too near the threshold",
        "out_of_distribution": "No call: unlike the tissue that this classifier knows",
        "no_tissue": "No call: no tissue",
    }
    has_score = VERDICTS[verdict] in ("scored", "abstained")
    return {
        "call": calls[VERDICTS[verdict]],
        "probability": float(probability) if has_score else None,
        "uncertainty": float(uncertainty) if has_score else None,
        "strangeness": float(model.strangeness(patch[None])[0]),
    }
