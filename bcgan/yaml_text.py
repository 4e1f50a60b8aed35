"""Read YAML as its version 1.2 defines it, and refuse a key that is there twice."""

import re
from typing import Any

import yaml

from bcgan.errors import InputError

# The core schema of YAML 1.2. PyYAML reads version 1.1, where 010 is 8, 4:30 is 270 and no is false.
NULL = r"~|null|Null|NULL|"
BOOL = r"true|True|TRUE|false|False|FALSE"
INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
BASES = {"0o": 8, "0x": 16}
PREFIX = "tag:yaml.org,2002:"


class _RepeatedKey(yaml.YAMLError):
    """A key that a mapping has twice, and its line."""


class _Loader(yaml.SafeLoader):
    """Reads plain values by the core schema; it runs no code."""

    yaml_implicit_resolvers: dict[str | None, list] = {}  # those of version 1.1 are not inherited

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """Return a mapping; raise _RepeatedKey if a key is there twice, as the first value would be lost."""
        keys = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no key that settings can have
            is_merge = key_node.tag == f"{PREFIX}merge"
            key = key_node.value if is_merge else self.construct_object(key_node, deep=True)
            if key in keys:
                raise _RepeatedKey(key, key_node.start_mark.line + 1)
            keys.add(key)
        return super().construct_mapping(node, deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value[2:], BASES[node.value[:2]]) if node.value[:2] in BASES else int(node.value)


for _name, _pattern, _first in (
    ("null", NULL, ["~", "n", "N", ""]), ("bool", BOOL, list("tTfF")), ("int", INT, list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")), ("merge", "<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"{PREFIX}{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor(f"{PREFIX}int", _construct_int)


def read_yaml(text: str, source: str, remedy: str) -> Any:
    """Return what a YAML text contains. Parts that an alias (`*name`) repeats are copies, which change apart.

    Args:
        source: The file or setting that the text is of, for the error.
        remedy: What to do if it is not YAML, for the error.

    Raises:
        InputError: If it is not YAML, or a key is there twice.
    """
    try:
        return _without_aliases(yaml.load(text, _Loader))  # noqa: S506, a SafeLoader
    except _RepeatedKey as error:
        key, line = error.args
        raise InputError(
            f"{source}, line {line}: {key} is there twice, and only one can count. Join them, or remove one."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: `!!int x`
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())}. {remedy}") from error


def _without_aliases(value: Any) -> Any:
    """Return a copy in which no part is there twice, as PyYAML's objects of an anchor and of its aliases are one."""
    if isinstance(value, dict):
        return {key: _without_aliases(item) for key, item in value.items()}
    return [_without_aliases(item) for item in value] if isinstance(value, list) else value
