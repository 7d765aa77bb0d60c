"""Typed settings trees from defaults, a file, the environment and flags, in that order of weight."""

from baton.core.settings.load import PREFIX, Loaded, from_command_line, load
from baton.core.settings.schema import secret

__all__ = ["PREFIX", "Loaded", "from_command_line", "load", "secret"]
