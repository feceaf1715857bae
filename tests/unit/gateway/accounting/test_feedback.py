"""Scores for requests, in a real Valkey."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.accounting.feedback import MOST_CHANGES, Accepted, Feedback, Opinion
from gateway.accounting.index import GENERATION, GENERATIONS, RequestIndex
from gateway.accounting.stream import STREAM, LedgerStream
from gateway.core.call import Caller
from gateway.errors import Conflict, NotFound, Unavailable
from gateway.valkey.connection import ScriptCall, ValkeyAway
from gateway.valkey.outbox import Posted
from tests.unit.gateway.accounting.making import NOON, new_entry

WEEK_S = 7 * 86400
ANN = Caller("key_1", "acme", frozenset({"inference"}))


class Direct:
    """Scripts run at once. `away`: there is no answer; `refuses`: one that is an error."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.posted: list[ScriptCall] = []
        self.away = self.refuses = False

    def post(self, posted: Posted) -> None:
        self.posted.append(posted.call)

    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        if self.away:
            raise ValkeyAway
        if self.refuses:
            return [ResponseError("OOM")]
        return [await self._redis.eval(one.script.source, len(one.keys), *one.keys, *one.args) for one in calls]


class Desk:
    """A ledger and its feedback, for `most` requests. `now`: Unix seconds."""

    def __init__(self, redis: Redis, most: int = 1000) -> None:
        self.redis, self.now = redis, NOON / 1000 + 60
        self.valkey = Direct(redis)
        index = RequestIndex(most, WEEK_S)
        written = Counter("written", "", registry=None)
        self.ledger = LedgerStream(self.valkey, self.valkey, Writer(), 1000, written, index=index)  # type: ignore[arg-type]
        self.count = Counter("count", "", ("model", "arm"), registry=None)
        self.scores = Counter("scores", "", ("model", "arm"), registry=None)
        self.feedback = Feedback(self.valkey, index, 1000, count=self.count, scores=self.scores, clock=lambda: self.now)

    async def answer(self, number: int, **fields: Any) -> str:
        """A request that ended; its id."""
        entry = new_entry(number, **fields)
        self.ledger.add(entry)
        await self.valkey.run_all([self.valkey.posted.pop()], 1.0)
        return entry.request_id

    async def give(self, request_id: str, score: float, caller: Caller = ANN, **more: Any) -> Accepted:
        return await self.feedback.give(caller, Opinion(request_id, score, **more))

    async def events(self) -> list[dict[str, Any]]:
        found = [fields for _, fields in await self.redis.xrange(STREAM) if b"feedback" in fields]
        return [
            {
                **json.loads(fields[b"feedback"]),
                "request": json.loads(fields[b"request"]),
                "before": fields[b"before"].decode(),
            }
            for fields in found
        ]


class Writer:
    """All that a ledger without faults needs of its spool."""

    writer = "w"


@pytest.fixture
def desk(redis: Redis) -> Desk:
    return Desk(redis)


async def test_a_score_is_written_down_beside_what_is_known_of_its_request(desk: Desk) -> None:
    one = await desk.answer(1, arm="b", experiment="ex_1", unit="00ff")
    assert await desk.give(one, 0.75, comment="fine") == Accepted("tiny", "new")
    (event,) = await desk.events()
    assert event["request"] == {"at": NOON, "model": "tiny", "arm": "b", "experiment": "ex_1", "unit": "00ff"}
    assert (event["score"], event["comment"], event["tenant"], event["before"]) == (0.75, "fine", "acme", "")
    assert desk.count.labels("tiny", "b")._value.get() == 1
    assert desk.scores.labels("tiny", "b")._value.get() == 0.75


async def test_a_request_has_one_score_unless_it_is_replaced(desk: Desk) -> None:
    one = await desk.answer(1)
    await desk.give(one, 1.0)
    with pytest.raises(Conflict, match="send replace: true"):
        await desk.give(one, 0.0)
    assert (await desk.give(one, 1.0)).outcome == "same"
    assert (await desk.give(one, 0.0, replace=True)).outcome == "replaced"
    assert [(event["score"], event["before"]) for event in await desk.events()] == [(1.0, ""), (0.0, "1.0")]
    assert desk.count.labels("tiny", "unknown")._value.get() == 1


async def test_nobody_can_fill_the_ledger_with_changes_of_mind(desk: Desk) -> None:
    one = await desk.answer(1)
    for number in range(MOST_CHANGES + 1):
        await desk.give(one, number / 100, replace=True)
    with pytest.raises(Conflict, match="can be changed 10 times"):
        await desk.give(one, 0.99, replace=True)


async def test_unknown_foreign_failed_and_old_requests_get_the_same_answer(desk: Desk) -> None:
    mine, failed = await desk.answer(1), await desk.answer(2, outcome="failed", status=502)
    copy = await desk.answer(3, kind="mirror")
    said = set()
    for request_id, caller in ((mine, Caller("k", "ajax", frozenset())), ("nope", ANN), (failed, ANN), (copy, ANN)):
        with pytest.raises(NotFound) as refused:
            await desk.give(request_id, 1.0, caller)
        said.add(refused.value.message.replace(request_id, "…"))
    desk.now += WEEK_S
    with pytest.raises(NotFound) as refused:
        await desk.give(mine, 1.0)
    said.add(refused.value.message.replace(mine, "…"))
    assert said == {
        "no request of yours has the id '…' and was answered in the last 7 days: send the x-request-id of an answer"
    }
    assert await desk.events() == []


async def test_the_newest_request_of_an_id_is_meant(desk: Desk) -> None:
    one = await desk.answer(1, model="old")
    await desk.give(one, 1.0)
    await desk.answer(1, model="new")
    assert await desk.give(one, 0.5) == Accepted("new", "new")


async def test_only_so_many_requests_are_remembered_and_the_oldest_go_first(redis: Redis) -> None:
    desk = Desk(redis, most=80)
    for number in range(200):
        await desk.answer(number)
    held = [await redis.hlen(key) for key in await redis.keys(f"{GENERATION}:*")]  # type: ignore[misc]
    assert len(held) == GENERATIONS
    assert sum(held) <= 80
    assert (await desk.give("request-199", 1.0)).outcome == "new"
    assert (await desk.give("request-130", 1.0)).outcome == "new"
    with pytest.raises(NotFound):
        await desk.give("request-100", 1.0)


async def test_without_room_for_requests_nothing_is_remembered(redis: Redis) -> None:
    desk = Desk(redis, most=0)
    one = await desk.answer(1)
    assert await redis.keys(f"{GENERATION}*") == []
    with pytest.raises(NotFound):
        await desk.give(one, 1.0)


async def test_a_quick_client_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its feedback comes before the entry."""
    monkeypatch.setattr("gateway.accounting.feedback.PAUSES_S", (0.0, 0.0))
    asked = desk.valkey.run_all

    async def late(calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        answers = await asked(calls, timeout_s)
        if not desk.valkey.posted and answers[0][0] == b"missing":
            await answer()
        return answers

    async def answer() -> None:
        desk.ledger.add(new_entry(1))
        await asked([desk.valkey.posted.pop()], timeout_s=1.0)

    monkeypatch.setattr(desk.valkey, "run_all", late)
    assert (await desk.give("request-1", 1.0)).outcome == "new"


@pytest.mark.parametrize("fault", ["away", "refuses"])
async def test_what_cannot_be_written_down_is_not_promised(desk: Desk, fault: str) -> None:
    one = await desk.answer(1)
    setattr(desk.valkey, fault, True)
    with pytest.raises(Unavailable, match="try again"):
        await desk.give(one, 1.0)
