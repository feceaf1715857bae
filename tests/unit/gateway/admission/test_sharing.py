"""Gateways that tell each other what they served."""

from redis.asyncio import Redis

from gateway.admission.line import Ticket
from gateway.admission.meeting import KEY, ValkeyCounters
from gateway.admission.scheduler import Scheduler
from gateway.admission.settings import AdmissionSettings
from gateway.admission.sharing import Served, Sharing, increments
from gateway.telemetry.metrics import Metrics
from gateway.valkey.connection import Valkey, ValkeySettings
from gateway.valkey.wire import Wire


class Board:
    """Totals in memory."""

    def __init__(self) -> None:
        self.totals: dict[str, Served] = {}
        self.away = False

    async def publish(self, gateway: str, served: Served) -> None:
        if not self.away:
            self.totals[gateway] = served

    async def read(self) -> dict[str, Served]:
        return {} if self.away else dict(self.totals)


class Gateway:
    """A scheduler with one place, on which everybody takes ten tokens at a time."""

    def __init__(self, name: str, board: Board) -> None:
        self.scheduler = Scheduler(AdmissionSettings(max_running=1, max_queued=10_000))
        self.sharing = Sharing(self.scheduler, board, 0.25, name)
        self.turns: list[str] = []
        self._running = self._arrive("nobody")

    def ask(self, tenant: str, times: int) -> None:
        for _ in range(times):
            self._arrive(tenant)

    def serve(self, times: int) -> None:
        for _ in range(times):
            self.scheduler.finish(self._running, 0.0, prompt=10)
            (self._running,) = self.scheduler.dispatch(0.0)
            self.turns.append(self._running.tenant)

    def _arrive(self, tenant: str) -> Ticket:
        ticket = Ticket("standard", tenant, 10, 0, 600.0)
        self.scheduler.arrive(ticket, 0.0)
        return ticket


async def test_a_tenant_that_asks_two_gateways_gets_its_share_of_both_together() -> None:
    board = Board()
    here, there = Gateway("here", board), Gateway("there", board)
    here.ask("everywhere", 400)
    here.ask("local", 400)
    there.ask("everywhere", 400)
    for _ in range(20):
        for gateway in (here, there):
            await gateway.sharing.exchange()
            gateway.serve(10)
    assert there.turns.count("everywhere") == 200
    assert here.turns.count("local") >= 190


async def test_without_exchange_each_gateway_is_fair_on_its_own_and_totals_catch_up() -> None:
    board = Board()
    here, there = Gateway("here", board), Gateway("there", board)
    here.ask("everywhere", 400)
    here.ask("local", 400)
    there.ask("everywhere", 400)
    await there.sharing.exchange()
    await here.sharing.exchange()
    board.away = True
    for _ in range(10):
        for gateway in (here, there):
            await gateway.sharing.exchange()
            gateway.serve(10)
    assert here.turns.count("local") == 50
    board.away = False
    await there.sharing.exchange()
    await here.sharing.exchange()
    here.serve(90)
    assert here.turns[100:].count("local") >= 88


async def test_the_past_of_a_gateway_that_is_new_to_us_does_not_count() -> None:
    board = Board()
    board.totals["old"] = {"standard": {"t": 1e9}}
    here = Gateway("here", board)
    here.ask("t", 2)
    await here.sharing.exchange()
    account = here.scheduler.lines["standard"].counters.find("t")
    assert account is not None
    assert account.counter < 100
    board.totals["old"] = {"standard": {"t": 1e9 + 70, "new": 5.0}}
    before = account.counter
    await here.sharing.exchange()
    await here.sharing.exchange()
    assert account.counter == before + 70
    assert board.totals["here"]["standard"]["nobody"] == 10.0


def test_increments_are_what_was_added_or_taken_back() -> None:
    assert increments({"a": 5.0, "b": 7.0, "c": 1.0}, {"a": 9.0, "b": 6.0, "c": 1.0, "d": 2.0}) == {
        "a": 4.0,
        "b": -1.0,
        "d": 2.0,
    }


async def test_gateways_meet_in_valkey_and_those_that_are_gone_are_forgotten(valkey_url: str) -> None:
    async with Redis.from_url(valkey_url) as redis:
        await redis.delete(KEY)
        wire = Wire.to(valkey_url)
        valkey = Valkey(wire, ValkeySettings(call_timeout_s=2.0), Metrics().valkey_degraded)
        counters = ValkeyCounters(valkey)
        await counters.publish("here", {"batch": {'tenant "é"': 12.5}})
        await redis.hset(KEY, "gone", '1000 {"batch":{}}')
        assert await counters.read() == {"here": {"batch": {'tenant "é"': 12.5}}}
        assert await redis.hkeys(KEY) == [b"here"]
        wire.drop()


async def test_while_valkey_is_away_nothing_is_read_and_nothing_fails() -> None:
    wire = Wire.to("redis://127.0.0.1:1/0")
    counters = ValkeyCounters(Valkey(wire, ValkeySettings(), Metrics().valkey_degraded))
    await counters.publish("here", {})
    assert await counters.read() == {}
