"""Find synthetic patches that repeat an earlier one of the same release: generators make some layouts often."""

import numpy as np

from bcgan.gan.distances import References, all_distances, nearest
from bcgan.release import attacks, privacy

REPEAT_FRACTION = 0.01  # of training patches: those nearest to another one are the limit


def fit_limits(sets: privacy.Sets, labels: np.ndarray, counts: list[int]) -> list[dict[str, float]]:
    """Return the distance up to which a patch repeats another one of its class.

    It is the distance to the nearest other patch that REPEAT_FRACTION of as many training patches of the class have.

    Args:
        labels: int, (n,). Of every patch of the store.
        counts: Number of patches to generate, by label. Where there are fewer training patches, all are compared.

    Returns:
        For each label {space of PATCH_SPACES: distance}.
    """
    rng = np.random.default_rng(attacks.SEED)
    limits = []
    for label, count in enumerate(counts):
        rows = rng.permutation(np.flatnonzero(labels[sets.training_rows] == label))[:count]
        limits.append(
            {name: _repeat_distance(name, _select_rows(sets.training[name], rows)) for name in privacy.PATCH_SPACES}
        )
    return limits


def _select_rows(references: References, rows: np.ndarray) -> np.ndarray:
    """Return some rows as they were before `prepare`, float32 (n, d): without their mean they cannot be turned."""
    return references.values[rows] + references.mean


def _repeat_distance(space: str, values: np.ndarray) -> float:
    """Return the distance to the nearest other row, of values (n, d), that REPEAT_FRACTION of the rows have."""
    distances = nearest(values, values, privacy.SPACES[space], own_rows=np.arange(len(values))).distances
    return max(float(np.quantile(distances, REPEAT_FRACTION)), attacks.MIN_DISTANCE)


class RepeatFilter:
    """Find patches of one class that repeat one that came before them and is no repeat itself."""

    def __init__(self, limits: dict[str, float]) -> None:
        """Start without patches.

        Args:
            limits: The class's distance by space, from `fit_limits`.
        """
        self._limits = limits
        self._earlier: dict[str, list[np.ndarray]] = {name: [] for name in limits}

    def find(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Return which patches are repeats, bool (n,), and remember the others.

        Args:
            values: The patches by space, float32 (n, d), from `privacy.represent`.
        """
        num_patches = len(values[privacy.PATCH_SPACES[0]])
        if num_patches == 0:
            return np.zeros(0, bool)
        is_repeat, is_alike = np.zeros(num_patches, bool), np.zeros((num_patches, num_patches), bool)
        for name, limit in self._limits.items():
            rows, side = values[name], privacy.SPACES[name]
            if self._earlier[name]:
                is_repeat |= nearest(rows, np.concatenate(self._earlier[name]), side).distances <= limit
            is_alike |= all_distances(rows, rows, side) <= limit
        for row in range(1, num_patches):
            is_repeat[row] |= (is_alike[row, :row] & ~is_repeat[:row]).any()
        for name in self._limits:
            self._earlier[name].append(values[name][~is_repeat])
        return is_repeat
