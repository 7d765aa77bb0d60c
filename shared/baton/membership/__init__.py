"""How a pod is a member of the cluster: what it says of itself, to Redis and to whoever asks it.

Prefill and decode pods build their lease here and keep a `Membership` open while they serve. It stands
between an engine's front and `baton.state`; it knows no requests. Torch-free.
"""

from baton.membership.hello import introduction
from baton.membership.lease import fits, lease_of
from baton.membership.member import Membership
from baton.membership.pages import HeldPages
from baton.membership.paths import Bandwidths
from baton.membership.settings import PodSettings
from baton.membership.shown import lease_endpoint

__all__ = [
    "Bandwidths",
    "HeldPages",
    "Membership",
    "PodSettings",
    "fits",
    "introduction",
    "lease_endpoint",
    "lease_of",
]
