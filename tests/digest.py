"""To tell whether two trainings ended the same."""

import hashlib
import json

import numpy as np


def digest(variables: list) -> str:
    """One hash of all values."""
    total = hashlib.sha256(json.dumps([list(variable.shape) for variable in variables]).encode())
    for variable in variables:
        total.update(np.ascontiguousarray(variable).tobytes())
    return total.hexdigest()
