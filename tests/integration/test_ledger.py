"""Entries of the ledger outlive the processes that write and keep them: kill -9, with requests on the way."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import GatewayClient, wait_until
from tests.support.ledger import entries, usage_sums
from trireme.restart import Backoff
from trireme.stack import EmbeddedStack, isolated_settings
from trireme.supervisor import Supervision

pytestmark = pytest.mark.integration

# The documented bound is some milliseconds; a test machine may be busy.
BOUND_S = 0.05
AWAY_S = 6.0
CLIENTS = 8
WAITING = 5


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """What is killed stays away long enough to see what happens without it."""
    settings = isolated_settings(tmp_path_factory.mktemp("ledger"))
    away = Supervision(backoff=Backoff(first=AWAY_S, factor=1.0), probe_every=1.0)
    with EmbeddedStack(settings, supervision=away) as running:
        yield running


class Load:
    """Clients that ask one question after the other, and remember when each answer was complete."""

    def __init__(self, gateway: GatewayClient, name: str) -> None:
        self.answered: dict[str, float] = {}
        self._gateway = gateway
        self._name = name
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            name = f"{self._name}-{client}-{number}"
            try:
                answer = self._gateway.chat({"x-request-id": name}, max_tokens=3, stream=bool(number % 2))
            except httpx.HTTPError:
                continue
            if answer.status_code == httpx.codes.OK and (number % 2 == 0 or "[DONE]" in answer.text):
                self.answered[name] = time.monotonic()


def kept(stack: EmbeddedStack, name: str) -> Counter[str]:
    """How often each of a load's requests is in the ledger."""
    return Counter(one.request_id for one in entries(stack) if one.request_id.startswith(f"{name}-"))


def spooled(stack: EmbeddedStack) -> int:
    files = Path(stack.settings.state_dir, "spool").glob("*.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def sums_agree(stack: EmbeddedStack) -> bool:
    found, sums = entries(stack), usage_sums(stack)
    return (sums["requests"], sums["prompt"], sums["completion"]) == (
        len(found),
        sum(one.prompt_tokens for one in found),
        sum(one.completion_tokens for one in found),
    )


def test_a_killed_gateway_has_written_down_what_it_answered(stack: EmbeddedStack) -> None:
    gateway = GatewayClient(stack)
    wait_until(gateway.ready, "the gateway is ready")
    with Load(gateway, "killed") as load:
        wait_until(lambda: len(load.answered) > 60, "there is some load")
        killed_at = time.monotonic()
        stack.kill("gateway")
    found = kept(stack, "killed")
    before = {name for name, at in load.answered.items() if at < killed_at - BOUND_S}
    assert len(before) > 30
    assert before - set(found) == set()
    assert set(found.values()) == {1}
    assert sums_agree(stack)
    stack.wait_ready(60)


def test_entries_wait_for_a_killed_valkey_and_are_stored_once(stack: EmbeddedStack) -> None:
    gateway = GatewayClient(stack)
    wait_until(gateway.ready, "the gateway is ready")
    with Load(gateway, "away") as load:
        wait_until(lambda: len(load.answered) > 50, "there is some load")
        stack.kill("valkey")
        wait_until(lambda: spooled(stack) > WAITING, "entries wait on disk", AWAY_S)
        checks = gateway.get("/health/ready")
        assert (checks.status_code, checks.json()["checks"]["ledger"][:9]) == (200, "degraded:")
        stack.wait_ready(60)
        wait_until(lambda: spooled(stack) == 0, "the spool is empty again")
    wait_until(lambda: load.answered.keys() <= kept(stack, "away").keys(), "every answer is in the ledger", 10.0)
    assert set(kept(stack, "away").values()) == {1}
    assert sums_agree(stack)
    assert gateway.get("/health/ready").json()["checks"]["ledger"] == "ok"


def test_a_gateway_that_is_killed_while_valkey_is_away_leaves_its_spool_to_the_next(stack: EmbeddedStack) -> None:
    gateway = GatewayClient(stack)
    wait_until(gateway.ready, "the gateway is ready")
    with Load(gateway, "both") as load:
        wait_until(lambda: len(load.answered) > 50, "there is some load")
        stack.kill("valkey")
        wait_until(lambda: spooled(stack) > WAITING, "entries wait on disk", AWAY_S)
        killed_at = time.monotonic()
        stack.kill("gateway")
    stack.wait_ready(60)
    wait_until(gateway.ready, "the gateway is ready again")
    wait_until(lambda: spooled(stack) == 0, "the spool is empty again")
    before = {name for name, at in load.answered.items() if at < killed_at - BOUND_S}
    found = kept(stack, "both")
    assert before - set(found) == set()
    assert set(found.values()) == {1}
    assert sums_agree(stack)
