"""Packages import in one direction only, and heavy packages are loaded only when they are needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bcgan

ROOT = Path(bcgan.__file__).parent
SHIPPED = sorted(path for path in (ROOT / "shipped").rglob("*.*") if path.suffix != ".md")
MEGABYTE = 10**6
# A package may import from itself and from the packages after it.
ORDER = (
    "cli", "cli_models", "cli_slides", "cli_options", "execution", "tracking", "stages", "report", "release", "predict",
    "evaluate", "explain", "classify", "gan", "models", "preprocess", "data", "slides",
)  # fmt: skip
SHARED = (
    "errors", "classes", "sizes", "settings", "study_settings", "classifiers", "renamed", "experiment",
    "experiment_files", "settings_effect", "variation",
    "yaml_text", "progress", "machine", "distribute", "outputs", "runs", "artifacts", "ledger", "bench",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bcgan"):
            parts = node.module.split(".")
            packages |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names}
    return packages


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upward(path):
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if package in SHARED or package not in ORDER:
        may_import_all = package in ("bench", "__main__", "__init__")
        allowed = set(SHARED) | {"__version__"} | (set(ORDER) if may_import_all else set())
    else:
        allowed = {*ORDER[ORDER.index(package) :], *SHARED, "__version__"}
    assert imports(path) <= allowed


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "nowhere"]])
def test_help_and_errors_load_neither_tensorflow_nor_pandas(arguments):
    code = (
        "import sys; from bcgan.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "sys.exit(bool({'tensorflow', 'pandas', 'cv2', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def documented_arguments(text: str) -> list[str]:
    """Names that a docstring's `Args:` describes, such as `train, rows: positions.`"""
    section = re.split(r"\n(?:Returns|Raises|Yields|\S)", text.partition("Args:\n")[2])[0]
    return [name for line in re.findall(r"^    (\w[\w, ]*):", section, re.MULTILINE) for name in line.split(", ")]


def test_documented_arguments_are_arguments():
    checked, wrong = 0, []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            arguments = node.args
            listed = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
            names = {argument.arg for argument in listed if argument}
            documented = documented_arguments(ast.get_docstring(node) or "")
            checked += len(documented)
            wrong += [f"{path.relative_to(ROOT)}: {node.name}: {name}" for name in documented if name not in names]
    assert checked > 100
    assert not wrong


def test_every_guarantee_names_an_existing_test():
    """docs/reference/guarantees.md names `file::test` or, after a test of the same file, only `test`."""
    tests = ROOT.parent / "tests"
    if not tests.exists():
        pytest.skip("installed without its tests")
    page = (ROOT.parent / "docs" / "reference" / "guarantees.md").read_text("utf-8")
    references = re.findall(r"`(?:(tests/[\w/]+\.py)(?:::)?)?(test_\w+)?`", page)
    assert len(references) > 20
    path = None
    for file, name in references:
        path = file or path
        if name:
            assert f"def {name}(" in (ROOT.parent / path).read_text("utf-8"), f"{path}::{name}"


def test_shipped_files_are_small():
    assert {path.suffix for path in SHIPPED} >= {".keras", ".tflite"}
    assert not [path.name for path in SHIPPED if path.stat().st_size >= 8 * MEGABYTE]
