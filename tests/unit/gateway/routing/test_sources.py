"""Settings, discovery and run-time changes, put together."""

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.core.call import Model
from gateway.core.document import CHANGED, KEY
from gateway.core.snapshot import Arm, BackendSpec, ModelRoute, RoutingSnapshot
from gateway.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.routing.directory import Directory
from gateway.routing.document import routing_document
from gateway.routing.settings import RoutingSettings
from gateway.routing.sources import SystemResolver, configured, default_routes, discovered, merge
from gateway.telemetry.tasks import Tasks
from tests.unit.gateway.routing.fakes import Pool
from tests.unit.gateway.waiting import until

A, B = BackendSpec(id="a", url="http://a"), BackendSpec(id="b", url="http://b")


class Addresses:
    """A resolver that knows what it is told; None: it fails."""

    def __init__(self) -> None:
        self.found: list[str] | None = []

    async def addresses(self, name: str) -> list[str]:
        if self.found is None:
            raise OSError(f"{name} is unknown")
        return self.found


class World:
    """A gateway's routing with the backend `a` in its settings."""

    def __init__(self, redis: Redis, **settings: object) -> None:
        self.pool = Pool("a", dns_name="engines", dns_refresh_s=0.001, document_refresh_s=0.05, **settings)
        self.resolver = Addresses()
        self.redis = redis
        self.directory = Directory(
            self.pool.router.snapshot,
            self.pool.router,
            routing_document(redis, 1.0),
            resolver=self.resolver,
            settings=self.pool.settings,
            meters=self.pool.meters,
        )

    @property
    def ids(self) -> list[str]:
        return [member.spec.id for member in self.pool.router]

    @property
    def draining(self) -> list[str]:
        return [member.spec.id for member in self.pool.router if member.spec.draining]


@pytest.fixture
def world(redis: Redis) -> World:
    return World(redis)


def test_models_are_served_by_the_triton_model_of_their_task() -> None:
    routes = default_routes([Model("chatty", "generate", 9, 0), Model("vec", "embed", 9, 0, 4)])
    assert [(route.name, route.arms[0].triton_model) for route in routes] == [
        ("chatty", "chat"),
        ("vec", "embed"),
        ("plan", "plan"),
    ]


def test_the_one_triton_server_is_the_backend_unless_others_are_named_or_looked_up() -> None:
    (only,) = configured(RoutingSettings(), "http://t:8000")
    assert (only.id, only.url) == ("triton", "http://t:8000")
    assert configured(RoutingSettings(backends=[A, B], dns_name="engines"), "http://t") == (A, B)
    assert configured(RoutingSettings(dns_name="engines"), "http://t") == ()


def test_what_comes_later_replaces_what_has_the_same_id_or_name() -> None:
    base = RoutingSnapshot(backends=(A,), models=(ModelRoute(name="m", arms=(Arm(name="x"),)),))
    other = BackendSpec(id="a", url="http://other")
    route = ModelRoute(name="m", arms=(Arm(name="y"),), aliases=("n",))
    merged = merge(base, (B,), RoutingSnapshot(version=4, backends=(other,), models=(route,), drained=("b", "gone")))
    assert merged.version == 4
    assert {spec.id: (spec.url, spec.draining) for spec in merged.backends} == {
        "a": ("http://other", False),
        "b": ("http://b", True),
    }
    assert merged.models == (route,)
    assert merge(base, (), RoutingSnapshot()) == base


def test_addresses_become_backends_of_both_kinds() -> None:
    snapshot = RoutingSnapshot(backends=discovered(["10.0.0.7", "fd00::7"], 8000))
    assert [spec.url for spec in snapshot.backends] == ["http://10.0.0.7:8000", "http://[fd00::7]:8000"]
    assert snapshot.validate() == []


def test_metrics_pages_are_at_the_same_addresses_where_their_port_is_told() -> None:
    assert [one.metrics_url for one in discovered(["10.0.0.1"], 8000)] == [None]
    urls = [one.metrics_url for one in discovered(["10.0.0.1", "fe80::1"], 8000, 8002)]
    assert urls == ["http://10.0.0.1:8002/metrics", "http://[fe80::1]:8002/metrics"]
    (only,) = configured(RoutingSettings(), "http://t:8000", "http://t:8002/metrics")
    assert only.metrics_url == "http://t:8002/metrics"


async def test_the_systems_resolver_finds_this_machine() -> None:
    assert "127.0.0.1" in await SystemResolver().addresses("localhost")


async def test_backends_come_and_go_with_their_addresses_and_stay_when_nobody_knows(world: World) -> None:
    for addresses, ids in (
        (["10.0.0.1", "10.0.0.2"], ["a", "dns-10.0.0.1-8000", "dns-10.0.0.2-8000"]),
        (["10.0.0.2"], ["a", "dns-10.0.0.2-8000"]),
    ):
        world.resolver.found = addresses
        await world.directory.discover()
        assert world.ids == ids
    world.resolver.found = None
    with pytest.raises(Unavailable, match="engines"):
        await world.directory.discover()
    assert world.ids == ["a", "dns-10.0.0.2-8000"]
    assert world.pool.sample("routing_refused_total", source="dns") == 1


