import itertools

import numpy as np
import pandas as pd
import pytest

from bcgan.errors import InputError
from bcgan.preprocess import audit
from bcgan.settings import Audit

RNG = np.random.default_rng(0)


def rows_of(images: list[np.ndarray], labels: list[int]) -> tuple[pd.DataFrame, np.ndarray]:
    rows = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        shape = {"height": image.shape[0], "width": image.shape[1], "readable": True, "label": label}
        rows.append(
            {"path": f"{number}.png", "pixels": str(hash(image.tobytes())), **shape, **audit.quality_measures(image)}
        )
    return pd.DataFrame(rows), np.stack([row.pop("thumbnail") for row in rows])


def textured() -> np.ndarray:
    return np.kron(RNG.integers(0, 256, (10, 10, 3)), np.ones((5, 5, 1))).astype(np.uint8)


def test_each_fault_is_found_and_nothing_else():
    good, copied, conflicting = textured(), textured(), textured()
    near = np.clip(good.astype(int) + 3, 0, 255).astype(np.uint8)
    blurred = np.repeat(np.linspace(0, 200, 50), 50).reshape(50, 50, 1).repeat(3, 2).astype(np.uint8)
    blank = np.full((50, 50, 3), 255, np.uint8)
    images = [good, near, copied, copied, conflicting, conflicting, blurred, blank, textured()[:1], textured()]
    rows, thumbnails = rows_of(images, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    faults = audit.find_faults(rows, thumbnails, 50)
    where = {fault: np.flatnonzero(faults[fault]).tolist() for fault in audit.FAULTS}
    assert where == {
        "unreadable": [], "wrong_size": [8], "blank": [7], "blurred": [6], "duplicate": [3, 5],
        "near_duplicate": [1], "conflicting_labels": [4, 5],
    }  # fmt: skip
    assert faults[audit.COPY_OF].tolist() == [-1, 0, -1, 2, 5, 4, -1, -1, -1, -1]


def test_near_pairs_are_those_of_a_full_comparison():
    base = RNG.integers(0, 2**63, 60, dtype=np.uint64)
    flips = [np.uint64(sum(1 << int(bit) for bit in RNG.choice(64, count, replace=False))) for count in (1, 2, 3, 4, 9)]
    hashes = np.concatenate([base, base[:5] ^ np.array(flips)])
    thumbnails = np.zeros((len(hashes), 16, 16), np.uint8)
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if bin(int(hashes[i] ^ hashes[j])).count("1") <= audit.MAX_HASH_BITS
    ]
    assert (
        [tuple(pair) for pair in audit.find_near_pairs(hashes, thumbnails)] == expected == [(0, 60), (1, 61), (2, 62)]
    )
    thumbnails[60] = 200
    assert len(audit.find_near_pairs(hashes, thumbnails)) == 2


def test_every_copy_names_the_first_one():
    same, original = textured(), textured()
    near = np.clip(original.astype(int) + 2, 0, 255).astype(np.uint8)
    nearer = np.clip(original.astype(int) + 1, 0, 255).astype(np.uint8)
    faults = audit.find_faults(*rows_of([textured(), same, original, same, near, same, nearer], [0] * 7), 50)
    assert faults[audit.COPY_OF].tolist() == [-1, -1, -1, 1, 2, 1, 2]


def test_policies_keep_drop_and_fail():
    same = textured()
    rows, thumbnails = rows_of([same, same, textured()], [0, 0, 1])
    faults = audit.find_faults(rows, thumbnails, 50)
    keep, summary = audit.apply_policy(rows, faults, Audit())
    assert keep.tolist() == [True, False, True]
    assert summary["faults"]["duplicate"] == {"count": 1, "policy": "drop"}
    assert audit.apply_policy(rows, faults, Audit(duplicate="keep"))[0].all()
    with pytest.raises(InputError, match=r"1\.png is duplicate.*audit\.duplicate=drop"):
        audit.apply_policy(rows, faults, Audit(duplicate="fail"))
