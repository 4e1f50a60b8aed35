"""`bcgan batch`: rows of every slide's patches, as `bcgan predict` has them."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bcgan import machine
from bcgan.predict.model import Model, load
from bcgan.predict.predict import predict
from bcgan.predict.slidewise import Slide
from bcgan.slides.mpp_table import MppChoice


class Scores(NamedTuple):
    """A `bcgan.predict.slidewise.Job`. model: a folder of `bcgan export`; None: the one that comes with bcgan. maps:
    whether a heat map, an overlay and outlines of every slide are drawn into maps/<slide>/."""

    out: Path
    model: str | None = None
    engine: str = "auto"
    mpp: float | None = None
    mpp_table: Path | None = None
    neighbours: bool = True
    maps: bool = False
    name: str = "batch"
    suffix: str = ".csv"
    folders: bool = True

    def settings(self, slide: Slide) -> Any:
        model = _loaded(self.model, self.engine, self.neighbours)
        return [model.card.sha256, model.engine, self._choice().as_json(), self.neighbours, self.maps]

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """The number of patches by verdict."""
        model = _loaded(self.model, self.engine, self.neighbours)
        drawn = self.out / "maps" / slide.name
        shutil.rmtree(drawn, ignore_errors=True)  # of old rows
        with path.open("w", encoding="utf-8", newline="") as file:
            maps = drawn if self.maps else None
            return predict(model, slide.images(), file, False, self._choice(), maps, progress_bar=False)

    def _choice(self) -> MppChoice:
        return MppChoice(self.mpp, self.mpp_table)


@cache
def _loaded(folder: str | None, engine: str, neighbours: bool) -> Model:
    machine.prepare_environment()  # a worker's process has not
    return load(folder, engine, neighbours=neighbours)
