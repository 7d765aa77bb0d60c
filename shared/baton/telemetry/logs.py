"""Logging, set up in one place: every line of a process, its libraries' lines included, in one form.

Modules say `log = logging.getLogger(__name__)` and pass facts as `extra={"request": id, …}`, never
inside the sentence; a service's `__main__` holds `logging_to(...)` open for as long as it lives.
Nothing else touches handlers or levels, and nothing here prints.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TextIO

Level = Literal["debug", "info", "warning", "error"]

_BOUND: ContextVar[Mapping[str, object]] = ContextVar("baton_log_fields", default=MappingProxyType({}))
"""Fields of the task at work; set only by `log_fields`."""

DATE = "%Y-%m-%dT%H:%M:%S"

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has anyway; all else on it came as `extra`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a process logs."""

    level: Level = "info"
    """The least grave of Baton's own lines that is written."""
    libraries: Level = "warning"
    """The same for every library's lines."""
    format: Literal["auto", "json", "text"] = "auto"
    """json: one object a line, for collectors; text: for people; auto: text on a terminal, else json."""


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Put these fields on every line that this task (and what it starts) logs meanwhile."""
    token = _BOUND.set({**_BOUND.get(), **fields})
    try:
        yield
    finally:
        _BOUND.reset(token)


@contextmanager
def logging_to(
    stream: TextIO | None = None, settings: LogSettings | None = None, **facts: object
) -> Iterator[None]:
    """Send every line of this process to `stream` (standard error unless given) until the block ends.

    `facts` name the process (service, worker, rank) and stand on every line. Warnings become lines.
    """
    stream, settings = stream or sys.stderr, settings or LogSettings()
    as_text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter((TextFormatter if as_text else JsonFormatter)(facts))
    root, own = logging.getLogger(), logging.getLogger("baton")
    before = root.handlers[:], root.level, own.level
    root.handlers[:] = [handler]
    root.setLevel(settings.libraries.upper())
    own.setLevel(settings.level.upper())
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        handler.flush()
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        own.setLevel(before[2])


class _Formatter(logging.Formatter):
    """Every line carries the process's facts."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        super().__init__()
        self._facts = dict(facts)


class JsonFormatter(_Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the facts, the line's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": f"{time.strftime(DATE, time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {
            name: value for name, value in {**self._facts, **fields_of(record)}.items() if name not in line
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(_Formatter):
    """`12:00:01.250 INFO    baton.router.relay  resumed elsewhere  service=router request=req-…`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03d}"
        line = f"{clock} {record.levelname:<7} {record.name}  {_one_line(record.getMessage())}"
        named = {**self._facts, **fields_of(record)}
        fields = " ".join(f"{name}={_one_line(str(value))}" for name, value in named.items())
        error = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{line}  {fields}{error}" if fields else f"{line}{error}"


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The task's fields and the line's own, the line's own first in weight."""
    own = {name: value for name, value in vars(record).items() if name not in _PLAIN}
    return {**_BOUND.get(), **own}


def _one_line(text: str) -> str:
    """What came from outside cannot make a line look like two."""
    return text.replace("\n", "\\n").replace("\r", "\\r")
