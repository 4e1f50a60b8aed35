"""Control attributes of synthetic patches, such as nuclear density, by moving the generator's noise vector.

The direction of an attribute is a ridge regression from noise vectors to the attribute measured on the patches that are
generated from them. No network is trained. Measured values are compared with their targets.
"""

from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV

from bcgan.classes import CLASSES
from bcgan.gan.train import sample
from bcgan.models.generator import num_labels
from bcgan.preprocess import properties

ATTRIBUTES = ("density", "haematoxylin", "coverage", "contrast")
NUM_FIT_PATCHES, NUM_TEST_PATCHES = 1024, 256  # for each class
QUANTILES = (0.1, 0.9)  # of an attribute over unsteered patches; targets lie between
PENALTIES = np.logspace(-1, 5, 13)
SWEEP_ROWS, SWEEP_STEPS, WALK_STEPS = 3, 9, 12


class Direction(NamedTuple):
    """A linear model of an attribute: value = noise @ slope + offset."""

    slope: np.ndarray  # float, (latent,)
    offset: float
    low: float  # smallest and largest target
    high: float

    def move(self, noise: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the noise (n, latent) with the smallest change that makes `noise @ slope + offset` the target (n,)."""
        difference = target - (noise @ self.slope + self.offset)
        return noise + (difference / max(self.slope @ self.slope, 1e-12))[:, None] * self.slope


def fit_latent_directions(network: keras.Model, label: int, threshold: float, seed: int) -> dict[str, Direction]:
    """Fit the direction of every attribute of ATTRIBUTES for one class.

    Args:
        network: A generator.
        label: The class.
        threshold: Hematoxylin optical density above which a pixel counts as nucleus.
    """
    noise = _draw_noise(network, NUM_FIT_PATCHES, (seed, label, 0))
    measured = properties.patch_features(sample(network, _repeat_label(label, NUM_FIT_PATCHES), seed, noise), threshold)
    directions = {}
    for name in ATTRIBUTES:
        values = measured[name].to_numpy(float)
        fit = RidgeCV(PENALTIES).fit(noise, values)
        low, high = map(float, np.quantile(values, QUANTILES))
        directions[name] = Direction(fit.coef_, float(fit.intercept_), low, high)
    return directions


def measure_control(
    network: keras.Model,
    directions: list[dict[str, Direction]],
    threshold: float,
    seed: int,
    class_names: tuple[str, ...] = CLASSES,
) -> pd.DataFrame:
    """Steer new noise to random targets, and measure the attributes of the patches.

    Args:
        directions: By attribute, for each class.
        threshold: Hematoxylin optical density above which a pixel counts as nucleus.
        class_names: Defaults to benign and malignant.

    Returns:
        One row for each patch and attribute: class, attribute, asked (the target), measured, and unasked (measured on
        the patch of the same noise without steering).
    """
    tables = []
    for label, name in enumerate(class_names):
        noise, labels = _draw_noise(network, NUM_TEST_PATCHES, (seed, label, 1)), _repeat_label(label, NUM_TEST_PATCHES)
        unsteered = properties.patch_features(sample(network, labels, seed + 1, noise), threshold)
        for attribute, direction in directions[label].items():
            target = np.random.default_rng((seed, label, 2)).uniform(direction.low, direction.high, NUM_TEST_PATCHES)
            synthetic = sample(network, labels, seed + 1, direction.move(noise, target))
            measured = properties.patch_features(synthetic, threshold)[attribute]
            columns = {"asked": target, "measured": measured, "unasked": unsteered[attribute]}
            tables.append(pd.DataFrame(columns).assign(attribute=attribute, **{"class": name}))
    return pd.concat(tables, ignore_index=True)


def attribute_sweep(network: keras.Model, directions: list[Direction], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Generate patches whose noise is moved step by step along the direction of one attribute; a row has one noise.

    Args:
        network: A generator.
        directions: Of the attribute, for each class.
        seed: Of the noise and the patches.

    Returns:
        Patches, uint8 (classes, SWEEP_ROWS, SWEEP_STEPS, size, size, 3); and the targets, (classes, SWEEP_STEPS), which
        are values of the attribute from the direction's low to high.
    """
    sheets, targets = [], []
    for label, direction in enumerate(directions):
        steps = np.linspace(direction.low, direction.high, SWEEP_STEPS)
        start = np.repeat(_draw_noise(network, SWEEP_ROWS, (seed, label, 3)), SWEEP_STEPS, 0)
        moved = direction.move(start, np.tile(steps, SWEEP_ROWS))
        synthetic = sample(network, _repeat_label(label, len(moved)), seed, moved)
        sheets.append(synthetic.reshape(SWEEP_ROWS, SWEEP_STEPS, *synthetic.shape[1:]))
        targets.append(steps)
    return np.stack(sheets), np.stack(targets)


def latent_walk(network: keras.Model, seed: int, rows: int = 2) -> np.ndarray:
    """Generate patches along the spherical interpolation between pairs of noise vectors.

    Returns:
        uint8, (classes, rows, WALK_STEPS, size, size, 3).
    """
    sheets = []
    for label in range(num_labels(network)):
        starts, ends = (_draw_noise(network, rows, (seed, label, stream)) for stream in (4, 5))
        # Independent normal vectors: cos^2 + sin^2 = 1 keeps the variance of the noise along the path.
        angles = np.linspace(0, np.pi / 2, WALK_STEPS)[None, :, None]
        path = np.cos(angles) * starts[:, None] + np.sin(angles) * ends[:, None]
        synthetic = sample(network, _repeat_label(label, rows * WALK_STEPS), seed, path.reshape(-1, starts.shape[1]))
        sheets.append(synthetic.reshape(rows, WALK_STEPS, *synthetic.shape[1:]))
    return np.stack(sheets)


def _draw_noise(network: keras.Model, count: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, network.inputs[0].shape[-1]))


def _repeat_label(label: int, count: int) -> np.ndarray:
    return np.full(count, label, np.int32)
