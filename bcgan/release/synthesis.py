"""Generate the patches of a release.

The quality filter accepts them, they are not too near to any training patch, and they repeat no other one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.errors import WorkError
from bcgan.gan.quality_filter import RESULTS
from bcgan.predict.sample import MAX_TRIES_PER_PATCH, NUM_CANDIDATES, GeneratorBundle, iterate_candidates
from bcgan.release import privacy
from bcgan.release.repeats import RepeatFilter

# Of a class: with so many accepted candidates, and this fraction of them too near, the audit cannot pass any more.
MIN_JUDGED, HOPELESS_FRACTION = 500, 2 * privacy.MAX_REMOVED
PATCHES, TABLE, CANDIDATES = "patches.npz", "patches.csv", "candidates.csv"


class Limits(NamedTuple):
    """Which patches are not released, by space of `privacy.PATCH_SPACES`.

    Attributes:
        proximity: The largest score of `privacy.measure_proximity`.
        repeat_distances: For each label, the distance up to which a patch repeats another one.
    """

    proximity: dict[str, float]
    repeat_distances: list[dict[str, float]]


class SyntheticSet(NamedTuple):
    """The patches of a release.

    Attributes:
        images: uint8, (n, size, size, 3), sorted by class.
        values: The patches by space, from `privacy.represent`.
        table: One row for each patch: label, candidate (its number among those of its class), confidence, filter
            distance, and the columns of `privacy.measure_proximity`.
        candidates: label, is_removed (too near to a training patch), is_repeat (of an earlier patch) and the columns of
            `privacy.measure_proximity`, of every patch that the quality filter accepted.
        removed_images: uint8, (n, size, size, 3). Patches too near to a training patch, for the owner of the data.
        removed: Rows of `candidates` of those patches.
    """

    images: np.ndarray
    values: dict[str, np.ndarray]
    table: pd.DataFrame
    candidates: pd.DataFrame
    removed_images: np.ndarray
    removed: pd.DataFrame


def count_by_class(number: int, num_classes: int) -> list[int]:
    """Return the number of patches of each class, of `number` in all; the first classes have one more if necessary."""
    return [number // num_classes + (label < number % num_classes) for label in range(num_classes)]


def generate(
    bundle: GeneratorBundle,
    counts: list[int],
    seed: int,
    sets: privacy.Sets,
    limits: Limits,
    extract: Callable[[np.ndarray], np.ndarray],
) -> SyntheticSet:
    """Generate patches of every class.

    Args:
        counts: Number of patches by label.
        sets: The real patches that they are compared with.
        limits: What a patch is compared with.
        extract: From `privacy.make_feature_fn`.

    Returns:
        The set. A class in which too many candidates are too near to training patches has fewer patches than asked for.

    Raises:
        WorkError: If the quality filter accepts too few.
    """
    parts: list[tuple[np.ndarray, dict[str, np.ndarray], pd.DataFrame]] = []
    candidates: list[pd.DataFrame] = []
    removed: list[np.ndarray] = []
    with progress.bar(sum(counts), "release", "patch") as bar:
        for label, count in enumerate(counts):
            missing, num_near, num_judged, num_repeats = count, 0, 0, 0
            repeat_filter = RepeatFilter(limits.repeat_distances[label])
            for number, (images, filtered) in enumerate(iterate_candidates(bundle, label, seed)):
                is_hopeless = num_judged >= MIN_JUDGED and num_near > HOPELESS_FRACTION * num_judged
                if missing == 0 or is_hopeless:
                    break
                if number * NUM_CANDIDATES >= MAX_TRIES_PER_PATCH * max(count, NUM_CANDIDATES):
                    raise WorkError(
                        f"The quality filter accepted {num_judged} of {number * NUM_CANDIDATES} candidates of the "
                        f"class {bundle.classes[label]}, {num_repeats} of these repeat others, and {count} were asked "
                        "for. Ask for fewer with --number, or train the GAN for longer."
                    )
                accepted = np.flatnonzero(filtered["filter_result"] == RESULTS[0])
                if not len(accepted):
                    continue
                values = privacy.represent(images[accepted], extract)
                measured = privacy.measure_proximity(sets, values).assign(label=label)
                is_near = privacy.is_too_near(measured, limits.proximity)
                is_repeat = np.zeros_like(is_near)
                is_repeat[~is_near] = repeat_filter.find({name: rows[~is_near] for name, rows in values.items()})
                num_near, num_judged = num_near + is_near.sum(), num_judged + len(is_near)
                num_repeats += is_repeat.sum()
                removed.append(images[accepted[is_near]])
                candidates.append(measured.assign(is_removed=is_near, is_repeat=is_repeat))
                passed = np.flatnonzero(~is_near & ~is_repeat)[:missing]
                table = filtered.iloc[accepted[passed]][["confidence", "distance"]].reset_index(drop=True)
                table = table.join(measured.iloc[passed].reset_index(drop=True))
                table["candidate"] = number * NUM_CANDIDATES + accepted[passed]
                parts.append((images[accepted[passed]], {name: rows[passed] for name, rows in values.items()}, table))
                missing -= len(passed)
                bar.update(len(passed))
    images, values, tables = zip(*parts, strict=True)
    all_candidates = pd.concat(candidates, ignore_index=True)
    return SyntheticSet(
        np.concatenate(images),
        {name: np.concatenate([part[name] for part in values]) for name in values[0]},
        pd.concat(tables, ignore_index=True),
        all_candidates,
        np.concatenate(removed),
        all_candidates[all_candidates["is_removed"]],
    )


def save(synthetic: SyntheticSet, folder: Path) -> None:
    """Write the set to a folder: its arrays to PATCHES, its tables to TABLE and CANDIDATES."""
    np.savez(folder / PATCHES, images=synthetic.images, removed=synthetic.removed_images, **synthetic.values)
    synthetic.table.to_csv(folder / TABLE, index=False)
    synthetic.candidates.to_csv(folder / CANDIDATES, index=False)


def load(folder: Path) -> SyntheticSet:
    """Read what `save` wrote."""
    arrays = runs.read_arrays(folder / PATCHES)
    candidates = pd.read_csv(folder / CANDIDATES)
    values = {name: arrays[name] for name in privacy.SPACES}
    removed = candidates[candidates["is_removed"]]
    return SyntheticSet(arrays["images"], values, pd.read_csv(folder / TABLE), candidates, arrays["removed"], removed)
