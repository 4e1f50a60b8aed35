"""Classifiers that no training loop makes: boosted trees on colour and texture, the ensemble, and its neighbours' view.

Each adds columns to the table of probabilities and is then measured like any other.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from bcgan.classify import context
from bcgan.classify.calibration import log_odds, probability
from bcgan.data.records import CLASSES
from bcgan.evaluate.probes import COLOUR_AND_TEXTURE
from bcgan.slides.coordinates import slide_names

COLOURS, ENSEMBLE, CONTEXT = "color_texture_gbdt", "ensemble", "ensemble_spatial_context"


def column(name: str, seed: int) -> str:
    return f"{name}-seed{seed}"


def classifiers(table: pd.DataFrame) -> dict[str, list[int]]:
    """{name: seeds} of the columns of probabilities."""
    seeds_by_name: dict[str, list[int]] = {}
    for column_name in table.columns:
        name, separator, seed = column_name.rpartition("-seed")
        if separator:
            seeds_by_name.setdefault(name, []).append(int(seed))
    return seeds_by_name


def colour_statistics(properties: pd.DataFrame, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Probabilities of malignancy of `rows` by boosted trees on eight numbers a patch.

    Args:
        properties: columns COLOUR_AND_TEXTURE and label, one row per patch.
        train, rows: positions.
    """
    numbers = properties[list(COLOUR_AND_TEXTURE)].to_numpy(np.float32)
    trees = boosted_trees().fit(numbers[train], properties["label"].to_numpy()[train])
    return trees.predict_proba(numbers[rows])[:, CLASSES.index("malignant")]


def boosted_trees() -> HistGradientBoostingClassifier:
    # By default it would stop early, validated on patches of its own training patients.
    return HistGradientBoostingClassifier(class_weight="balanced", early_stopping=False, random_state=0)


def ensemble(table: pd.DataFrame, members: tuple[str, ...]) -> np.ndarray:
    """The members' mean log odds over all their seeds, as probabilities; float, (n,)."""
    seeds = classifiers(table)
    odds = [log_odds(table[column(name, seed)]) for name in members for seed in seeds[name]]
    return probability(np.mean(odds, axis=0))


def in_context(table: pd.DataFrame, base: np.ndarray, side: int) -> tuple[np.ndarray, context.Context]:
    """Return the base probabilities refined by spatial context.

    Neighbours are of the same slide and role, so that the weights are used on the kind of neighbourhood that they were
    fitted on. Neighbours from the other source do not improve the validation patients' ROC AUC.

    Args:
        table: columns id, role, x, y, label; one row per held-out patch. Patches of role validation fit the weights.
        base: float, (n,).
        side: int. Side of a patch, pixels at its own scale.
    """
    places, slides = table[["x", "y"]].to_numpy(), (table["role"] + "/" + slide_names(table["id"])).to_numpy()
    chosen = (table["role"] == "validation").to_numpy()
    fitted = context.fit(base[chosen], places[chosen], slides[chosen], table["label"].to_numpy()[chosen], side)
    return context.refine(fitted, base, places, slides, side), fitted


def slides_of(table: pd.DataFrame) -> pd.Series:
    """`<side of the split>/<slide>` of every patch, from its columns role and id."""
    return table["role"].str.removesuffix("_other") + "/" + slide_names(table["id"])


def read_properties(folder: Path) -> pd.DataFrame:
    """What the stage `features` measured of every patch, in the store's order."""
    return pd.read_csv(folder / "properties.csv", usecols=[*COLOUR_AND_TEXTURE, "label"])
