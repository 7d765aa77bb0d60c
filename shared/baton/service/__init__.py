"""How a service's process begins and ends, the same for all of them. Torch-free; knows no service."""

from baton.service.run import framed, leave, live, run_service

__all__ = ["framed", "leave", "live", "run_service"]
