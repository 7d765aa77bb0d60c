"""What is read of the API's objects: a few fields of a pod, and the frames of lists and watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec


class Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class Port(msgspec.Struct, rename="camel"):
    name: str = ""
    container_port: int = 0


class Container(msgspec.Struct):
    ports: list[Port] = []


class Spec(msgspec.Struct):
    containers: list[Container] = []


class Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class Status(msgspec.Struct):
    phase: str = ""
    podIP: str = ""
    conditions: list[Condition] = []


class PodObject(msgspec.Struct):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)


class PodList(msgspec.Struct):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    items: list[PodObject] = []


class Failure(msgspec.Struct):
    """A Status object: what an ERROR event, or an answer that is no success, holds."""

    code: int = 0
    message: str = ""


class Event(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod, as far as a router cares."""

    name: str
    uid: str
    address: str
    """http://ip:port; empty before it has one."""
    leaving: bool
    """It is being deleted."""
    ready: bool

    @classmethod
    def of(cls, pod: PodObject, port_name: str) -> PodSeen:
        ports = [port for container in pod.spec.containers for port in container.ports]
        named = [port.container_port for port in ports if port.name == port_name]
        ip, shown = pod.status.podIP, pod.status.podIP
        if ":" in ip:
            shown = f"[{ip}]"
        return cls(
            name=pod.metadata.name,
            uid=pod.metadata.uid,
            address=f"http://{shown}:{named[0]}" if ip and named else "",
            leaving=pod.metadata.deletion_timestamp is not None
            or pod.status.phase in ("Failed", "Succeeded"),
            ready=any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions),
        )


read_list = msgspec.json.Decoder(PodList).decode
read_event = msgspec.json.Decoder(Event).decode
read_pod = msgspec.json.Decoder(PodObject).decode
read_failure = msgspec.json.Decoder(Failure).decode
