"""Finds pods through the Kubernetes API: a list, then a watch, over the router's own HTTP client.

A pod that is being deleted takes no new work from that moment, long before its lease would end.
"""

from baton.router.kubernetes.api import Api
from baton.router.kubernetes.fleet import KubernetesFleet
from baton.router.kubernetes.objects import PodSeen
from baton.router.kubernetes.watch import PodWatch, WatchHealth

__all__ = ["Api", "KubernetesFleet", "PodSeen", "PodWatch", "WatchHealth"]
