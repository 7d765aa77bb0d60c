"""The policies by name, as the setting `placement.policy` names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from baton.router.placement.cost import CostPolicy
from baton.router.placement.decision import Decision, Refusal
from baton.router.placement.settings import PlacementSettings
from baton.router.placement.simple import LeastLoadedPolicy, PrefixPolicy, RoundRobinPolicy
from baton.router.placement.view import Query, View


class Policy(Protocol):
    def place(self, view: View, query: Query) -> Decision | Refusal:
        """Where the request goes. Waits for nothing, changes nothing, raises nothing."""
        ...


POLICIES: Mapping[str, Callable[[PlacementSettings], Policy]] = MappingProxyType(
    {
        "cost": CostPolicy,
        "prefix": PrefixPolicy,
        "least-loaded": LeastLoadedPolicy,
        "round-robin": RoundRobinPolicy,
    }
)


def policy(settings: PlacementSettings) -> Policy:
    """The one that the settings name."""
    return POLICIES[settings.policy](settings)
