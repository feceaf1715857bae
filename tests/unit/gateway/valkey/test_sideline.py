"""Commands that requests can do without."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from gateway.valkey.connection import ValkeyAway, ValkeySettings
from gateway.valkey.sideline import SideLine
from gateway.valkey.wire import Command, Wire

PING = (b"PING",)


def there() -> bool:
    return True


class Silent:
    """A wire on which nothing comes, and how often it was tried."""

    def __init__(self) -> None:
        self.asked = self.dropped = 0
        self.connected = True

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        self.asked += 1
        return [await asyncio.Event().wait()]

    def drop(self) -> None:
        self.dropped += 1


async def test_errors_are_answers(wire: Wire) -> None:
    line = SideLine(wire, ValkeySettings(call_timeout_s=2.0), there)
    refused, answer = await line.ask([(b"NONSENSE",), PING])
    assert isinstance(refused, ResponseError)
    assert (answer, line.connected) == (b"PONG", True)


async def test_a_wire_is_connected_from_the_first_command_until_it_is_dropped(wire: Wire) -> None:
    before = wire.connected
    await SideLine(wire, ValkeySettings(call_timeout_s=2.0), there).ask([PING])
    during = wire.connected
    wire.drop()
    assert (before, during, wire.connected) == (False, True, False)


async def test_who_does_not_answer_costs_the_time_out_once_and_then_nothing() -> None:
    wire, now = Silent(), 0.0
    line = SideLine(wire, ValkeySettings(call_timeout_s=0.01, retry_s=5.0), there, clock=lambda: now)
    started = time.perf_counter()
    for _ in range(50):
        with pytest.raises(ValkeyAway):
            await line.ask([PING])
    assert (wire.asked, wire.dropped) == (1, 1)
    assert time.perf_counter() - started < 1
    now = 6.0
    with pytest.raises(ValkeyAway):
        await line.ask([PING])
    assert wire.asked == 2


async def test_nobody_waits_for_a_valkey_that_is_known_to_be_away() -> None:
    wire = Silent()
    with pytest.raises(ValkeyAway):
        await SideLine(wire, ValkeySettings(), lambda: False).ask([PING])
    assert wire.asked == 0


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.05, 50), (0.0001, 1)])
def test_servers_are_told_how_long_anybody_waits(seconds: float, milliseconds: int) -> None:
    assert SideLine(Silent(), ValkeySettings(call_timeout_s=seconds), there).timeout_ms == milliseconds
