"""What every service that speaks HTTP has in common: listening, limits, bodies, answers in OpenAI's shape.

Knows starlette and uvicorn, and no engine: routers and pods share it. Imports no torch.
"""

from baton.http.app import application
from baton.http.body import expect, read_body
from baton.http.post import Doors, Exchange, Post
from baton.http.presence import while_present
from baton.http.reply import Reply
from baton.http.server import HttpServer, listen
from baton.http.settings import HttpSettings

__all__ = [
    "Doors",
    "Exchange",
    "HttpServer",
    "HttpSettings",
    "Post",
    "Reply",
    "application",
    "expect",
    "listen",
    "read_body",
    "while_present",
]
