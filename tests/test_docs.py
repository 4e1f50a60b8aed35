"""The README is short; every link in it and in docs/ has a target, and every command has existing options."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bcgan.cli import cli

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "pipelines"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text("utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.encode()) <= 9 * 1024
    assert len(text.splitlines()) <= 200


def command_lines(program: str) -> list:
    """The lines of code blocks, and the commands between backticks, that call a program."""
    lines = []
    for page in PAGES:
        text = re.sub(r" *\\\n +", " ", page.read_text("utf-8"))
        for line in re.findall(rf"^    (?:\S+=\S+ )?({program} .+)$|`({program} [^`]+)`", text, re.MULTILINE):
            lines.append(pytest.param("".join(line), id=f"{page.stem}: {''.join(line)[:60]}"))
    return lines


def commented_lines(program: str) -> list:
    """The commands in the comments of experiments that call a program."""
    commands = []
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        for line in re.findall(r"^#     (.+)$", path.read_text("utf-8"), re.MULTILINE):
            commands += [(path.name, command) for command in line.split(" && ") if command.startswith(f"{program} ")]
    return [pytest.param(command, id=f"{name}: {command[:60]}") for name, command in commands]


def parse(name: str, arguments: list[str]) -> None:
    command = cli.commands[name]
    values, _, _ = command.make_parser(click.Context(command)).parse_args(list(arguments))
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and values.get(parameter.name):
            given = values[parameter.name]
            for value in given if parameter.multiple else (given,):
                assert value in parameter.type.choices, f"{parameter.name}: {value}"


@pytest.mark.parametrize("line", command_lines("bcgan") + commented_lines("bcgan"))
def test_every_command_in_the_docs_has_its_options(line):
    words = shlex.split(re.sub(r"\.\.\.$", "", line), comments=True)[1:]
    if words[0].startswith("-"):
        words = words[2:] if words[0] == "--home" else []
    if not words or words[0] in ("...", "NAME"):
        return
    parse(words[0], words[1:])


def test_the_parser_rejects_an_unknown_option():
    with pytest.raises(click.NoSuchOption):
        parse("predict", ["x.png", "--no-such"])


@pytest.mark.parametrize("line", command_lines("make") + commented_lines("make"))
def test_every_make_target_exists(line):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    used_targets = [word for word in shlex.split(line, comments=True)[1:] if re.fullmatch(r"[a-z-]+", word)]
    assert set(used_targets) <= set(targets)


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="MkDocs is not installed: requirements-docs.txt")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    page = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert "Two commands" in page
    assert (tmp_path / "site" / "repository/reports/idc/figures/slide_maps.png").exists()
