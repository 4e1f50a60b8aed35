"""Load a classifier of either format."""

from pathlib import Path

from bcgan.errors import InputError
from bcgan.predict import foreign, model


def load(
    folder: str | Path | None = None, engine: str = "auto", small_job: bool = False, neighbours: bool = True,
    fast: bool = False,
) -> model.Model:  # fmt: skip
    """Load a folder that `bcgan export` wrote, or one in WSInfer's format.

    Args:
        folder: Defaults to `None`: the classifier that is bundled with bcgan.
        engine: "auto", "openvino", "litert" or "keras". Defaults to "auto", which alone fits WSInfer's format.
        small_job: Whether so few patches are scored that "auto" should prefer the engine that starts fastest.
        neighbours: Whether the predictions of neighboring patches are used if coordinates are known. Defaults to True.
        fast: Whether all orientations are averaged only near a threshold; WSInfer's format has one. Defaults to False.

    Raises:
        InputError: If a file is missing or differs from the one that the card names, or the engine is not available.
    """
    if folder is None or not foreign.is_foreign(Path(folder)):
        return model.load(folder, engine, small_job, neighbours, fast)
    if engine != "auto":
        raise InputError(f"engine {engine}: the network in {folder} runs with PyTorch alone. Leave --engine out.")
    return foreign.load(Path(folder))
