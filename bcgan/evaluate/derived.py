"""Classifiers without a trained network of their own: trees on color and texture, the ensemble, spatial context.

Each adds columns to the table of probabilities, and is then measured like the others.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from bcgan.classes import ClassPairs
from bcgan.classify import context
from bcgan.classify.calibration import to_logits, to_probabilities
from bcgan.data.slide_names import slide_names
from bcgan.evaluate import metrics
from bcgan.evaluate.probes import COLOR_AND_TEXTURE

COLOR_TEXTURE, ENSEMBLE, CONTEXT = "color_texture_gbdt", "ensemble", "ensemble_spatial_context"


def column_name(name: str, seed: int) -> str:
    """Return `<classifier>-seed<k>`, the name of a training's files and, of two classes, of its probabilities."""
    return f"{name}-seed{seed}"


def class_column(name: str, seed: int, class_name: str) -> str:
    """Return `<classifier>-seed<k>:<class>`, the column of a class's probabilities, of more than two classes."""
    return f"{column_name(name, seed)}:{class_name}"


def threshold_column(name: str) -> str:
    """Return `threshold:<classifier>`, the column with the threshold of each patch's fold of cross-validation."""
    return f"threshold:{name}"


def set_probabilities(
    table: pd.DataFrame, name: str, seed: int, values: np.ndarray, class_names: tuple[str, ...]
) -> None:
    """Write a classifier's probabilities into columns of the table, in place.

    Args:
        values: float. Probabilities of the second of two classes, (n,), for one column; or of each of more classes,
            (n, classes), for one column each.
    """
    if values.ndim == 1:
        table[column_name(name, seed)] = values
    else:
        for label, class_name in enumerate(class_names):
            table[class_column(name, seed, class_name)] = values[:, label]


def get_probabilities(table: pd.DataFrame, name: str, seed: int) -> np.ndarray:
    """Return a classifier's probabilities in a table: of the second of two classes, (n,), or of each, (n, classes)."""
    column = column_name(name, seed)
    if column in table.columns:
        return table[column].to_numpy(float)
    return table[[name for name in table.columns if name.startswith(f"{column}:")]].to_numpy(float)


def seeds_by_classifier(table: pd.DataFrame) -> dict[str, list[int]]:
    """Return {classifier: seeds} of the columns of probabilities in a table, which `column_name` names."""
    seeds_by_name: dict[str, list[int]] = {}
    for column in table.columns:
        name, separator, seed = column.partition(":")[0].rpartition("-seed")
        if separator and int(seed) not in seeds_by_name.setdefault(name, []):
            seeds_by_name[name].append(int(seed))
    return seeds_by_name


# Boosted trees have thousands of short parallel loops. With two threads they are no faster on an idle machine, and many
# times as slow beside other work, as each loop waits for the slowest thread.
one_openmp_thread = threadpool_limits.wrap(limits=1, user_api="openmp")


@one_openmp_thread
def predict_from_color_texture(properties: pd.DataFrame, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return probabilities by boosted trees on a patch's color, texture, sharpness, and share of nuclei and of tissue.

    Args:
        properties: Columns COLOR_AND_TEXTURE and label, one row per patch.
        train, rows: Row numbers of the training patches, and of the n patches to predict.

    Returns:
        float, of the second of two classes, (n,), or of each class, (n, classes).
    """
    features = properties[list(COLOR_AND_TEXTURE)].to_numpy(np.float32)
    trees = make_boosted_trees().fit(features[train], properties["label"].to_numpy()[train])
    return metrics.second_or_all(trees.predict_proba(features[rows]))


def make_boosted_trees() -> HistGradientBoostingClassifier:
    """Return boosted trees, not yet fitted, with fixed hyperparameters."""
    # Early stopping, the default, would validate on patches of training patients.
    return HistGradientBoostingClassifier(class_weight="balanced", early_stopping=False, random_state=0)


def ensemble_probabilities(table: pd.DataFrame, members: tuple[str, ...]) -> np.ndarray:
    """Return the ensemble's probabilities, (n,) or (n, classes), from the mean logits of all members and seeds."""
    seeds = seeds_by_classifier(table)
    logits = [to_logits(get_probabilities(table, name, seed)) for name in members for seed in seeds[name]]
    return to_probabilities(np.mean(logits, axis=0))


def refine_by_context(
    table: pd.DataFrame, base: np.ndarray, patch_px: int, classes: ClassPairs
) -> tuple[np.ndarray, context.Context]:
    """Return probabilities refined by the predictions of neighboring patches, and the fitted weights.

    Only patches of the same slide and role are neighbors, so that the weights are applied to neighborhoods like those
    that they were fitted on. Neighbors from the other source did not improve the ROC AUC on validation patients.

    Args:
        table: Columns id, image, patient, role, x, y, label; one row per held-out patch. Patches of role validation fit
            the weights.
        base: float, (n,) or (n, classes). The probabilities to refine.
        patch_px: Side of a patch, in the pixels of x and y.
        classes: The setting `data.classes`.
    """
    coords, slides = table[["x", "y"]].to_numpy(), (table["role"] + "/" + slide_names(table, classes)).to_numpy()
    validation, labels = (table["role"] == "validation").to_numpy(), table["label"].to_numpy()
    fitted = context.fit(base[validation], coords[validation], slides[validation], labels[validation], patch_px)
    return context.apply(fitted, base, coords, slides, patch_px), fitted


def read_properties(folder: Path) -> pd.DataFrame:
    """Read COLOR_AND_TEXTURE and label of every patch from properties.csv of the stage `features`, in store order."""
    return pd.read_csv(folder / "properties.csv", usecols=[*COLOR_AND_TEXTURE, "label"])
