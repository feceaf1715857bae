"""Where the routing document comes from: settings, then discovery, then what was changed at run time."""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from gateway.core.call import Model
from gateway.core.snapshot import PLAN, Arm, BackendSpec, ModelRoute, RoutingSnapshot
from gateway.routing.settings import RoutingSettings

_TRITON_MODEL = {"generate": "chat", "embed": "embed"}


class Resolver(Protocol):
    async def addresses(self, name: str) -> Sequence[str]:
        """IP addresses. Raises OSError."""
        ...


class SystemResolver:
    """The system's own."""

    async def addresses(self, name: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return sorted({str(address[0]) for *_, address in found})


def default_routes(models: Iterable[Model]) -> tuple[ModelRoute, ...]:
    """Each model on every backend of the default group, and the ensemble `plan` where there is an embedding model."""
    wanted = {model.name: _TRITON_MODEL[model.task] for model in models if not model.candidates}
    if "embed" in wanted.values():
        wanted[PLAN] = PLAN
    return tuple(
        ModelRoute(name=name, arms=(Arm(name="stable", triton_model=triton_model),))
        for name, triton_model in wanted.items()
    )


def configured(settings: RoutingSettings, url: str, metrics_url: str | None = None) -> tuple[BackendSpec, ...]:
    """Those of the settings: the one Triton server, unless others are named or looked up."""
    if settings.backends is not None:
        return tuple(settings.backends)
    return () if settings.dns_name is not None else (BackendSpec(id="triton", url=url, metrics_url=metrics_url),)


def discovered(addresses: Iterable[str], port: int, metrics_port: int | None = None) -> tuple[BackendSpec, ...]:
    return tuple(_at(address, port, metrics_port) for address in addresses)


def _at(address: str, port: int, metrics_port: int | None) -> BackendSpec:
    host = f"[{address}]" if ":" in address else address
    metrics = None if metrics_port is None else f"http://{host}:{metrics_port}/metrics"
    return BackendSpec(id=f"dns-{address}-{port}", url=f"http://{host}:{port}", metrics_url=metrics)


def merge(base: RoutingSnapshot, found: Iterable[BackendSpec], document: RoutingSnapshot) -> RoutingSnapshot:
    """What is later replaces what is earlier and has the same id or name. The version is the document's."""
    backends = {spec.id: spec for spec in (*base.backends, *found, *document.backends)}
    models = {route.name: route for route in (*base.models, *document.models)}
    drained = frozenset(document.drained)
    return RoutingSnapshot(
        version=document.version,
        backends=tuple(replace(one, draining=one.draining or one.id in drained) for one in backends.values()),
        models=tuple(models.values()),
        drained=document.drained,
    )
