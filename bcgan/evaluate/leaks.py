"""The leak audit: does anything of the held-out patients reach training? Each check can fail."""

from typing import Any

import numpy as np
import pandas as pd


def audit(index: pd.DataFrame, split: dict[str, Any], taught: bool = False) -> dict[str, Any]:
    """Check a store's index against its split file.

    Args:
        index: columns patient, role, pixels, perceptual.
        split: as in split.json.
        taught: bool. Whether a student learns from patches of patients on no list.

    Returns:
        {passed, checks: {name: {passed, count, meaning}}}; count is how many offenders there are.
    """
    role = index["role"].str.removesuffix("_other")
    held_out = role.isin(["validation", "test"])
    training = role.isin(["train", "unlisted"] if taught else ["train"])
    known = index["patient"].map(split["patients"])
    counts = {
        "patients_in_two_roles": int((role.groupby(index["patient"]).nunique() > 1).sum()),
        "patients_against_split_file": int(index["patient"][known != role].nunique()),
        "identical_pixels_across_roles": _shared(index["pixels"], training, held_out),
        "identical_perceptual_hash_across_roles": _shared(index["perceptual"], training, held_out),
    }
    meanings = {
        "patients_in_two_roles": "patients with patches on more than one side of the split",
        "patients_against_split_file": "patients whose role is not the one that split.json names",
        "identical_pixels_across_roles": "held-out patches whose pixels also stand in training",
        "identical_perceptual_hash_across_roles": "held-out patches whose perceptual hash also stands in training",
    }
    # Equal perceptual hashes happen by chance among thousands of patches; more than one in 200 does not.
    allowed = {"identical_perceptual_hash_across_roles": int(held_out.sum()) // 200}
    checks = {
        name: {"passed": count <= allowed.get(name, 0), "count": count, "meaning": meanings[name]}
        for name, count in counts.items()
    }
    return {"passed": all(check["passed"] for check in checks.values()), "checks": checks}


def _shared(values: pd.Series, training: pd.Series, held_out: pd.Series) -> int:
    """How many held-out values also stand in training."""
    return int(np.isin(values[held_out], values[training].unique()).sum())
