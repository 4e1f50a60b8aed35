"""`bcgan batch`: write one CSV file for each slide, with the rows of `bcgan predict`."""

import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bcgan import machine
from bcgan.predict.loading import load
from bcgan.predict.model import Model
from bcgan.predict.predict import log_totals, predict
from bcgan.predict.slidewise import Slide
from bcgan.predict.summary import summarize, summary_columns
from bcgan.slides.mpp_table import MppChoice


class PredictJob(NamedTuple):
    """The `bcgan.predict.slidewise.SlideJob` that scores slides.

    Attributes:
        out: Folder to write.
        model: Folder of `bcgan export`. `None` means the classifier bundled with bcgan.
        engine: One of `bcgan.predict.engines.ENGINES`.
        mpp, mpp_table: Microns per pixel of all slides, or of each by a table. `None` means as the files state.
        neighbours: Whether the predictions of neighboring patches are used.
        fast: Whether all orientations are averaged only near a threshold.
        maps: Whether to draw a heat map, an overlay and outlines of each slide into maps/<slide>/.
        name, suffix, folders: As `SlideJob` has them.
    """

    out: Path
    model: str | None = None
    engine: str = "auto"
    mpp: float | None = None
    mpp_table: Path | None = None
    neighbours: bool = True
    fast: bool = False
    maps: bool = False
    name: str = "batch"
    suffix: str = ".csv"
    folders: bool = True

    def settings(self, slide: Slide) -> Any:
        """Return what the file depends on, apart from the slide, as a JSON list.

        Changing the constant text "areas counted" makes all results stale.
        """
        model = self._load()
        # The card has thresholds, calibration and scale, and checksums of the networks.
        card = model.card.model_dump(mode="json")
        parts = [card, model.engine, self._make_mpp_choice().as_json(), self.neighbours, self.maps]
        return [*parts, "areas counted", *(["fast"] if model.fast else [])]

    def write(self, slide: Slide, path: Path) -> dict[str, float]:
        """Write the rows and maps of a slide, and return what `bcgan.predict.summary.count_row` counts of them."""
        model = self._load()
        map_folder = self.out / "maps" / slide.name
        shutil.rmtree(map_folder, ignore_errors=True)  # maps of an earlier version of the rows
        with path.open("w", encoding="utf-8", newline="") as file:
            maps = map_folder if self.maps else None
            by_slide = predict(model, slide.images(), file, False, self._make_mpp_choice(), maps, progress_bar=False)
        return dict(sum(by_slide.values(), Counter()))

    def summary_columns(self, counts: dict[str, float]) -> dict[str, Any]:
        """Return the columns of a slide in summary.csv."""
        return summary_columns(counts, 1, self._load().card)

    def summarize_patients(self, counts_by_slide: dict[str, dict[str, float]], pattern: str) -> list[dict[str, Any]]:
        """Return a row for each patient; see `bcgan.predict.summary.summarize`."""
        rows = summarize(counts_by_slide, self._load().card, pattern)
        return [row for row in rows if not row["slide"]]

    def log_totals(self, counts_by_slide: dict[str, dict[str, float]]) -> None:
        """Log the thresholds, and how many patches of all slides have each verdict."""
        log_totals(self.name, sum(map(Counter, counts_by_slide.values()), Counter()), self._load().card)

    def _make_mpp_choice(self) -> MppChoice:
        return MppChoice(self.mpp, self.mpp_table)

    def _load(self) -> Model:
        return _load_model(self.model, self.engine, self.neighbours, self.fast)


@cache
def _load_model(folder: str | None, engine: str, neighbours: bool, fast: bool) -> Model:
    """Load a classifier once per process; arguments as of `bcgan.predict.loading.load`."""
    machine.prepare_environment()  # worker processes do not run the command's preparation
    return load(folder, engine, neighbours=neighbours, fast=fast)
