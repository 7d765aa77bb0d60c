"""The `baton` command: looks a subcommand up by name and hands it its arguments. Imports none before."""

from baton.cli.commands import COMMANDS, Command

__all__ = ["COMMANDS", "Command"]
