"""How a service's process begins and ends, the same for all of them. Torch-free; knows no service."""

from baton.service.run import run_service

__all__ = ["run_service"]
