"""`baton top`: a live view of a cluster in the terminal: pods, queues, pages, hand-overs, cache hits.

    baton top                                   the router on http://localhost:8000
    baton top --every 5 --pods decode-0:8000,prefill-0:8001

Rates and latencies are those of the time since the last look. q or Ctrl-C leaves. Without a terminal it
prints one picture after another.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

from baton.cli.fleet.read import Picture, held_key, look
from baton.cli.fleet.table import lines
from baton.cli.status import parser, pods
from baton.core.errors import BatonError, InvalidSetting

HOME, CLEAR_LINE, CLEAR_REST = "\033[H", "\033[K", "\033[J"
ENTER, LEAVE = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"


def main(arguments: Sequence[str]) -> int:
    made = parser("baton top", __doc__ or "")
    made.add_argument("--every", type=float, default=1.0, help="seconds between two looks; default 1")
    made.add_argument("--count", type=int, default=0, help="leave after so many; default: look on")
    args = made.parse_args(arguments)
    if args.every <= 0:
        raise InvalidSetting("every", f"must be above 0, not {args.every}")
    named = pods(args.pods)
    key = args.api_key or held_key()
    before = look(args.url, named, key)  # who is not there at the start is a mistake; later it is news
    live = sys.stdout.isatty() and not args.count
    with _screen() if live else contextlib.nullcontext():
        shown = 0
        while not args.count or shown < args.count:
            if _left(args.every, live):
                break
            before = _show(args.url, named, key, before, live)
            shown += 1
    return 0


def _show(url: str, named: Sequence[str], key: str, before: Picture, live: bool) -> Picture:
    try:
        now = look(url, named, key)
    except BatonError as error:
        _write([f"{time.strftime('%H:%M:%S')}  {error}"], live)
        return before
    paint = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    _write([f"baton top  {time.strftime('%H:%M:%S')}  q leaves", "", *lines(now, before, paint)], live)
    return now


def _write(shown: Sequence[str], live: bool) -> None:
    if not live:
        print("\n".join([*shown, ""]), flush=True)
        return
    height = shutil.get_terminal_size().lines
    body = f"{CLEAR_LINE}\r\n".join(shown[: height - 1])
    sys.stdout.write(f"{HOME}{body}{CLEAR_LINE}{CLEAR_REST}")
    sys.stdout.flush()


def _left(seconds: float, live: bool) -> bool:
    """Wait; True when a person said to leave."""
    if not (live and sys.stdin.isatty()):
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"\x03", b"\x04")


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other screen, keys taken as they are pressed; all put back however it ends."""
    import termios
    import tty

    saved = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if saved is not None:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(ENTER)
        yield
    finally:
        if saved is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
