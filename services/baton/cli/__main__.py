"""Where `baton` and `python -m baton.cli` start: one command in, one exit status out.

Exit status: the command's own; 2 for a mistake in what was typed or set; 1 when the work failed;
130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from baton.cli.commands import COMMANDS, Command
from baton.core.errors import BatonError, InvalidRequest, Misconfigured
from baton.core.suggest import hint
from baton.core.version import version


def main(arguments: Sequence[str] | None = None, commands: Mapping[str, Command] = COMMANDS) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(commands)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if words[0].startswith("-"):
        parser.parse_args(words[:1])
        return 0
    name, rest = words[0], words[1:]
    if name not in commands:
        return _complain("baton", f"there is no command {name!r}{hint(name, commands)}", status=2)
    try:
        try:
            return commands[name].load()(rest)
        finally:
            sys.stdout.flush()
    except BatonError as error:
        mistake = isinstance(error, (InvalidRequest, Misconfigured))
        return _complain(f"baton {name}", str(error), status=2 if mistake else 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; without this the interpreter complains while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    width = max(map(len, commands), default=0)
    listing = "\n".join(f"  {name:<{width}}  {commands[name].summary}" for name in sorted(commands))
    parser = argparse.ArgumentParser(
        prog="baton",
        usage="baton [--help | --version] COMMAND ...",
        description="Serves large language models with prefill and decode in separate pods.",
        epilog=f"commands:\n{listing}\n\n`baton COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"baton {version()}")
    return parser


def _complain(who: str, message: str, status: int) -> int:
    sys.stderr.write(f"{who}: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
