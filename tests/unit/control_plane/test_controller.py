"""Rounds of work over a real Valkey."""

from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane import routing
from control_plane.errors import Raced
from control_plane.lease import LEASE, Lease
from control_plane.ledger import Ledger
from control_plane.metrics import Meters
from control_plane.rollouts.commands import Commands
from control_plane.rollouts.controller import Controller
from control_plane.rollouts.evidence import Sample
from control_plane.rollouts.ledger import read_event
from control_plane.rollouts.state import Rollout, Rules
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from tests.unit.control_plane.making import NEW, QUICK, entry, write

START = 1000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Stage:
    """One Valkey, and control planes that come and go."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.store = Store(redis)
        self.routing = RoutingDocument(redis)
        self.commands = Commands(self.store, self.routing, "ann")
        self.clock = Clock()
        self.written = 0

    def controller(self, owner: str = "a", reader: Ledger[Sample] | None = None) -> Controller:
        lease = Lease(self.redis, owner, 30.0)
        return Controller(
            self.store,
            reader or Ledger(self.redis, read_event),
            self.routing,
            lease=lease,
            meters=Meters(),
            clock=self.clock,
        )

    async def start(self, rules: Rules = QUICK) -> Rollout:
        return await self.commands.start("boats", NEW, rules, self.clock())

    async def traffic(self, canary: int, stable: int, canary_errors: int = 0) -> None:
        """Ten seconds pass, and so many requests end."""
        self.clock.now += 10.0
        entries = [entry("stable", at=self.clock.now) for _ in range(stable)]
        for number in range(canary):
            outcome = "failed" if number < canary_errors else "ok"
            entries.append(entry("new", at=self.clock.now, outcome=outcome))
        await write(self.redis, *entries, since=int(self.clock.now * 1000) + self.written)
        self.written += len(entries)

    async def weights(self) -> dict[str, int]:
        document = await self.routing.read()
        return {arm.name: arm.weight for route in document.models for arm in route.arms}


@pytest.fixture
def stage(redis: Redis) -> Stage:
    return Stage(redis)


async def test_a_good_version_goes_all_the_way(stage: Stage) -> None:
    one, controller = await stage.start(), stage.controller()
    await controller.round()
    seen = [await stage.weights()]
    for _ in range(4):
        await stage.traffic(200, 400)
        await controller.round()
        seen.append(await stage.weights())
    assert [weights["new"] for weights in seen] == [1, 5, 25, 50, 1]
    assert seen[-1] == {"new": 1}
    ended = await stage.store.get(one.id)
    assert (ended.status, ended.settled) == ("promoted", True)
    assert [decision.action for decision in ended.history] == ["start", *["advance"] * 3, "promote"]


async def test_a_bad_version_goes_back_with_its_numbers_on_record(stage: Stage) -> None:
    one, controller = await stage.start(), stage.controller()
    await controller.round()
    await stage.traffic(200, 400, canary_errors=60)
    await controller.round()
    assert await stage.weights() == {"stable": 1}
    ended = await stage.store.get(one.id)
    assert (ended.status, ended.settled) == ("rolled_back", True)
    errors = ended.history[-1].comparisons[0]
    assert (errors.canary, errors.canary_samples, errors.stable_samples) == (0.3, 200, 400)
    assert errors.harm < errors.harm_below


async def test_an_ended_rollout_lets_go_of_routing(stage: Stage) -> None:
    one, controller = await stage.start(), stage.controller()
    await controller.round()
    await stage.commands.abort(one.id, stage.clock())
    await stage.redis.delete(routing.KEY)
    await controller.round()
    assert await stage.weights() == {}


async def test_weights_that_somebody_changed_are_put_right(stage: Stage) -> None:
    await stage.start()
    controller = stage.controller()
    await controller.round()
    await stage.redis.delete(routing.KEY)
    await controller.round()
    assert await stage.weights() == {"new": 1, "stable": 99}


async def test_a_paused_rollout_stays_and_its_samples_count_when_it_goes_on(stage: Stage) -> None:
    one, controller = await stage.start(), stage.controller()
    await controller.round()
    await stage.commands.pause(one.id, stage.clock())
    await stage.traffic(200, 400)
    await controller.round()
    assert await stage.weights() == {"new": 1, "stable": 99}
    await stage.commands.resume(one.id, stage.clock())
    await controller.round()
    assert await stage.weights() == {"new": 5, "stable": 95}


async def test_after_a_restart_every_entry_counts_once(stage: Stage) -> None:
    one = await stage.start(Rules(min_samples=150, min_step_s=0.0, first_look=300))
    first = stage.controller()
    await first.round()
    await stage.traffic(100, 400)
    await first.round()
    await stage.redis.delete(LEASE)
    second = stage.controller("b")
    await second.round()
    assert (await stage.store.get(one.id)).history[1:] == ()  # with the same 100 again there would be enough
    await stage.traffic(100, 400)
    await second.round()
    (decision,) = (await stage.store.get(one.id)).history[1:]
    assert (decision.action, decision.comparisons[0].canary_samples) == ("advance", 200)


async def test_what_was_not_saved_before_a_crash_is_read_again(stage: Stage) -> None:
    one = await stage.start(Rules(min_samples=100, min_step_s=1e6, first_look=100))
    first = stage.controller()
    await first.round()
    stage.clock.now += 6.0
    await first.round()
    await write(stage.redis, *[entry("new", at=stage.clock())] * 60, since=int(stage.clock() * 1000) + 1)
    await first.round()  # read, and not saved yet
    await stage.redis.delete(LEASE)
    stage.written = 60
    await stage.traffic(60, 400)
    await stage.controller("b").round()
    (decision,) = (await stage.store.get(one.id)).history[1:]
    assert decision.comparisons[0].canary_samples == 120


async def test_a_round_that_fails_while_reading_counts_nothing_twice(stage: Stage) -> None:
    class Failing(Ledger[Sample]):
        fails = False

        async def read(self, position: str) -> tuple[str, list[object], int]:  # type: ignore[override]
            answer = await super().read(position)
            if self.fails and not answer[2]:
                raise RedisError
            return answer  # type: ignore[return-value]

    one = await stage.start(Rules(min_samples=100, min_step_s=1e6, first_look=100))
    reader = Failing(stage.redis, read_event)
    controller = stage.controller(reader=reader)
    await controller.round()
    await stage.traffic(500, 600)  # more than one batch
    reader.fails = True
    await stage.traffic(0, 900)
    with pytest.raises(RedisError):
        await controller.round()
    reader.fails = False
    await controller.round()
    (decision,) = (await stage.store.get(one.id)).history[1:]
    assert (decision.comparisons[0].canary_samples, decision.comparisons[0].stable_samples) == (500, 1500)


async def test_only_one_of_two_acts_and_the_other_takes_over(stage: Stage) -> None:
    first, second = stage.controller("a"), stage.controller("b")
    await first.round()
    await stage.start()
    await second.round()
    assert (first.leading, second.leading) == (True, False)
    assert await stage.weights() == {}
    assert [one.status for one in second.rollouts] == ["running"]  # it shows them all the same
    await stage.redis.delete(LEASE)
    await second.round()
    await first.round()
    assert (first.leading, second.leading) == (False, True)
    assert await stage.weights() == {"new": 1, "stable": 99}


async def test_who_loses_the_lease_in_the_middle_of_a_round_decides_nothing(stage: Stage) -> None:
    class Stolen(Ledger[Sample]):
        async def read(self, position: str):  # type: ignore[no-untyped-def]
            await stage.redis.set(LEASE, "thief")
            return await super().read(position)

    one = await stage.start()
    await stage.controller().round()
    await stage.traffic(200, 400)
    with pytest.raises(Raced, match="lease"):
        await stage.controller(reader=Stolen(stage.redis, read_event)).round()
    assert (await stage.store.get(one.id)).revision == 1
    assert await stage.weights() == {"new": 1, "stable": 99}


async def test_a_command_in_between_wins(stage: Stage) -> None:
    """The record changed while it was being decided: the next round looks at it anew."""

    class Late(Ledger[Sample]):
        async def read(self, position: str):  # type: ignore[no-untyped-def]
            await abort()
            return await super().read(position)

    one = await stage.start()

    async def abort() -> None:
        if (await stage.store.get(one.id)).status == "running":
            await stage.commands.abort(one.id, stage.clock())

    await stage.controller().round()
    await stage.traffic(200, 400)
    late = stage.controller(reader=Late(stage.redis, read_event))
    await late.round()
    await late.round()
    assert (await stage.store.get(one.id)).status == "aborted"
    assert await stage.weights() == {"stable": 1}


async def test_one_rollout_that_cannot_go_on_does_not_hold_up_the_status(stage: Stage) -> None:
    one, controller = await stage.start(), stage.controller()
    await stage.redis.set(routing.KEY, "{")
    await controller.round()
    assert [(found.id, found.share) for found in controller.rollouts] == [(one.id, 1)]
    await stage.redis.delete(routing.KEY)
    await controller.round()
    assert await stage.weights() == {"new": 1, "stable": 99}


def sample(meters: Meters) -> Callable[..., float | None]:
    return lambda name, **labels: meters.registry.get_sample_value(name, labels)


async def test_the_metrics_say_what_is_going_on(stage: Stage) -> None:
    meters = Meters()
    lease = Lease(stage.redis, "a", 30.0)
    controller = Controller(
        stage.store, Ledger(stage.redis, read_event), stage.routing, lease=lease, meters=meters, clock=stage.clock
    )
    read = sample(meters)
    one = await stage.start()
    await controller.round()
    await stage.traffic(200, 400)
    await controller.round()
    assert read("trireme_control_leader") == 1
    assert read("trireme_control_entries_total") == 600
    assert read("trireme_rollouts", status="running") == 1
    assert read("trireme_rollout_share", model="boats") == 0.05
    assert read("trireme_rollout_decisions_total", model="boats", action="advance") == 1
    await stage.commands.abort(one.id, stage.clock())
    await controller.round()
    assert read("trireme_rollouts", status="aborted") == 1
    assert read("trireme_rollout_share", model="boats") is None
