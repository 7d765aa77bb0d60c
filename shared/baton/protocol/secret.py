"""Keeping strangers off the wire between pods: a shared secret becomes a CURVE key pair.

Every pod that knows the secret derives the same pair. A server with it talks to nobody whose messages
are not encrypted with it, so a stranger can neither ask for work nor read what is said.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import zmq
from zmq.utils import z85


def secure(socket: zmq.Socket[Any], secret: str, *, server: bool) -> None:
    """Set a socket up before it binds or connects; without a secret it stays open to all."""
    if not secret:
        return
    private = z85.encode(blake2b(secret.encode(), digest_size=32, person=b"baton.pods").digest())
    public = zmq.curve_public(private)
    socket.curve_secretkey = private
    socket.curve_publickey = public
    if server:
        socket.curve_server = True
        # CURVE alone lets in every client that knows the server's public key, which is as secret as the
        # private one here: it is never sent, and nothing else in a deployment shows it.
    else:
        socket.curve_serverkey = public
