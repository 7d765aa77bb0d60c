"""One log of several processes on one terminal, and a line below it that says how the start goes."""

from __future__ import annotations

import os
import shutil
from typing import TextIO

COLOURS = (36, 35, 33, 32, 34, 96, 95, 93, 92, 94)
GREY = 90
CLEAR = "\r\033[K"


class Screen:
    """Not thread-safe: one event loop writes."""

    def __init__(self, out: TextIO, paint: bool | None = None) -> None:
        self._out = out
        self._live = out.isatty() if paint is None else paint
        self._paint = self._live and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {}
        self._width = 8
        self._status = ""

    def expect(self, names: list[str]) -> None:
        """Whose lines will come: each gets a colour, and they line up."""
        for place, name in enumerate(names):
            self._colours[name] = GREY if name == "router" else COLOURS[place % len(COLOURS)]
        self._width = max(map(len, names), default=8)

    def line(self, name: str, text: str) -> None:
        label = f"{name:<{self._width}}"
        if self._paint:
            label = f"\033[{self._colours.get(name, GREY)}m{label}\033[0m"
        self.say(f"{label} {text}")

    def say(self, text: str) -> None:
        self._out.write(f"{CLEAR if self._status else ''}{text}\n")
        self._put_status()

    def status(self, text: str) -> None:
        """What is being waited for; empty when nothing is. Shown on terminals alone."""
        if not self._live or text == self._status:
            return
        self._out.write(CLEAR if self._status else "")
        self._status = text
        self._put_status()

    def _put_status(self) -> None:
        if self._status:
            self._out.write(self._status[: shutil.get_terminal_size().columns - 1])
        self._out.flush()
