"""Who finds the nearest questions: a server that offers it, and this gateway where none does."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.cache.answers import Answer
from gateway.cache.keys import Place, questions_of
from gateway.cache.semantic.nearest import NEAREST
from gateway.cache.semantic.question import Question, encode_question, unit
from gateway.cache.semantic.server import PATIENCE_S
from tests.support.search_server import SearchServer
from tests.unit.gateway.cache.caching import WHOLE, Engine, Gateway
from tests.unit.gateway.cache.semantic.test_semantic import AGAIN, FIRST, asked, caller, looked, near
from tests.unit.gateway.waiting import until

ANSWER = Answer(1000.0, "1", (1, 1, 0), [(WHOLE[-1], 1)])
FLOOR = 0.9


@pytest.fixture
async def offering(search_server: SearchServer) -> AsyncIterator[Redis]:
    """To the server that stands in for one that searches."""
    async with Redis.from_url(search_server.url) as client:
        await client.flushdb()
        yield client


def gateway_of(redis: Redis, **given: Any) -> Gateway:
    one = Gateway(redis, **given)
    near(one, FIRST, AGAIN)
    return one


async def outcome(gateway: Gateway, text: str, number: int = 9) -> str | None:
    one = caller(number)
    assert await gateway.ask(one, Engine(), asked(text)) == WHOLE
    return one.cache


def gauge(gateway: Gateway, name: str) -> float | None:
    return gateway.metrics.registry.get_sample_value(f"trireme_cache_semantic_{name}")


async def test_where_it_is_offered_the_server_searches_and_nothing_is_held_here(
    offering: Redis, search_server: SearchServer
) -> None:
    gateway = gateway_of(offering)
    assert [await outcome(gateway, text) for text in (FIRST, AGAIN)] == ["miss", "hit-semantic"]
    assert (gauge(gateway, "server"), gauge(gateway, "entries")) == (1, 0)
    assert len(search_server.commands("FT.SEARCH")) == 2


async def test_whether_it_is_offered_is_asked_once_and_the_index_made_once(
    offering: Redis, search_server: SearchServer
) -> None:
    gateway = gateway_of(offering)
    near(gateway, *(f"What is number {number}?" for number in range(5)))
    for number in range(5):
        await outcome(gateway, f"What is number {number}?")
    assert [words[0] for words in search_server.asked] == [b"COMMAND", b"FT.CREATE", *[b"FT.SEARCH"] * 5]


async def test_where_it_is_not_offered_the_gateway_searches(offering: Redis, search_server: SearchServer) -> None:
    search_server.offers = False
    gateway = gateway_of(offering)
    assert [await outcome(gateway, text) for text in (FIRST, AGAIN)] == ["miss", "hit-semantic"]
    assert (gauge(gateway, "server"), gauge(gateway, "entries")) == (0, 1)
    assert [words[0] for words in search_server.asked] == [b"COMMAND"]


async def test_who_wants_the_server_only_compares_nothing_without_it(
    offering: Redis, search_server: SearchServer, caplog: pytest.LogCaptureFixture
) -> None:
    search_server.offers = False
    gateway = gateway_of(offering, semantic_search="server")
    await gateway.nearest.run()
    assert "questions are not compared" in caplog.text
    assert [await outcome(gateway, text) for text in (FIRST, AGAIN)] == ["miss", "miss"]
    assert looked(gateway, "skipped", "search") == 2
    assert gateway.plans.asked == []


async def test_who_wants_none_asks_for_none(offering: Redis, search_server: SearchServer) -> None:
    gateway = gateway_of(offering, semantic_search="local")
    assert [await outcome(gateway, text) for text in (FIRST, AGAIN)] == ["miss", "hit-semantic"]
    assert search_server.asked == []


async def test_after_a_new_connection_it_is_asked_again(offering: Redis, search_server: SearchServer) -> None:
    """The server was replaced by one that searches: what the gateway held itself, it need not hold any more."""
    search_server.offers = False
    gateway = gateway_of(offering)
    await outcome(gateway, FIRST)
    await outcome(gateway, "Why is it so?")
    assert gauge(gateway, "entries") == 1
    search_server.offers = True
    await hang_up(gateway, search_server)
    assert await outcome(gateway, AGAIN) == "hit-semantic"
    assert (gauge(gateway, "server"), gauge(gateway, "entries")) == (1, 0)


async def test_an_index_that_was_lost_is_made_again(offering: Redis, search_server: SearchServer) -> None:
    gateway = gateway_of(offering)
    near(gateway, FIRST, AGAIN, "Who is it?")
    await outcome(gateway, FIRST)
    search_server.schemas.clear()
    assert [await outcome(gateway, text) for text in ("Who is it?", AGAIN)] == ["miss", "hit-semantic"]
    assert looked(gateway, "skipped", "search") == 1


async def test_a_server_that_refuses_is_left_alone_for_a_while(offering: Redis, search_server: SearchServer) -> None:
    gateway = gateway_of(offering)
    search_server.broken = True
    assert [await outcome(gateway, text) for text in (FIRST, AGAIN)] == ["miss", "hit-semantic"]
    assert (gauge(gateway, "server"), len(search_server.commands("FT.SEARCH"))) == (0, 1)
    search_server.broken = False
    gateway.now += PATIENCE_S
    await outcome(gateway, AGAIN + "?")
    assert (gauge(gateway, "server"), len(search_server.commands("FT.SEARCH"))) == (1, 2)


async def test_a_server_that_forgets_its_filter_gives_nobody_what_is_of_others(
    offering: Redis, search_server: SearchServer, caplog: pytest.LogCaptureFixture
) -> None:
    search_server.careless = True
    gateway = gateway_of(offering)
    assert [await outcome(gateway, text) for text in (FIRST, AGAIN)] == ["miss", "hit-semantic"]
    stranger, sibling = caller(2, tenant="other"), caller(3)
    assert await gateway.ask(stranger, Engine(), asked(AGAIN)) == WHOLE
    assert await gateway.ask(sibling, Engine(), asked(AGAIN, max_tokens=9)) == WHOLE
    assert (stranger.cache, sibling.cache) == ("miss", "miss")
    assert caplog.text.count("of another partition") >= 2


async def test_a_search_that_hangs_costs_its_time_and_holds_up_nothing_else(
    offering: Redis, search_server: SearchServer
) -> None:
    gateway = gateway_of(offering, search_patience_s=0.05)
    await outcome(gateway, FIRST)
    search_server.hangs = True
    assert [await outcome(gateway, text) for text in (AGAIN, FIRST)] == ["miss", "hit-exact"]
    assert looked(gateway, "skipped", "valkey") == 1
    assert gateway.valkey.available


async def test_a_question_goes_when_its_answer_goes(offering: Redis) -> None:
    gateway = gateway_of(offering, ttl_s=50.0)
    await outcome(gateway, FIRST)
    (key,) = await offering.keys(f"{questions_of('acme')}*")
    answer = "trireme:{cache:acme}:a:" + key.decode().removeprefix(questions_of("acme"))
    left, of_answer = [await offering.pttl(one) for one in (key, answer)]
    assert left == pytest.approx(of_answer, abs=50)
    assert await gateway.shelf.purge("acme", "") == 1
    assert await offering.exists(key, answer) == 0


PUTS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "a}|{b"]), st.sampled_from(["p0", "p1"]), st.integers(0, 5)), max_size=12
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(puts=PUTS, seed=st.integers(0, 5), floor=st.sampled_from([-1.0, 0.0, FLOOR]))
async def test_the_server_finds_what_the_gateway_would_and_never_what_is_of_others(
    url: str, where: str, puts: list[tuple[str, str, int]], seed: int, floor: float
) -> None:
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        gateway = await indexing(redis, semantic_search=where, tenant_bytes=10**9)
        kept = {(owner, f"n{seed}"): partition for owner, partition, seed in puts}
        for owner, partition, number in puts:
            question = encode_question(owner, Question(f"{owner} {partition}", partition), vector(number), 1e12)
            gateway.shelf.keep(Place(owner, f"n{number}"), ANSWER, b"0", 100, question)
        await gateway.outbox.flush()
        for owner in ("a", "b", "a}|{b"):
            for partition in ("p0", "p1"):
                await gateway.nearest.prepare(owner)
                found = await gateway.nearest.search(owner, Question("?", partition), vector(seed), floor)
                expected = {
                    name: float(vector(int(name[1:])) @ vector(seed))
                    for (whose, name), place in kept.items()
                    if (whose, place) == (owner, partition)
                }
                expected = {name: similarity for name, similarity in expected.items() if similarity >= floor}
                assert {one.entry.name: one.similarity for one in found} == pytest.approx(expected, abs=1e-5)
                assert {one.entry.question.text for one in found} <= {f"{owner} {partition}"}
                assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


async def test_only_some_of_many_are_fetched(url: str, where: str) -> None:
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        gateway = await indexing(redis, semantic_search=where)
        for number in range(NEAREST + 8):
            close = unit(vector(1) + 0.002 * number * vector(2))
            question = encode_question("acme", Question("?", "p"), close, 1e12)
            gateway.shelf.keep(Place("acme", f"n{number}"), ANSWER, b"0", 100, question)
        await gateway.outbox.flush()
        await gateway.nearest.prepare("acme")
        found = await gateway.nearest.search("acme", Question("?", "p"), vector(1), FLOOR)
        assert [one.entry.name for one in found] == [f"n{number}" for number in range(NEAREST)]


def vector(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return unit(np.random.default_rng(seed).standard_normal(16).astype(np.float32))


async def indexing(redis: Redis, **given: Any) -> Gateway:
    """From here on: what was stored before an index was made, servers add to it in the background."""
    gateway = Gateway(redis, **given)
    await gateway.nearest.prepare("nobody")
    assert await gateway.nearest.search("nobody", Question("?", "p"), vector(0), FLOOR) == []
    return gateway


async def hang_up(gateway: Gateway, server: SearchServer) -> None:
    """And until the gateway has seen it."""
    server.hang_up()
    await until(lambda: not any(wire.connected for wire in gateway.wires))
