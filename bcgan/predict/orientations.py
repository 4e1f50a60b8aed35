"""Average a network's predictions over the orientations of each patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bcgan import progress
from bcgan.classify import calibration
from bcgan.data.views import dihedral_view

if TYPE_CHECKING:
    from bcgan.predict.engines import Runner
    from bcgan.predict.model import Card

# With `fast`, a patch gets more than FAST_VIEWS orientations only if its log odds after these lie inside the range of
# all thresholds, widened by FAST_MARGIN. With more than two classes, it also does if the log of the best probability
# leads the next one by less than 2 FAST_MARGIN. The values are chosen on validation patients, where no call of a patch
# by itself changes (docs/explanation/speed.md).
FAST_VIEWS, FAST_MARGIN = 2, 1.0
CHUNK = 512  # patches of which all orientations are predicted before the next ones, so that the progress bar moves


def average(score: Runner, card: Card, images: np.ndarray, fast: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean probability over the orientations of each patch, and the deviation of the calibrated one.

    Args:
        score: Maps patches to probabilities, (n,), or (n, classes) of more than two classes.
        card: Its tta_views is the number of orientations.
        images: uint8, (n, size, size, 3), n at least 1.
        fast: Whether patches whose label more orientations would hardly change get only FAST_VIEWS of them.

    Returns:
        Two arrays, each (n,) or (n, classes).
    """
    parts = []
    with progress.bar(len(images), "predict", "patch", visible=len(images) > CHUNK) as bar:
        for start in range(0, len(images), CHUNK):
            parts.append(_average_chunk(score, card, images[start : start + CHUNK], fast))
            bar.update(len(parts[-1][0]))
    means, deviations = zip(*parts, strict=True)
    return np.concatenate(means), np.concatenate(deviations)


def _average_chunk(score: Runner, card: Card, images: np.ndarray, fast: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return what `average` does, of at most CHUNK patches."""
    num_views = card.tta_views
    raw = _score_views(score, images, range(min(num_views, FAST_VIEWS) if fast else num_views))
    mean, deviation = raw.mean(0), _deviation(card, raw)
    rows = np.flatnonzero(_may_change(card, mean)) if len(raw) < num_views else []
    if len(rows):
        remaining = _score_views(score, images[rows], range(len(raw), num_views))
        raw = np.concatenate([raw[:, rows], remaining])
        mean[rows], deviation[rows] = raw.mean(0), _deviation(card, raw)
    return mean, deviation


def _deviation(card: Card, raw: np.ndarray) -> np.ndarray:
    """Return the standard deviation of calibrated probabilities over the orientations, the first axis of `raw`."""
    return np.std([calibration.apply(card.calibration, values) for values in raw], axis=0)


def _score_views(score: Runner, images: np.ndarray, views: range) -> np.ndarray:
    """Return the probabilities in the orientations `views`, (views, n) or (views, n, classes)."""
    return np.stack([score(np.ascontiguousarray(dihedral_view(images, index))) for index in views])


def _may_change(card: Card, mean: np.ndarray) -> np.ndarray:
    """Return which patches could get another label from more orientations, bool, (n,).

    Args:
        mean: Mean probability over the first orientations, before calibration, (n,) or (n, classes).
    """
    probability = calibration.apply(card.calibration, mean)
    limits = np.array([value.limits for value in (card.thresholds, card.spatial_context_thresholds) if value])
    lowest, highest = calibration.to_logits(np.array([limits.min(), limits.max()]))
    if probability.ndim == 1:
        log_odds = calibration.to_logits(probability)
        return (log_odds > lowest - FAST_MARGIN) & (log_odds < highest + FAST_MARGIN)
    runner_up, best = np.sort(probability, axis=1)[:, -2:].T
    is_close = np.log(best) - np.log(np.maximum(runner_up, calibration.EPSILON)) < 2 * FAST_MARGIN
    return is_close | (calibration.to_logits(best) < highest + FAST_MARGIN)
