"""Log lines as a collector and as a person get them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings

import pytest

from baton.core.settings import load
from baton.telemetry import LogSettings, log_fields, logging_to

LOG = logging.getLogger("baton.router.relay")
LIBRARY = logging.getLogger("uvicorn.error")


def _lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_message_facts_and_fields() -> None:
    out = io.StringIO()
    with logging_to(out, service="router", worker="w1"):
        LOG.info("resumed after %d tokens", 3, extra={"request": "req-1", "to": "d2"})
    (line,) = _lines(out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line == {
        "level": "info",
        "logger": "baton.router.relay",
        "message": "resumed after 3 tokens",
        "service": "router",
        "worker": "w1",
        "request": "req-1",
        "to": "d2",
    }


def test_fields_of_a_task_are_on_its_lines_and_on_no_other_s() -> None:
    out = io.StringIO()

    async def serve(name: str) -> None:
        with log_fields(request=name, leg="decode"):
            await asyncio.sleep(0)
            LOG.info(name)
            with log_fields(leg="prefill"):
                LOG.info(name)
        LOG.info("none")

    async def both() -> None:
        await asyncio.gather(serve("one"), serve("two"))

    with logging_to(out):
        asyncio.run(both())
    for line in _lines(out):
        assert line.get("request", "none") == line["message"]
    assert [line.get("leg") for line in _lines(out) if line["message"] == "one"] == ["decode", "prefill"]


def test_a_line_s_own_field_goes_before_its_task_s() -> None:
    out = io.StringIO()
    with logging_to(out), log_fields(request="a"):
        LOG.info("x", extra={"request": "b"})
    assert _lines(out)[0]["request"] == "b"


def test_an_error_brings_its_traceback_in_one_line() -> None:
    out = io.StringIO()
    with logging_to(out):
        try:
            raise ValueError("broken")
        except ValueError:
            LOG.exception("failed")
    (line,) = _lines(out)
    assert "ValueError: broken" in str(line["error"])


def test_text_is_one_line_whatever_came_from_outside() -> None:
    out = io.StringIO()
    with logging_to(out, LogSettings(format="text"), service="router"):
        LOG.warning("bad\nname", extra={"request": "x\r\ny"})
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} WARNING baton\.router\.relay  bad\\nname  service=router request=x\\r\\ny\n",
        out.getvalue(),
    )


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, json_wanted in [(Terminal(), False), (io.StringIO(), True)]:
        with logging_to(out):
            LOG.info("x")
        assert out.getvalue().startswith("{") == json_wanted


@pytest.mark.parametrize(
    ("settings", "heard"),
    [
        (LogSettings(), ["own info", "library warning"]),
        (
            LogSettings(level="debug", libraries="info"),
            ["own debug", "own info", "library info", "library warning"],
        ),
        (LogSettings(level="error", libraries="error"), []),
    ],
)
def test_levels_of_our_own_lines_and_of_libraries(settings: LogSettings, heard: list[str]) -> None:
    out = io.StringIO()
    with logging_to(out, settings):
        LOG.debug("own debug")
        LOG.info("own info")
        LIBRARY.info("library info")
        LIBRARY.warning("library warning")
    assert [line["message"] for line in _lines(out)] == heard


def test_warnings_become_lines() -> None:
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_to(out):
            warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert "old way" in str(_lines(out)[0]["message"])


def test_everything_is_as_before_afterwards() -> None:
    root, own = logging.getLogger(), logging.getLogger("baton")
    before = root.handlers[:], root.level, own.level
    with pytest.raises(KeyError), logging_to(io.StringIO(), LogSettings(level="debug")):
        raise KeyError
    assert (root.handlers, root.level, own.level) == before


def test_values_that_json_does_not_know_are_spelt() -> None:
    out = io.StringIO()
    with logging_to(out):
        LOG.info("x", extra={"pages": {1}, "who": "é"})
    assert _lines(out)[0]["pages"] == "{1}"
    assert "é" in out.getvalue()


def test_the_settings_load() -> None:
    assert load(LogSettings, environ={"BATON_LEVEL": "debug"}).settings == LogSettings(level="debug")
