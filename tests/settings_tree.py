"""The settings of an experiment as a flat list."""

from typing import get_args

from pydantic import BaseModel

from bcgan.settings import Classifier


def leaves(model: type[BaseModel], parent: str = "") -> list[str]:
    """Return the dotted name of every setting, `*` standing for a classifier's name."""
    names = []
    for name, field in model.model_fields.items():
        kind = Classifier if f"{parent}{name}" == "classify.models" else field.annotation
        kind = next((part for part in get_args(kind) if isinstance(part, type) and issubclass(part, BaseModel)), kind)
        inner = "classify.models.*." if kind is Classifier else f"{parent}{name}."
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        names += leaves(kind, inner) if nested else [f"{parent}{name}"]
    return names
