"""Where calls can go: one immutable document with a version, made of settings, discovery and run-time changes."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.core.versioned import Versioned

DEFAULT_GROUP: Final = "default"
# The ensemble, and its route: no client can name it.
PLAN: Final = "plan"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Unit = Literal["tenant", "user", "session"]


class BackendSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """One Triton server. `models`: those of clients that it serves, None for all.

    `slots`, `capacity_tokens`: what it can run at the same time; None: what its engine says, or the settings.
    `metrics_url`: of its metrics page, which tells how many requests wait in it; None: nobody looks.
    """

    id: str
    url: str
    group: str = DEFAULT_GROUP
    models: tuple[str, ...] | None = None
    draining: bool = False
    slots: AtLeastOne | None = None
    capacity_tokens: AtLeastOne | None = None
    metrics_url: str | None = None


class Arm(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """One way to serve a model: a group of backends, and the Triton model and version to call there."""

    name: str
    group: str = DEFAULT_GROUP
    triton_model: str = "chat"
    version: str | None = None
    weight: NotNegative = 1


class Division(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arms that are compared. Calls of the same unit (`by`) keep their arm; another experiment divides them anew."""

    experiment: str
    by: Unit


class Mirror(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """A second arm gets a copy of some calls, and nobody its answers. `exclude`: tenants of whom nothing is copied."""

    id: str
    arm: Arm
    fraction: Fraction
    exclude: tuple[str, ...] = ()


class ModelRoute(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """A model that clients can name, by its name or an alias. Arms share its calls by their weights."""

    name: str
    arms: tuple[Arm, ...]
    aliases: tuple[str, ...] = ()
    division: Division | None = None
    mirror: Mirror | None = None

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """Also the one that only gets copies."""
        return self.arms if self.mirror is None else (*self.arms, self.mirror.arm)


class RoutingSnapshot(Versioned, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """`drained`: ids of backends that take no new calls, wherever those backends come from."""

    backends: tuple[BackendSpec, ...] = ()
    models: tuple[ModelRoute, ...] = ()
    drained: tuple[str, ...] = ()

    def validate(self) -> list[str]:
        """A sentence for each thing that is wrong; none: it can be used."""
        return [*_backend_problems(self.backends), *_model_problems(self.models)]

    def aliases(self) -> dict[str, str]:
        """Alias → name."""
        return {alias: route.name for route in self.models for alias in route.aliases}


_DECODER = msgspec.json.Decoder(RoutingSnapshot)


def decode_snapshot(data: bytes) -> RoutingSnapshot:
    """Raises ValueError with every problem of a document that cannot be used."""
    snapshot = _DECODER.decode(data)
    if problems := snapshot.validate():
        raise ValueError("; ".join(problems))
    return snapshot


def encode_snapshot(snapshot: RoutingSnapshot) -> bytes:
    return msgspec.json.encode(snapshot)


def _backend_problems(backends: Iterable[BackendSpec]) -> Iterator[str]:
    backends = tuple(backends)
    for identifier in _repeated(backend.id for backend in backends):
        yield f"there is more than one backend {identifier!r}"
    for backend in backends:
        if not _ID.fullmatch(backend.id):
            yield f"backend id {backend.id!r}: must be up to 63 letters, digits, '.', '_', ':' and '-'"
        for what, url in (("url", backend.url), ("metrics_url", backend.metrics_url)):
            if url is not None and (problem := _url_problem(url)):
                yield f"backend {backend.id}: {what} {url!r} {problem}"
        if not backend.group:
            yield f"backend {backend.id}: the group has no name"


def _url_problem(url: str) -> str:
    """What is wrong with it, or ""."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"cannot be read: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is not http://host:port"
    if parts.username is not None or parts.query or parts.fragment:
        return "must have no user, query or fragment"
    return ""


def _model_problems(models: Iterable[ModelRoute]) -> Iterator[str]:
    models = tuple(models)
    names = [name for route in models for name in (route.name, *route.aliases)]
    for name in _repeated(names):
        yield f"more than one model is called {name!r}"
    for route in models:
        if not all((route.name, *route.aliases)):
            yield f"model {route.name!r}: a name is empty"
        if not route.arms:
            yield f"model {route.name}: has no arm"
        elif not any(arm.weight for arm in route.arms):
            yield f"model {route.name}: no arm has a weight above 0"
        for name in _repeated(arm.name for arm in route.arms):
            yield f"model {route.name}: there is more than one arm {name!r}"
        for arm in route.all_arms:
            if not (arm.name and arm.group and _ID.fullmatch(arm.triton_model)):
                yield f"model {route.name}: arm {arm.name!r} needs a name, a group and the name of a Triton model"
            if arm.version is not None and not (arm.version.isascii() and arm.version.isdigit()):
                yield f"model {route.name}: version {arm.version!r} of arm {arm.name!r} is not a number"


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
