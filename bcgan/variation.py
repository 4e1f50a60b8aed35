"""An experiment with some of its settings changed, and what differs between two of them."""

import json
from typing import Any

from pydantic import ValidationError

from bcgan import renamed
from bcgan.errors import InputError
from bcgan.experiment import Experiment, explain


def varied(experiment: Experiment, changes: dict[str, Any], where: str) -> Experiment:
    """The experiment with other values for some keys, given as `key.subkey`.

    Args:
        where: string. What asks for it, for the error.

    Raises:
        InputError: an unknown key, or a value of the wrong kind.
    """
    tree = experiment.model_dump(mode="json")
    for key, value in changes.items():
        *parents, last = key.split(".")
        branch: Any = tree
        for parent in parents:
            branch = branch.get(parent) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or last not in branch:
            if new := renamed.setting(key):
                raise InputError(f"{where}: {key} is now called {new}. Rename it.")
            raise InputError(f"{where}: no setting {key}. Write keys of the experiment, such as classify.loss.")
        branch[last] = value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise InputError(explain(where, error)) from error


def differences(baseline: Experiment, variant: Experiment) -> list[str]:
    """The settings in which `variant` differs, as `key.subkey=value`; data.dir, a matter of place, is left out."""

    def walk(here: Any, there: Any, key: str) -> list[str]:
        if isinstance(here, dict) and isinstance(there, dict) and here.keys() <= there.keys():
            return [
                line for name in there for line in walk(here.get(name, {}), there[name], f"{key}.{name}".lstrip("."))
            ]
        same = here == there or key == "data.dir"
        return [] if same else [f"{key}={json.dumps(there, separators=(',', ':'))}"]

    return walk(baseline.model_dump(mode="json"), variant.model_dump(mode="json"), "")
