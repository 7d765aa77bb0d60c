"""The conversation and its terminal: reads lines, writes answers, understands /commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from baton.cli.chat.client import Client, Message, Tally
from baton.core.errors import BatonError
from baton.core.suggest import hint

HELP = """\
/reset            forget the conversation (what the model was told first stays)
/system [TEXT]    tell the model this before anything else; without TEXT, show it
/history          show the conversation
/retry            ask the last thing again
/help             this
/quit             leave; so does Ctrl-D
Anything else is said to the model. End a line with \\ to go on in the next."""

DIM, BOLD, PLAIN = "\033[2m", "\033[1m", "\033[0m"
PROMPT = f"\001{BOLD}\002> \001{PLAIN}\002"
"""Line editing is told which characters take no room."""


class Shell:
    def __init__(self, client: Client, system: str, out: TextIO, paint: bool | None = None) -> None:
        self.history: list[Message] = []
        """Without the system message."""
        self.system = system
        self._client = client
        self._out = out
        self._paint = out.isatty() and "NO_COLOR" not in os.environ if paint is None else paint
        self._commands: Mapping[str, Callable[[str], bool]] = {
            "/reset": self._reset, "/system": self._say_system, "/history": self._show,
            "/retry": self._retry, "/help": self._help, "/quit": lambda _: False, "/exit": lambda _: False,
        }  # fmt: skip

    # ---- where lines come from ----

    def talk(self) -> int:
        """A person at a terminal."""
        self._say(f"{self._client.model} at {self._client.url}; /help lists commands\n", DIM)
        with _remembered_lines():
            while True:
                try:
                    line = self._line()
                except EOFError:
                    self._say("\n")
                    return 0
                except KeyboardInterrupt:
                    self._say("\n(/quit or Ctrl-D leaves)\n", DIM)
                    continue
                if not self.hear(line):
                    return 0

    def take(self, lines: Iterable[str]) -> int:
        """A pipe: one message a line; the first that fails ends it."""
        for line in lines:
            line = line.strip()
            if line.startswith("/") and not self.hear(line):
                return 0
            if line and not line.startswith("/"):
                self.answer(line)
        return 0

    def hear(self, line: str) -> bool:
        """One line typed; False to leave. What fails is told and forgotten."""
        line = line.strip()
        try:
            if line.startswith("/"):
                return self._obey(line)
            if line:
                self.answer(line)
        except BatonError as error:
            self._say(f"{error}\n", BOLD)
        return True

    def _line(self) -> str:
        parts = [input(PROMPT if self._paint else "> ")]
        while parts[-1].endswith("\\"):
            parts[-1] = parts[-1][:-1]
            parts.append(input("… "))
        return "\n".join(parts)

    # ---- answering ----

    def answer(self, text: str) -> int:
        """Ask, and write the answer while it comes. What was not answered is not remembered."""
        asked = [*self.history, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        tally, heard, thinking = Tally(), "", False
        try:
            for piece in self._client.ask([*system, *asked], tally):
                if piece.thought:
                    self._say(piece.thought, DIM)
                    thinking = True
                if piece.text:
                    self._say(("\n\n" if thinking and not heard else "") + piece.text)
                    heard += piece.text
        except KeyboardInterrupt:
            self._say(" …", DIM)
        except BatonError:
            if heard or thinking:
                self._say("\n")
            raise
        self._say(f"\n{summary(tally)}\n", DIM)
        self.history = [*asked, {"role": "assistant", "content": heard}]
        return 0

    # ---- commands ----

    def _obey(self, line: str) -> bool:
        name, _, rest = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            self._say(f"there is no {name}{hint(name, self._commands)}\n", DIM)
            return True
        return command(rest.strip())

    def _reset(self, _: str) -> bool:
        self.history = []
        self._say("forgotten\n", DIM)
        return True

    def _say_system(self, text: str) -> bool:
        if text:
            self.system = text
        self._say(f"the model is told first: {self.system or '(nothing)'}\n", DIM)
        return True

    def _show(self, _: str) -> bool:
        if not self.history:
            self._say("nothing was said yet\n", DIM)
        for message in self.history:
            self._say(f"{message['role']}: ", BOLD)
            self._say(f"{message['content']}\n")
        return True

    def _retry(self, _: str) -> bool:
        if len(self.history) < 2:
            self._say("nothing was asked yet\n", DIM)
            return True
        before, last = self.history[:-2], self.history[-2]["content"]
        kept, self.history = self.history, before
        try:
            self.answer(last)
        except BatonError:
            self.history = kept
            raise
        return True

    def _help(self, _: str) -> bool:
        self._say(HELP + "\n")
        return True

    def _say(self, text: str, style: str = "") -> None:
        self._out.write(f"{style}{text}{PLAIN}" if style and self._paint else text)
        self._out.flush()


def summary(tally: Tally) -> str:
    """`[41 tokens, 812 tokens/s, first after 38 ms; 32 of 57 prompt tokens cached; prefill-0 → decode-0]`"""
    count = tally.tokens or tally.pieces
    said = f"{count:,} tokens, {tally.rate:,.0f} tokens/s, first after {tally.first_s * 1e3:,.0f} ms"
    parts = [said]
    if tally.cached_tokens is not None and tally.prompt_tokens:
        parts.append(f"{tally.cached_tokens:,} of {tally.prompt_tokens:,} prompt tokens cached")
    if tally.served:
        parts.append(tally.served)
    if tally.finish == "length":
        parts.append("cut off: the longest answer was reached")
    return f"[{'; '.join(parts)}]"


@contextlib.contextmanager
def _remembered_lines() -> Iterator[None]:
    """Line editing, and lines of earlier sessions behind the arrow keys, where the platform has both."""
    try:
        import readline
    except ImportError:
        yield
        return
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = home / "baton" / "chat-lines"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(file)
            file.chmod(0o600)
