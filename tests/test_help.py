"""`bcgan --help`."""

import click
from click.testing import CliRunner

from bcgan.cli import COMMAND_GROUPS, cli


def test_help_lists_every_command_once_under_a_heading():
    listed = [name for names in COMMAND_GROUPS.values() for name in names]
    assert sorted(listed) == sorted(cli.commands)
    printed = CliRunner().invoke(cli, ["--help"]).output
    for heading, names in COMMAND_GROUPS.items():
        _, section = printed.split(f"{heading}:\n")
        assert [line.split()[0] for line in section.split("\n\n")[0].splitlines()] == list(names)


def test_every_command_has_a_short_help_that_fits_a_line():
    context = click.Context(cli)
    for command in cli.commands.values():
        assert 0 < len(command.get_short_help_str(80)) < 70, context.command_path
