"""The pods that a router knows: who lives, which of them fit together, which to keep away from."""

from baton.router.pods.generation import Catalog, Generation
from baton.router.pods.known import Discovery, Pods
from baton.router.pods.shunning import Shunning

__all__ = ["Catalog", "Discovery", "Generation", "Pods", "Shunning"]
