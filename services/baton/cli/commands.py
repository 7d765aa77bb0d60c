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
    "up": Command("baton.cli.up:main", "Start a whole Baton on this machine and serve a model."),
    "chat": Command("baton.cli.chat:main", "Talk to a model, through any server with OpenAI's API."),
    "status": Command("baton.cli.status:main", "What is running, how busy it is, and what is wrong."),
    "top": Command("baton.cli.top:main", "The same, live: queues, pages, hand-overs, cache hits."),
    "doctor": Command("baton.cli.doctor:main", "Check this machine, and the paths between pods."),
    "bench": Command("baton.cli.bench:main", "Measure an engine or any server, and draw it."),
    "smoke": Command("baton.cli.smoke:main", "Check that a fleet serves, hands over, and answers alike."),
    "config": Command(
        "baton.cli.config:main", "List a service's settings, or explain where each value came from."
    ),
    "completion": Command("baton.cli.completion:main", "Let bash, zsh or fish complete all this."),
}
