"""The lease, the records, the ledger and the routing document in a real Valkey."""

import asyncio
import json
from random import Random

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from control_plane import records
from control_plane.errors import NotFound, NotPossible, Raced
from control_plane.lease import LEASE, Lease
from control_plane.ledger import STREAM, Ledger, position_at
from control_plane.rollouts import state
from control_plane.rollouts.commands import Commands
from control_plane.rollouts.evidence import Evidence, Sample
from control_plane.rollouts.ledger import read_entry, read_event
from control_plane.rollouts.store import CHECKPOINT, Checkpoint, Store
from control_plane.routing import RoutingDocument
from gateway.accounting import stream
from gateway.core import document
from gateway.core.snapshot import Arm, RoutingSnapshot, decode_snapshot
from tests.unit.control_plane.making import NEW, QUICK, entry, rollout, write


def test_the_ledger_is_read_where_gateways_write_it() -> None:
    assert STREAM == stream.STREAM


def test_all_keys_of_one_script_lie_in_one_slot() -> None:
    assert all("{control}" in key for key in (LEASE, records.ROLLOUTS, CHECKPOINT))


async def test_one_holds_the_lease_until_it_gives_it_back(redis: Redis) -> None:
    first, second = Lease(redis, "a", 30.0), Lease(redis, "b", 30.0)
    assert [await first.hold(), await second.hold(), await first.hold()] == [True, False, True]
    await second.release()
    assert not await second.hold()
    await first.release()
    assert await second.hold()
    assert 29_000 < await redis.pttl(LEASE) <= 30_000


async def test_a_record_is_replaced_only_by_who_has_seen_it(redis: Redis) -> None:
    rollouts, one = Store(redis), rollout()
    await rollouts.create(one)
    paused = state.pause(one, "ann", 1.0)
    await rollouts.replace(one, paused)
    with pytest.raises(Raced, match="changed by somebody else"):
        await rollouts.replace(one, state.abort(one, "bob", 1.0))
    assert await rollouts.get("ro_1") == paused
    with pytest.raises(NotFound, match="no rollout 'ro_2'"):
        await rollouts.get("ro_2")


async def test_who_has_lost_the_lease_writes_nothing(redis: Redis) -> None:
    rollouts, one = Store(redis), rollout()
    await rollouts.create(one)
    await Lease(redis, "b", 30.0).hold()
    with pytest.raises(Raced, match="lease"):
        await rollouts.replace(one, state.settle(one), owner="a")
    with pytest.raises(Raced, match="lease"):
        await rollouts.save(Checkpoint(position="1-1"), owner="a")
    assert await rollouts.checkpoint() is None
    await rollouts.replace(one, state.settle(one), owner="b")


async def test_one_rollout_of_a_model_at_a_time(redis: Redis) -> None:
    rollouts, one = Store(redis), rollout()
    await rollouts.create(one)
    with pytest.raises(NotPossible, match="another rollout of boats is under way"):
        await rollouts.create(rollout(identifier="ro_2"))
    await rollouts.create(rollout(identifier="ro_3", model="ships"))
    aborted = state.abort(one, "ann", 1.0)
    await rollouts.replace(one, aborted)
    with pytest.raises(NotPossible):  # routing does not know yet
        await rollouts.create(rollout(identifier="ro_2"))
    await rollouts.replace(aborted, state.settle(aborted))
    await rollouts.create(rollout(identifier="ro_2", now=2000.0))
    assert [found.id for found in await rollouts.all()] == ["ro_2", "ro_1", "ro_3"]


async def test_only_so_many_old_ones_are_kept(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT", 2)
    rollouts = Store(redis)
    for number in range(5):
        one = rollout(identifier=f"ro_{number}", now=float(number))
        await rollouts.create(one)
        await rollouts.replace(one, state.settle(state.abort(one, "ann", 1.0)))
    await rollouts.create(rollout(identifier="ro_5", now=5.0))
    assert [found.id for found in await rollouts.all()] == ["ro_5", "ro_4", "ro_3"]


async def test_what_cannot_be_read_is_left_out(redis: Redis) -> None:
    rollouts = Store(redis)
    await rollouts.create(rollout())
    await redis.hset(records.ROLLOUTS, "bad", "{}")  # type: ignore[misc]
    await redis.set(CHECKPOINT, "[]")
    assert [found.id for found in await rollouts.all()] == ["ro_1"]
    assert await rollouts.checkpoint() is None
    with pytest.raises(NotPossible, match="rollout bad cannot be read"):
        await rollouts.get("bad")


async def test_a_checkpoint_comes_back_whole(redis: Redis) -> None:
    await Lease(redis, "a", 30.0).hold()
    step = Evidence(step=1, since=5.0)
    step.add(read_entry(json.dumps(entry()).encode()) or pytest.fail("no sample"), "new", "old", Random(1))
    await Store(redis).save(Checkpoint(position="5-1", evidence={"ro_1": step}), owner="a")
    assert await Store(redis).checkpoint() == Checkpoint(position="5-1", evidence={"ro_1": step})


async def test_the_ledger_is_read_once_from_where_it_was_left(redis: Redis) -> None:
    await write(redis, entry("new"), entry("old"), since=1_000_000)
    reader = Ledger(redis, read_event)
    position, samples, number = await reader.read(position_at(1000.0))
    assert ([one.arm for one in samples], number) == (["new", "old"], 2)
    assert await reader.read(position) == (position, [], 0)
    await write(redis, entry("old", outcome="failed"), since=2_000_000)
    _, samples, _ = await reader.read(position)
    assert [one.failed for one in samples] == [True]
    _, samples, _ = await reader.read(position_at(1000.001))
    assert len(samples) == 2


def read(**changed: object) -> object:
    return read_entry(json.dumps(entry(**changed)).encode())  # type: ignore[arg-type]


def test_an_entry_says_how_quick_the_arm_was() -> None:
    """100 ms to the first token, of them 40 in the queue; 100 ms for 10 more; arrived 0.2 s before the end."""
    assert read() == Sample(
        model="boats", arm="new", began=1999.8, failed=False, first_token_ms=60.0, per_token_ms=10.0
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"arm": None},
        {"outcome": "refused"},
        {"outcome": "cancelled"},
        {"replayed": True},
        {"kind": "mirror"},
        {"model": None},
        {"at": "x"},
    ],
    ids=str,
)
def test_what_says_nothing_of_an_arm_is_left_out(changed: dict[str, object]) -> None:
    line = entry() | changed
    if changed.get("arm", "") is None:
        del line["arm"]
    assert read_entry(json.dumps(line).encode()) is None


