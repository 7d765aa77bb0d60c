"""`baton completion`: what a shell needs to complete `baton` and everything after it.

    source <(baton completion bash)                                    in ~/.bashrc
    source <(baton completion zsh)                                     in ~/.zshrc, after compinit
    baton completion fish > ~/.config/fish/completions/baton.fish      once

The words are those that each command's own --help shows, so that the two cannot differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from baton.cli.commands import COMMANDS

Words = Mapping[str, tuple[str, ...]]
"""`""` → the commands; `up` → what may follow it; `bench online` → what may follow that."""

GROUPS: Mapping[str, str] = {
    "bench": "baton.cli.bench:BENCHES",
    "config": "baton.cli.config:SETTINGS",
    "completion": "baton.cli.completion:SHELLS",
}
"""Commands whose first word is a name of their own, and where those names are."""

FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    print(SHELLS[args.shell](words()), end="")
    return 0


def words() -> Words:
    """Every word that may come where. Imports every command."""
    found: dict[str, tuple[str, ...]] = {"": (*sorted(COMMANDS), "--help", "--version")}
    for name in sorted(COMMANDS):
        names = _names(name)
        found[name] = (*names, *_flags([name, "--help"]))
        if name == "completion":
            continue
        for second in names:
            found[f"{name} {second}"] = _flags([name, second, "--help"])
    return found


def _names(command: str) -> tuple[str, ...]:
    module, _, attribute = GROUPS.get(command, "").partition(":")
    return tuple(sorted(getattr(import_module(module), attribute))) if module else ()


def _flags(command: Sequence[str]) -> tuple[str, ...]:
    """The flags in a command's help, in their order."""
    if command[0] == "completion":
        return ("--help",)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        COMMANDS[command[0]].load()(command[1:])
    # Examples above the options may show flags of other programs.
    text = re.split(r"\n(?:options|positional arguments):\n|--SETTING VALUE", shown.getvalue())[-1]
    return tuple(dict.fromkeys([*FLAG.findall(text), "--help"]))


def bash(words: Words) -> str:
    cases = "\n".join(
        f'        "{above}") words="{" ".join(each)}" ;;' for above, each in words.items() if above
    )
    return f"""\
# What bash completes after `baton`; made by `baton completion bash`.
_baton() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} above="" words="{" ".join(words[""])}"
    [ "$COMP_CWORD" -ge 2 ] && above="${{COMP_WORDS[1]}}"
    [ "$COMP_CWORD" -ge 3 ] && case "${{COMP_WORDS[1]}}" in
        {"|".join(sorted(GROUPS))}) above="${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" ;;
    esac
    case "$above" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _baton baton
"""


def zsh(words: Words) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash(words)


def fish(words: Words) -> str:
    lines = ["# What fish completes after `baton`; made by `baton completion fish`."]
    for name in words[""]:
        if name in COMMANDS:
            summary = COMMANDS[name].summary.replace("'", "\\'")
            lines.append(f"complete -c baton -n __fish_use_subcommand -f -a {name} -d '{summary}'")
    for above, each in words.items():
        if not above:
            continue
        seen = " and ".join(f"__fish_seen_subcommand_from {word}" for word in above.split())
        for word in each:
            given = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
            lines.append(f"complete -c baton -n '{seen.replace(' and ', '; and ')}' {given}")
    return "\n".join(lines) + "\n"


SHELLS: Mapping[str, Callable[[Words], str]] = {"bash": bash, "fish": fish, "zsh": zsh}


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("baton completion", description=__doc__, formatter_class=plain)
    parser.add_argument("shell", choices=sorted(SHELLS))
    return parser
