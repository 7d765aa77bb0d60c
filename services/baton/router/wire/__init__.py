"""HTTP/1.1 as a router speaks it to pods (and to the Kubernetes API): pooled connections, no more.

Made because a general client costs more per request than all the rest of a router together. Knows nothing of
what it carries.
"""

from baton.router.wire.connection import GO, HOLD, STOP, Connection, Flow, Head
from baton.router.wire.fetch import fetch
from baton.router.wire.pool import Origin, Pool, origin_of

__all__ = ["GO", "HOLD", "STOP", "Connection", "Flow", "Head", "Origin", "Pool", "fetch", "origin_of"]
