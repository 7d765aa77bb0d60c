"""The page at /ui/: static files, and the feed that tells them what the router sees and decides."""

from baton.router.page.app import Page
from baton.router.page.feed import Feed, Sources

__all__ = ["Feed", "Page", "Sources"]
