"""The page at /ui/: static files, and the feed that tells them what the router sees and decides."""

from baton.router.page.app import Page
from baton.router.page.feed import Feed, Sources
from baton.router.page.sight import Seen, Sight
from baton.router.page.sources import sources_of

__all__ = ["Feed", "Page", "Seen", "Sight", "Sources", "sources_of"]
