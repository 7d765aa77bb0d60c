"""`baton chat`: talk to a model in the terminal, through any server that speaks OpenAI's API.

    baton chat                                      the server on http://localhost:8000
    baton chat "What is a prefill pod?"             one question, one answer
    baton chat --url https://host --api-key KEY --model NAME
    echo "What is a page?" | baton chat             lines from a pipe, one message each

Below each answer: how fast it came, and how many tokens of the prompt the server had in its cache.
Ctrl-C ends an answer, Ctrl-D the shell; /help lists what else it understands.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    from baton.cli.chat.client import Client, Sampling
    from baton.cli.chat.shell import Shell

    sampling = Sampling(args.temperature, args.max_tokens, args.seed)
    with Client(args.url, args.api_key or _key(), args.model, sampling) as client:
        shell = Shell(client, args.system, sys.stdout)
        if args.message:
            return shell.answer(" ".join(args.message))
        return shell.talk() if sys.stdin.isatty() else shell.take(sys.stdin)


def _key() -> str:
    return os.environ.get("BATON_API_KEY") or os.environ.get("OPENAI_API_KEY") or "none"


def parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser("baton chat", description=__doc__, formatter_class=plain)
    add = made.add_argument
    add("message", nargs="*", help="ask this one thing and leave; nothing opens a shell")
    add("--url", default="http://localhost:8000", help="of the server; default http://localhost:8000")
    add("--model", default="", help="default: the first that the server lists")
    add("--api-key", default="", help="default: BATON_API_KEY, else OPENAI_API_KEY")
    add("--system", default="", help="what the model is told before anything else")
    add("--temperature", type=float, help="0 is greedy; default: the server's")
    add("--max-tokens", type=int, help="longest answer; default: the server's")
    add("--seed", type=int, help="the same seed and history give the same answer")
    return made
