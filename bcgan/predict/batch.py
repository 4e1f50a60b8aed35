"""`bcgan batch`: rows of every slide's patches, as `bcgan predict` has them."""

import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bcgan import machine
from bcgan.predict import slides
from bcgan.predict.images import find
from bcgan.predict.model import Model, load
from bcgan.predict.predict import predict
from bcgan.predict.slidewise import Slide


class Scores(NamedTuple):
    """A `bcgan.predict.slidewise.Job`. model: a folder of `bcgan export`; None: the one that comes with bcgan. maps:
    whether a heat map, an overlay and outlines of every slide are drawn into maps/<slide>/."""

    out: Path
    model: str | None = None
    engine: str = "auto"
    microns_per_pixel: float | None = None
    neighbours: bool = True
    maps: bool = False
    name: str = "batch"
    suffix: str = ".csv"
    folders: bool = True

    def settings(self, slide: Slide) -> Any:
        model = _loaded(self.model, self.engine, self.neighbours)
        inside = slide.path.rglob("*") if slide.path.is_dir() else (slide.path,)
        known = find_spec("openslide") is not None or not any(map(slides.is_slide, inside))  # else it is judged later
        return [model.card.sha256, model.engine, self.microns_per_pixel, self.neighbours, self.maps, known]

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """The number of patches by verdict."""
        model, files = _loaded(self.model, self.engine, self.neighbours), find([str(slide.path)])
        drawn = self.out / "maps" / slide.name
        shutil.rmtree(drawn, ignore_errors=True)  # of old rows
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            return predict(model, files, file, False, self.microns_per_pixel, drawn if self.maps else None, shown=False)


@cache
def _loaded(folder: str | None, engine: str, neighbours: bool) -> Model:
    machine.prepare_environment()  # a worker's process has not
    return load(folder, engine, neighbours=neighbours)
