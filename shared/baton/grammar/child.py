"""The process that compiles clients' grammars: `python -m baton.grammar.child TOKENIZER`.

Reads grammars from its input, each behind its length, and writes a line of JSON for each: what is wrong with
it, or nothing. It ends when its input does, and by an alarm or for want of memory over one that is too much.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from pathlib import Path

from baton.grammar.matcher import Form, Grammars, Matcher
from baton.tokens.tokenizer import Tokenizer

CHECK_S = 2.0
"""Of a core, for one grammar."""
MASK_S = 0.1
"""Of that for a mask, for which all wait who are served beside it; the first one takes longest."""
MEMORY = 256 << 20
"""Bytes that it may take."""
LONGEST_WORD = 300
"""Characters of what is said of it."""
HEAD = 4


def frame(grammar: str) -> bytes:
    data = grammar.encode(errors="replace")
    return len(data).to_bytes(HEAD, "little") + data


def main(source: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this, and ends its input
    tokenizer = Tokenizer.load(source)
    grammars = Grammars(lambda: tokenizer, tokenizer.size, tokenizer.eos_ids)
    grammars.matcher('{"grammars": [{"lark_grammar": "start: /a/"}]}')  # reads the tokenizer
    _bound()
    _tell("ready")
    while len(head := sys.stdin.buffer.read(HEAD)) == HEAD:
        grammar = sys.stdin.buffer.read(int.from_bytes(head, "little")).decode()
        signal.setitimer(signal.ITIMER_PROF, CHECK_S)  # whose default is to end the process
        wrong = wrong_with(grammars, grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _tell(wrong)


def wrong_with(grammars: Grammars, grammar: str, mask_s: float = MASK_S) -> str:
    """Empty for nothing. No grammar is kept: what one takes is no other's fault."""
    compiled = grammars.fresh(grammar)
    if compiled.is_error():
        return compiled.get_error().strip()[:LONGEST_WORD]
    began = time.thread_time()
    grammars.masks([Matcher(grammar, Form(compiled), lambda: grammars.fresh(grammar))])
    if time.thread_time() - began > mask_s:
        return f"takes more than {mask_s:g} s to say what its first token may be; make it smaller"
    return compiled.get_error().strip()[:LONGEST_WORD]


def _bound() -> None:
    """Memory from here on."""
    status = Path("/proc/self/status").read_text() if sys.platform == "linux" else ""
    used = next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData")), 0)
    if used:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _tell(word: str) -> None:
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
