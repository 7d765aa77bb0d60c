"""`baton bench`: measure an engine (`offline`) or a server (`online`), and draw it (`plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton.cli.commands import Command
from baton.core.errors import InvalidSetting
from baton.core.suggest import hint

__all__ = ["BENCHES", "main"]

BENCHES: Mapping[str, Command] = {
    "offline": Command("baton.cli.bench.offline:main", "Tokens a second of one engine, all prompts at once."),
    "online": Command(
        "baton.cli.bench.online:main", "Latencies of a server under requests that come as they come."
    ),
    "plot": Command("baton.cli.bench.plot:main", "Draw what `online` wrote: one page, several runs."),
}


def main(arguments: Sequence[str]) -> int:
    name, *rest = [*arguments] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: baton bench NAME [OPTIONS]\n")
        for known, command in BENCHES.items():
            print(f"  {known:<10} {command.summary}")
        return 0
    if name not in BENCHES:
        raise InvalidSetting("NAME", f"no benchmark is called {name!r}{hint(name, BENCHES)}")
    return BENCHES[name].load()(rest)
