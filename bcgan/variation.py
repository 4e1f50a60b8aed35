"""An experiment with some of its settings changed, and what differs between two of them."""

import json
from typing import Any

from pydantic import ValidationError

from bcgan import renamed
from bcgan.errors import InputError
from bcgan.experiment import Experiment, format_validation_error


def with_overrides(experiment: Experiment, changes: dict[str, Any], source: str) -> Experiment:
    """Return the experiment with other values for some keys, given as `key.subkey`.

    Args:
        source: The setting that lists the changes, for the error.

    Raises:
        InputError: If a key is unknown, or a value has the wrong type.
    """
    tree = experiment.model_dump(mode="json")
    for key, value in changes.items():
        *parents, last = key.split(".")
        branch: Any = tree
        for parent in parents:
            branch = branch.get(parent) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or last not in branch:
            if new := renamed.current_setting_name(key):
                raise InputError(f"{source}: {key} is now called {new}. Rename it.")
            if note := renamed.removal_note(key):
                raise InputError(f"{source}: {key} is no setting any more: {note}.")
            raise InputError(f"{source}: no setting {key}. Write keys of the experiment, such as classify.loss.")
        branch[last] = value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise InputError(format_validation_error(source, error)) from error


def diff_configs(baseline: Experiment, variant: Experiment) -> list[str]:
    """Return the settings in which `variant` differs, as `key.subkey=value`; data.dir is ignored."""
    return _diff_values(baseline.model_dump(mode="json"), variant.model_dump(mode="json"), "")


def _diff_values(baseline: Any, variant: Any, key: str) -> list[str]:
    """Return the differences between two values of a setting, as texts `key.subkey=<JSON>`.

    Args:
        baseline, variant: Values, which may be nested dicts.
        key: Name of the setting; "" for the complete experiment.
    """
    # If a setting is missing in the variant, the complete dict is one difference.
    nested = isinstance(baseline, dict) and isinstance(variant, dict)
    if nested and baseline.keys() <= variant.keys():
        changes = []
        for name, value in variant.items():
            changes += _diff_values(baseline.get(name, {}), value, f"{key}.{name}".lstrip("."))
        return changes
    if baseline == variant or key == "data.dir":
        return []
    return [f"{key}={json.dumps(variant, separators=(',', ':'))}"]


def list_changes(before: Any, after: Any) -> list[str]:
    """Return the settings of nested dicts that have another value, as `key.subkey=value`, and those that went.

    For reading: unlike those of `diff_configs`, they need not make one experiment of the other by `--set`.
    """
    old, new = _flatten(before), _flatten(after)
    changed = {key: value for key, value in new.items() if key not in old or old[key] != value}
    changes = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in changed.items()]
    return changes + [f"{key} is gone" for key in old if key not in new]


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by `key.subkey`, each key after `prefix`."""
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {key: value for name, inner in values.items() for key, value in _flatten(inner, f"{prefix}{name}.").items()}