def test_a_failure_that_another_backend_made_good_is_one_of_the_arm_that_had_it_first() -> None:
    sample = read_entry(json.dumps(entry(retries=1)).encode())
    assert sample is not None
    assert (sample.arm, sample.failed) == ("new", True)


def test_latencies_that_are_not_there_are_not_made_up() -> None:
    failed = read_entry(json.dumps(entry(outcome="failed", ttft_ms=None)).encode())
    assert failed is not None
    assert (failed.failed, failed.first_token_ms, failed.per_token_ms) == (True, None, None)
    short = read_entry(json.dumps(entry(completion_tokens=1)).encode())
    assert short is not None
    assert short.per_token_ms is None


async def test_a_change_of_routing_is_written_by_compare_and_set_and_announced(redis: Redis) -> None:
    routing_document = RoutingDocument(redis)
    raced = iter([True, False])

    def change(held: RoutingSnapshot) -> RoutingSnapshot:
        return replace(held, drained=(*held.drained, "x"))

    class Racing(RoutingDocument):
        async def read(self) -> RoutingSnapshot:
            held = await super().read()
            if next(raced):
                await routing_document.change(change)
            return held

    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(document.CHANGED)
        assert await Racing(redis).change(change)
        assert decode_snapshot(await redis.get(document.KEY)) == RoutingSnapshot(version=2, drained=("x", "x"))
        versions = []
        while len(versions) < 2:
            message = await channel.get_message(timeout=5.0)
            if message is not None:
                versions.append(message["data"])
        assert versions == [b"1", b"2"]
    assert not await routing_document.change(lambda held: held)


async def test_a_routing_document_that_makes_no_sense_is_left_alone(redis: Redis) -> None:
    await redis.set(document.KEY, "{")
    with pytest.raises(NotPossible, match="cannot be read"):
        await RoutingDocument(redis).change(lambda held: replace(held, drained=("x",)))
    assert await redis.get(document.KEY) == b"{"


async def test_an_abort_needs_no_control_plane(redis: Redis) -> None:
    rollouts, routing_document = Store(redis), RoutingDocument(redis)
    commands = Commands(rollouts, routing_document, "ann")
    one = await commands.start("boats", NEW, QUICK, 1000.0)
    assert (one.definition.stable, one.history[0].by) == (Arm(name="stable"), "ann")
    paused = await commands.pause(one.id, 1001.0)
    resumed = await commands.resume(one.id, 1002.0)
    assert [paused.status, resumed.status] == ["paused", "running"]
    await commands.abort(one.id, 1003.0, "it smells")
    (route,) = (await routing_document.read()).models
    assert route.arms == (Arm(name="stable"),)
    stored = await rollouts.get(one.id)
    assert (stored.status, stored.settled, stored.history[-1].reason) == ("aborted", True, "it smells")


async def test_two_starts_at_the_same_moment_make_one_rollout(redis: Redis) -> None:
    commands = Commands(Store(redis), RoutingDocument(redis), "ann")
    both = await asyncio.gather(
        *(commands.start("boats", NEW, QUICK, 1000.0) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in both) == ["NotPossible", "Rollout"]
    assert msgspec.json.encode(await Store(redis).all()).count(b"boats") == 1


async def test_feedback_between_the_entries_is_passed_over(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    await redis.xadd(STREAM, {"feedback": "{}", "request": "{}", "before": ""}, id="1-0")
    await write(redis, entry("new"), since=2)
    position, samples, number = await Ledger(redis, read_event).read("0-0")
    assert (position, len(samples), number) == ("2-0", 1, 2)
    assert caplog.records == []
