"""What the tests of routing share: a clock, a probe that does as it is told, and calls."""

from contextlib import suppress

from prometheus_client import CollectorRegistry

from gateway.core.call import Call, Caller, Model
from gateway.core.job import Backend, Condition, EngineLoad
from gateway.core.limit import TimeLimit
from gateway.core.snapshot import Arm, BackendSpec, ModelRoute, RoutingSnapshot
from gateway.errors import BackendFailed, GatewayError
from gateway.routing.meters import Meters
from gateway.routing.router import Router
from gateway.routing.settings import RoutingSettings
from gateway.telemetry.metrics import Metrics

TINY = Model("tiny", "generate", 256, 0)


class Clock:
    """Seconds, which pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeProbe:
    """`failures`: what to raise, `versions`: of Triton models, both by backend id. `asked`: id and question."""

    def __init__(self) -> None:
        self.failures: dict[str, GatewayError] = {}
        self.loads: dict[str, EngineLoad] = {}
        self.versions: dict[str, dict[str, list[str]]] = {}
        self.asked: list[tuple[str, str]] = []

    def kill(self, name: str) -> None:
        self.failures[name] = BackendFailed("the engine is dead")

    def questions(self, what: str) -> int:
        return sum(question == what for _, question in self.asked)

    async def ready(self, backend: Backend) -> Condition:
        self._ask(backend, "ready")
        return Condition(self.loads.get(backend.name), self.versions.get(backend.name, {}))

    async def generate(self, backend: Backend) -> None:
        self._ask(backend, "generate")

    def _ask(self, backend: Backend, what: str) -> None:
        self.asked.append((backend.name, what))
        if backend.name in self.failures:
            raise self.failures[backend.name]


def snapshot(*backends: BackendSpec | str, arms: tuple[Arm, ...] = (Arm(name="stable"),)) -> RoutingSnapshot:
    """Backends by their ids, serving the model `tiny`."""
    specs = [one if isinstance(one, BackendSpec) else BackendSpec(id=one, url=f"http://{one}") for one in backends]
    return RoutingSnapshot(backends=tuple(specs), models=(ModelRoute(name="tiny", arms=arms),))


class Pool:
    """A router with everything that it needs; `start` makes all backends healthy."""

    def __init__(self, *backends: BackendSpec | str, arms: tuple[Arm, ...] = (Arm(name="stable"),), **settings: object):
        self.clock = Clock()
        self.probe = FakeProbe()
        self.metrics = Metrics()
        self.settings = RoutingSettings(**{"strategy": "round_robin", **settings})  # type: ignore[arg-type]
        self.meters = Meters(self.metrics)
        self.router = Router(snapshot(*backends, arms=arms), self.settings, self.probe, self.meters, self.clock)

    async def start(self) -> Router:
        await self.router.examine()
        return self.router

    @property
    def registry(self) -> CollectorRegistry:
        return self.metrics.registry

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"trireme_{name}", labels)


def new_call(tenant: str = "acme", session: str | None = None, cost: int = 10) -> Call:
    caller = Caller("key", tenant, frozenset({"inference"}))
    return Call(id="r", uid="u", route="/", limit=TimeLimit(60), caller=caller, model=TINY, session=session, cost=cost)


async def where(router: Router, call: Call | None = None) -> str:
    """The id of the backend that takes a call and serves it well."""
    async with router.lease(call or new_call()) as backend:
        return backend.name


async def fail(router: Router, error: GatewayError, times: int = 1) -> None:
    """With this error, so many leases in a row."""
    for _ in range(times):
        with suppress(type(error)):
            async with router.lease(new_call()):
                raise error
