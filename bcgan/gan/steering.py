"""Steering the generator by what a pathologist can name: latent walks, sweeps of an attribute, and how well what is
measured follows what was asked for.

An attribute's direction is the linear fit of what is measured on synthetic patches to the noise they were made from;
noise is moved along it as far as the fit says. No network is trained.
"""

from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV

from bcgan.data.records import CLASSES
from bcgan.gan.train import sample
from bcgan.preprocess import properties

ATTRIBUTES = ("density", "haematoxylin", "coverage", "contrast")
FITTED, ASKED = 1024, 256  # patches of a class
QUANTILES = (0.1, 0.9)  # of what the generator makes by itself; what is asked for lies between
PENALTIES = np.logspace(-1, 5, 13)
SWEEP_ROWS, SWEEP_STEPS, WALK_STEPS = 3, 9, 12


class Direction(NamedTuple):
    """measured = noise @ slope + offset, roughly. low, high: the range that may be asked for."""

    slope: np.ndarray
    offset: float
    low: float
    high: float

    def move(self, noise: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the noise (n, latent) with the smallest change that makes `noise @ slope + offset` the target (n,)."""
        missing = target - (noise @ self.slope + self.offset)
        return noise + (missing / max(self.slope @ self.slope, 1e-12))[:, None] * self.slope


def directions(network: keras.Model, label: int, threshold: float, seed: int) -> dict[str, Direction]:
    """The direction of every attribute of ATTRIBUTES for one class.

    Args:
        network: keras.Model. A generator.
        threshold: float. Haematoxylin optical density that counts as nucleus.
    """
    noise = _noise(network, FITTED, (seed, label, 0))
    measured = properties.measure(sample(network, _labels(label, FITTED), seed, noise), threshold)
    by_label = {}
    for name in ATTRIBUTES:
        values = measured[name].to_numpy(float)
        fit = RidgeCV(PENALTIES).fit(noise, values)
        by_label[name] = Direction(fit.coef_, float(fit.intercept_), *map(float, np.quantile(values, QUANTILES)))
    return by_label


def obedience(network: keras.Model, ways: list[dict[str, Direction]], threshold: float, seed: int) -> pd.DataFrame:
    """What was asked for and what was measured, on fresh noise: class, attribute, asked, measured, unasked (the same
    noise left where it was). ways: the directions of each class."""
    tables = []
    for label, name in enumerate(CLASSES):
        fresh, labels = _noise(network, ASKED, (seed, label, 1)), _labels(label, ASKED)
        unasked = properties.measure(sample(network, labels, seed + 1, fresh), threshold)
        for attribute, direction in ways[label].items():
            target = np.random.default_rng((seed, label, 2)).uniform(direction.low, direction.high, ASKED)
            synthetic = sample(network, labels, seed + 1, direction.move(fresh, target))
            measured = properties.measure(synthetic, threshold)[attribute]
            columns = {"asked": target, "measured": measured, "unasked": unasked[attribute]}
            tables.append(pd.DataFrame(columns).assign(attribute=attribute, **{"class": name}))
    return pd.concat(tables, ignore_index=True)


def sweep(network: keras.Model, ways: list[Direction], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same noise with more and more of an attribute, whose direction in each class is given.

    Returns:
        uint8 (classes, SWEEP_ROWS, SWEEP_STEPS, 50, 50, 3), and what was asked for, (classes, SWEEP_STEPS).
    """
    sheets, targets = [], []
    for label, direction in enumerate(ways):
        steps = np.linspace(direction.low, direction.high, SWEEP_STEPS)
        start = np.repeat(_noise(network, SWEEP_ROWS, (seed, label, 3)), SWEEP_STEPS, 0)
        moved = direction.move(start, np.tile(steps, SWEEP_ROWS))
        synthetic = sample(network, _labels(label, len(moved)), seed, moved)
        sheets.append(synthetic.reshape(SWEEP_ROWS, SWEEP_STEPS, *synthetic.shape[1:]))
        targets.append(steps)
    return np.stack(sheets), np.stack(targets)


def walk(network: keras.Model, seed: int, rows: int = 2) -> np.ndarray:
    """From one noise vector to another along the sphere; uint8 (classes, rows, WALK_STEPS, 50, 50, 3)."""
    sheets = []
    for label in range(len(CLASSES)):
        starts, ends = (_noise(network, rows, (seed, label, place)) for place in (4, 5))
        between = np.linspace(0, np.pi / 2, WALK_STEPS)
        path = np.cos(between)[None, :, None] * starts[:, None] + np.sin(between)[None, :, None] * ends[:, None]
        synthetic = sample(network, _labels(label, rows * WALK_STEPS), seed, path.reshape(-1, starts.shape[1]))
        sheets.append(synthetic.reshape(rows, WALK_STEPS, *synthetic.shape[1:]))
    return np.stack(sheets)


def _noise(network: keras.Model, number: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, network.inputs[0].shape[-1]))


def _labels(label: int, number: int) -> np.ndarray:
    return np.full(number, label, np.int32)
