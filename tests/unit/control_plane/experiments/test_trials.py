"""Experiments and mirrorings from their beginning to their end, in a real Valkey."""

import asyncio

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from control_plane import records
from control_plane.arms import with_arm, without_arm
from control_plane.errors import NotFound, NotPossible, Raced
from control_plane.experiments.commands import TrialCommands
from control_plane.experiments.evidence import Evidence, Pairs
from control_plane.experiments.ledger import read_event
from control_plane.experiments.observer import LINGER_S, Observer
from control_plane.experiments.page import section
from control_plane.experiments.state import Experiment
from control_plane.experiments.store import EVIDENCE, TrialStore
from control_plane.lease import LEASE, Lease
from control_plane.ledger import Ledger
from control_plane.metrics import Meters
from control_plane.rollouts.commands import Commands
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import Arm, ModelRoute, RoutingSnapshot
from tests.unit.control_plane.experiments.making import experiment, mirroring
from tests.unit.control_plane.making import NEW, QUICK, entry, write

START = 1000.0
NEW_ARM = Arm(name="b", group="canary")


class Stage:
    """One Valkey with a model of two arms, and control planes that come and go."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.now, self.written = redis, START, 0
        self.store, self.routing = TrialStore(redis), RoutingDocument(redis)
        self.commands = TrialCommands(self.store, self.routing, "ann")
        self.meters = Meters()

    async def prepare(self) -> None:
        await self.routing.change(lambda document: with_arm(document, "boats", NEW_ARM))

    async def observer(self, owner: str = "a") -> Observer:
        lease = Lease(self.redis, owner, 30.0)
        assert await lease.hold()
        return Observer(
            self.store,
            Ledger(self.redis, read_event),
            self.routing,
            lease=lease,
            meters=self.meters,
            clock=lambda: self.now,
        )

    async def start(self, **arms: int) -> Experiment:
        weights = arms or {"stable": 90, "b": 10}
        return await self.commands.experiment("boats", weights, "session", self.now, planned=1000, confidence=0.95)

    async def traffic(self, identifier: str, **requests: int) -> None:
        """Ten seconds pass, and so many requests of each arm end."""
        self.now += 10.0
        entries = [
            entry(arm, at=self.now, experiment=identifier, unit=f"{arm}{number}")
            for arm, times in requests.items()
            for number in range(times)
        ]
        await write(self.redis, *entries, since=int(self.now * 1000) + self.written)
        self.written += len(entries)

    async def route(self) -> ModelRoute:
        (route,) = (await self.routing.read()).models
        return route

    async def weights(self) -> dict[str, int]:
        return {arm.name: arm.weight for arm in (await self.route()).arms}

    async def counted(self, trial: Experiment) -> dict[str, float]:
        evidence = await self.store.evidence(trial)
        assert isinstance(evidence, Evidence)
        return {name: sum(arm.tally("errors").counts.values()) for name, arm in evidence.arms.items()}


@pytest.fixture
async def stage(redis: Redis) -> Stage:
    one = Stage(redis)
    await one.prepare()
    return one


async def test_an_experiment_divides_the_calls_and_gives_the_weights_back(stage: Stage) -> None:
    assert await stage.weights() == {"stable": 1, "b": 0}
    one = await stage.start()
    route = await stage.route()
    assert await stage.weights() == {"stable": 90, "b": 10}
    assert route.division is not None
    assert (route.division.experiment, route.division.by) == (one.id, "session")
    stopped = await stage.commands.stop(one.id, stage.now)
    assert (stopped.settled, await stage.weights()) == (True, {"stable": 1, "b": 0})
    assert (await stage.route()).division is None
    with pytest.raises(NotPossible, match="is over already"):
        await stage.commands.stop(one.id, stage.now)


async def test_arms_that_were_added_meanwhile_stay(stage: Stage) -> None:
    one = await stage.start()
    await stage.routing.change(lambda document: with_arm(document, "boats", Arm(name="c", version="7")))
    await stage.commands.stop(one.id, stage.now)
    assert await stage.weights() == {"stable": 1, "b": 0, "c": 0}


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ({"stable": 50, "z": 50}, r"there is no arm 'z' of boats; there are: stable, b; trireme arms add makes one"),
        ({"stable": 100}, "at least two arms"),
    ],
    ids=["unknown", "one"],
)
async def test_what_is_not_possible_changes_nothing(stage: Stage, arms: dict[str, int], says: str) -> None:
    with pytest.raises(NotPossible, match=says):
        await stage.start(**arms)
    assert (await stage.weights(), await stage.store.all()) == ({"stable": 1, "b": 0}, [])


async def test_a_rollout_and_an_experiment_exclude_each_other(stage: Stage) -> None:
    one = await stage.start()
    rollouts = Commands(Store(stage.redis), stage.routing, "ann")
    with pytest.raises(NotPossible):
        await rollouts.start("boats", NEW, QUICK, stage.now)
    await stage.commands.stop(one.id, stage.now)
    other = await rollouts.start("boats", NEW, QUICK, stage.now)
    with pytest.raises(NotPossible, match="a rollout of boats is under way"):
        await stage.start()
    await rollouts.abort(other.id, stage.now)


async def test_a_rollout_that_begins_in_the_same_moment_is_refused_by_its_record(redis: Redis) -> None:
    """What the routing document said before is not enough."""
    await TrialStore(redis).create(experiment())
    with pytest.raises(NotPossible, match="an experiment divides boats: stop it first"):
        await Commands(Store(redis), RoutingDocument(redis), "ann").start("boats", NEW, QUICK, 1000.0)


async def test_a_rollout_leaves_a_mirroring_alone(stage: Stage) -> None:
    await stage.routing.change(lambda document: without_arm(document, "boats", "b"))
    one = await stage.commands.mirror("boats", NEW_ARM, 0.5, stage.now)
    rollouts = Commands(Store(stage.redis), stage.routing, "ann")
    other = await rollouts.start("boats", NEW, QUICK, stage.now)
    await rollouts.abort(other.id, stage.now)
    mirror = (await stage.route()).mirror
    assert mirror is not None
    assert mirror.id == one.id


async def test_one_of_each_kind_and_model_at_a_time(stage: Stage) -> None:
    both = await asyncio.gather(stage.start(), stage.start(), return_exceptions=True)
    assert sorted(type(one).__name__ for one in both) == ["Experiment", "NotPossible"]
    await stage.commands.mirror("boats", NEW_ARM, 0.5, stage.now)
    with pytest.raises(NotPossible, match="another mirroring of boats is under way"):
        await stage.commands.mirror("boats", NEW_ARM, 0.5, stage.now)


async def test_requests_are_counted_once_whoever_reads_them(stage: Stage) -> None:
    one = await stage.start()
    first = await stage.observer("a")
    await first.round(leading=True)
    await stage.traffic(one.id, stable=90, b=10)
    await first.round(leading=True)
    await stage.traffic(one.id, stable=9, b=1)
    await stage.redis.delete(LEASE)
    second = await stage.observer("b")
    await second.round(leading=True)
    assert await stage.counted(one) == {"stable": 99, "b": 11}
    stage.now += 10
    with pytest.raises(Raced):
        await first.round(leading=True)
    await second.round(leading=True)
    assert await stage.counted(one) == {"stable": 99, "b": 11}


async def test_what_ends_after_the_experiment_still_counts_for_a_while(stage: Stage) -> None:
    one = await stage.start()
    observer = await stage.observer()
    await observer.round(leading=True)
    await stage.commands.stop(one.id, stage.now)
    await stage.traffic(one.id, stable=5)
    await observer.round(leading=True)
    assert await stage.counted(one) == {"stable": 5}
    stage.now += LINGER_S
    await stage.traffic(one.id, stable=5)
    await observer.round(leading=True)
    assert await stage.counted(one) == {"stable": 5}


async def test_who_does_not_lead_counts_nothing(stage: Stage) -> None:
    one = await stage.start()
    observer = await stage.observer()
    await stage.traffic(one.id, stable=5)
    await observer.round(leading=False)
    assert await stage.counted(one) == {}
    assert [trial.id for trial in observer.trials] == [one.id]


async def test_an_experiment_that_begins_later_does_not_read_all_that_was_before(stage: Stage) -> None:
    one = await stage.start()
    observer = await stage.observer()
    await observer.round(leading=True)
    await stage.commands.stop(one.id, stage.now)
    stage.now += LINGER_S
    await observer.round(leading=True)
    await stage.traffic("ex_other", stable=50)
    stage.now += 100
    other = await stage.start()
    await stage.traffic(other.id, stable=3, b=2)
    await (await stage.observer()).round(leading=True)
    assert await stage.counted(other) == {"stable": 3, "b": 2}


async def test_weights_that_somebody_changed_are_put_right(stage: Stage) -> None:
    await stage.start()

    def equal(document: RoutingSnapshot) -> RoutingSnapshot:
        (route,) = document.models
        return replace(document, models=(replace(route, arms=tuple(replace(arm, weight=1) for arm in route.arms)),))

    await stage.routing.change(equal)
    await (await stage.observer()).round(leading=True)
    assert await stage.weights() == {"stable": 90, "b": 10}


async def test_copies_are_counted_for_their_mirroring(stage: Stage) -> None:
    one = await stage.commands.mirror("boats", NEW_ARM, 0.5, stage.now, exclude=("ajax",))
    route = await stage.route()
    assert route.mirror is not None
    assert (route.mirror.arm, route.mirror.exclude) == (NEW_ARM, ("ajax",))
    pace = {"first_token_ms": 10.0, "tokens": 3}
    mirrored = {"mirror": one.id, "of": "u", "arm": "a", "original": pace, "copy": pace, "same": True}
    await write(stage.redis, entry("b", at=1001.0, kind="mirror", mirrored=mirrored), since=1_001_000)
    observer = await stage.observer()
    await observer.round(leading=True)
    pairs = await stage.store.evidence(one)
    assert isinstance(pairs, Pairs)
    assert (pairs.copies, pairs.original_tokens, list(pairs.same.counts.values())) == (1, 3, [1.0])
    assert "copies of 50% for b" in section(one, observer.known(one))
    assert b'trireme_experiments{kind="mirroring"} 1.0' in stage.meters.render()
    await stage.commands.stop(one.id, stage.now)
    assert (await stage.route()).mirror is None


async def test_only_arms_that_serve_nobody_can_be_removed(stage: Stage) -> None:
    document = await stage.routing.read()
    with pytest.raises(NotPossible, match="an arm 'b' of boats already"):
        with_arm(document, "boats", NEW_ARM)
    with pytest.raises(NotPossible, match="serves calls"):
        without_arm(document, "boats", "stable")
    with pytest.raises(NotFound, match="no arm 'z'"):
        without_arm(document, "boats", "z")
    (route,) = without_arm(document, "boats", "b").models
    assert [arm.name for arm in route.arms] == ["stable"]


async def test_a_model_that_is_not_in_the_document_keeps_what_it_has(redis: Redis) -> None:
    document = with_arm(RoutingSnapshot(), "vectors", Arm(name="b", group="canary", triton_model="embed"))
    assert [(arm.triton_model, arm.weight) for arm in document.models[0].arms] == [("embed", 1), ("embed", 0)]
    document = with_arm(RoutingSnapshot(), "boats", Arm(name="b", triton_model="chat_b"))
    assert [arm.triton_model for arm in document.models[0].arms] == ["chat", "chat_b"]


async def test_only_so_many_old_ones_are_kept_with_their_evidence(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "KEPT", 1)
    trials = TrialStore(redis)
    await Lease(redis, "a", 30.0).hold()
    for number in range(3):
        one = replace(mirroring(f"mi_{number}", now=float(number)), settled=True, ended_at=1.0)
        await trials.create(one)
        await trials.save("1-1", {one.id: Pairs()}, "a")
    await trials.create(mirroring("mi_3", now=9.0))
    assert [one.id for one in await trials.all()] == ["mi_3", "mi_2"]
    assert set(await redis.hkeys(EVIDENCE)) == {b"position", b"mi_2"}  # type: ignore[misc]


async def test_what_cannot_be_read_is_left_out(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    trials, one = TrialStore(redis), experiment()
    await trials.create(one)
    await redis.hset(records.TRIALS, "bad", "{}")  # type: ignore[misc]
    await redis.hset(EVIDENCE, one.id, "[]")  # type: ignore[misc]
    assert await trials.all() == [one]
    assert await trials.evidence(one) == Evidence()
    with pytest.raises(NotPossible, match="bad cannot be read"):
        await trials.get("bad")
    with pytest.raises(NotFound, match="no experiment or mirroring 'ex_9'"):
        await trials.get("ex_9")


def test_all_keys_of_one_script_lie_in_one_slot() -> None:
    assert all("{control}" in key for key in (records.TRIALS, EVIDENCE, records.ROLLOUTS, LEASE))


def test_the_page_quotes_what_people_wrote() -> None:
    text = section(experiment(model="<script>", arms={"<b>": 1, "c": 1}), Evidence())
    assert "&lt;script&gt;: &lt;b&gt; 1, c 1" in text
    assert "<script>" not in text
