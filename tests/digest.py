"""Hashes of weights, to compare the results of two trainings."""

import hashlib
import json

import numpy as np


def digest(variables: list) -> str:
    """Return one hash of all values and shapes."""
    total = hashlib.sha256(json.dumps([list(variable.shape) for variable in variables]).encode())
    for variable in variables:
        total.update(np.ascontiguousarray(variable).tobytes())
    return total.hexdigest()
