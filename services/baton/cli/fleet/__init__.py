"""What pods and routers say of themselves over HTTP, read and shown; for `status`, `top` and `doctor`."""

from baton.cli.fleet.figures import Figures
from baton.cli.fleet.read import Picture, Sight, look

__all__ = ["Figures", "Picture", "Sight", "look"]
