"""Where a router starts: `python -m baton.router --model.tokenizer DIR --state.url redis://…`.

The one place that makes its parts and knows their order:
settings → tokenizer → listen → follow the fleet → serve → drain → stop. Exit status: 0 after a stop that was
asked for, 2 for a mistake in what was set, 1 when it could not go on.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from baton.router.process import Share, feed, run
from baton.router.settings import RouterSettings
from baton.router.workers import Workers
from baton.service import framed, leave, live


def main(arguments: Sequence[str] | None = None) -> int:
    return framed("router", RouterSettings, _serve, arguments)


def _serve(settings: RouterSettings) -> int:
    """In this process, or in several that share its port."""

    def one(share: Share) -> int:
        return live("router", run(settings, share))

    def fed(listening: socket.socket) -> int:
        return live("router", feed(settings, listening))

    return one(Share()) if settings.workers == 1 else Workers(settings, one, fed).run()


if __name__ == "__main__":
    leave(main())