async def test_a_backend_is_added_and_removed_for_all_gateways(world: World, redis: Redis) -> None:
    other, tasks = World(redis), Tasks()
    tasks.keep("follow", other.directory.follow)
    await world.directory.add(B)
    assert world.ids == ["a", "b"]
    await until(lambda: other.ids == ["a", "b"])
    assert world.pool.sample("routing_version") == other.pool.sample("routing_version") == 1
    await other.directory.remove("b")
    assert other.ids == ["a"]
    await world.directory.drain("a", draining=True)
    assert (world.ids, world.draining) == (["a"], ["a"])
    await until(lambda: other.draining == ["a"])
    await other.directory.drain("a", draining=False)
    assert other.draining == []
    await tasks.close(1)


async def test_changes_at_the_same_time_are_all_made(world: World, redis: Redis) -> None:
    worlds = [World(redis) for _ in range(4)]
    specs = [BackendSpec(id=f"n{number}", url=f"http://n{number}") for number in range(4)]
    await asyncio.gather(*(one.directory.add(spec) for one, spec in zip(worlds, specs, strict=True)))
    await world.directory.drain("n0", draining=True)
    assert set(world.ids) == {"a", "n0", "n1", "n2", "n3"}
    assert world.pool.router.snapshot.version == 5


async def test_what_does_not_fit_is_refused_and_changes_nothing(world: World, redis: Redis) -> None:
    with pytest.raises(Conflict):
        await world.directory.add(BackendSpec(id="a", url="http://x"))
    with pytest.raises(InvalidRequest, match="http://host:port"):
        await world.directory.add(BackendSpec(id="c", url="nowhere"))
    with pytest.raises(Conflict, match="drain it instead"):
        await world.directory.remove("a")
    with pytest.raises(NotFound):
        await world.directory.remove("nobody")
    with pytest.raises(NotFound):
        await world.directory.drain("nobody", draining=True)
    assert await redis.get(KEY) is None
    assert world.ids == ["a"]


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b'{"version": 2, "backends": [{"id": "x", "url": "nowhere"}]}',
        b'{"version": 2, "models": [{"name": "m"}]}',
    ],
)
async def test_a_document_that_makes_no_sense_is_refused_and_the_last_good_one_goes_on(
    world: World, redis: Redis, document: bytes
) -> None:
    await world.directory.add(B)
    tasks = Tasks()
    tasks.keep("follow", world.directory.follow)
    await redis.set(KEY, document)
    await redis.publish(CHANGED, "2")
    await until(lambda: world.pool.sample("routing_refused_total", source="document"))
    assert world.ids == ["a", "b"]
    assert world.pool.sample("routing_version") == 1
    await tasks.close(1)


async def test_a_change_that_nobody_announced_is_found_by_reading_again(world: World, redis: Redis) -> None:
    tasks = Tasks()
    tasks.keep("follow", world.directory.follow)
    await redis.set(KEY, b'{"version": 9, "backends": [{"id": "z", "url": "http://z"}]}')
    await until(lambda: world.ids == ["a", "z"])
    await tasks.close(1)


async def test_what_valkey_lost_goes_on_and_is_written_back(world: World, redis: Redis) -> None:
    await world.directory.add(B)
    await world.directory.drain("b", draining=True)
    await redis.delete(KEY)
    tasks = Tasks()
    tasks.keep("follow", world.directory.follow)
    async with asyncio.timeout(2):
        while b'"http://b"' not in (await redis.get(KEY) or b""):  # noqa: ASYNC110 - Valkey carries no events for tests
            await asyncio.sleep(0)
    assert (world.ids, world.draining) == (["a", "b"], ["b"])
    await tasks.close(1)


async def test_without_valkey_changes_are_refused_and_routing_goes_on() -> None:
    async with Redis.from_url("redis://127.0.0.1:1/0") as nobody:
        world = World(nobody)
        with pytest.raises(Unavailable):
            await world.directory.add(B)
        with pytest.raises(Unavailable):
            await world.directory.follow()
        assert world.ids == ["a"]


async def test_only_the_version_that_was_read_can_be_replaced(redis: Redis) -> None:
    document = routing_document(redis, 1.0)
    assert await document.read() is None
    assert await document.replace(0, RoutingSnapshot(version=1))
    assert not await document.replace(0, RoutingSnapshot(version=1, backends=(A,)))
    assert await document.replace(1, RoutingSnapshot(version=2, backends=(A,)))
    assert b'"http://a"' in (await document.read() or b"")
