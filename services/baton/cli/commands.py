"""Every subcommand of `baton`, by name. To add one, write its module and add its line here.

A target is `module:function`, imported only when the command is called. The function takes the words
after the command's name and returns the exit status; it builds its own argument parser with
`prog="baton NAME"`, raises BatonError for what went wrong, and may write to standard output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class Command:
    target: str
    """`module:function`."""
    summary: str
    """One line for `baton --help`."""

    def load(self) -> Main:
        module, _, function = self.target.partition(":")
        main: Main = getattr(import_module(module), function)
        return main


COMMANDS: Mapping[str, Command] = {
    "up": Command("baton.cli.up:main", "Start pods on this machine and serve a model."),
    "bench": Command("baton.cli.bench:main", "Measure an engine: tokens per second."),
    "config": Command(
        "baton.cli.config:main", "List a service's settings, or explain where each value came from."
    ),
}
