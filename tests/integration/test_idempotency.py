"""Requests sent again, by the `openai` client and after a crash, before a real tritonserver and a real Valkey."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import LONG, Asker, GatewayClient, plain_http, wait_until
from tests.support.triton import DirectTriton
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
LEASE_S = 1.0


@pytest.fixture(scope="module")
def gateway(stack: EmbeddedStack) -> GatewayClient:
    return GatewayClient(stack)


@pytest.fixture(scope="module")
def direct(stack: EmbeddedStack) -> Iterator[DirectTriton]:
    one = DirectTriton(stack.triton_url)
    yield one
    one.close()


@pytest.fixture(scope="module")
def client(stack: EmbeddedStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key=stack.dev_key, max_retries=0) as one:
        yield one


def in_flight(direct: DirectTriton) -> int:
    return int(direct.control(control="stats")["in_flight"])


def test_the_openai_client_gets_the_same_completion_again(client: openai.OpenAI, stack: EmbeddedStack) -> None:
    def ask() -> Any:
        return client.chat.completions.with_raw_response.create(
            model=stack.settings.model.name,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=20,
            extra_headers={"Idempotency-Key": "whole"},
        )

    first, second = ask(), ask()
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.parse() == first.parse()
    assert first.parse().usage.completion_tokens == 20


def test_the_openai_client_iterates_a_stream_again(client: openai.OpenAI, stack: EmbeddedStack) -> None:
    def ask() -> list[dict[str, Any]]:
        stream = client.chat.completions.create(
            model=stack.settings.model.name,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=20,
            stream=True,
            extra_headers={"Idempotency-Key": "stream"},
        )
        return [chunk.model_dump() for chunk in stream]

    first = ask()
    assert len(first) > 1
    assert ask() == first


def test_a_key_that_is_used_for_something_else_is_an_unprocessable_entity(
    client: openai.OpenAI, stack: EmbeddedStack
) -> None:
    def ask(prompt: str) -> None:
        client.completions.create(
            model=stack.settings.model.name,
            prompt=prompt,
            max_tokens=1,
            extra_headers={"Idempotency-Key": "reused"},
        )

    ask("a")
    with pytest.raises(openai.UnprocessableEntityError, match="use a new one"):
        ask("b")


class Repeater:
    """Sends the very same bytes under one key, as often as wanted; `asker` reads no answer and can leave."""

    def __init__(self, stack: EmbeddedStack, key: str, **fields: Any) -> None:
        gateway = GatewayClient(stack)
        self._url = stack.gateway_url
        self._body = gateway.body(**fields)
        self._headers = {**gateway.headers, "Idempotency-Key": key}

    def asker(self) -> Asker:
        return Asker(self._url, self._body, self._headers)

    def status(self) -> int:
        headers = {**self._headers, "Content-Type": "application/json"}
        content = json.dumps(self._body)
        return plain_http().post(f"{self._url}/v1/chat/completions", content=content, headers=headers).status_code


def test_a_key_is_taken_while_its_request_runs_and_free_when_the_client_leaves(
    stack: EmbeddedStack, gateway: GatewayClient, direct: DirectTriton
) -> None:
    repeater = Repeater(stack, "left", max_tokens=2000, stream=True, script={"delay_ms": 20})
    asker = repeater.asker()
    wait_until(lambda: in_flight(direct) == 1, "the engine has the request")
    assert repeater.status() == httpx.codes.CONFLICT
    asker.leave()
    wait_until(lambda: in_flight(direct) == 0, "the engine is free again", 3.0)
    wait_until(
        lambda: gateway.chat(headers={"Idempotency-Key": "left"}).status_code == httpx.codes.OK, "the key is free"
    )


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[EmbeddedStack]:
    settings = isolated_settings(tmp_path, triton_models=("chat",), gateway={"idempotency": {"lease_s": LEASE_S}})
    with EmbeddedStack(settings) as running:
        yield running


def test_answers_outlive_the_gateway_and_what_it_was_answering_is_free_soon(breakable: EmbeddedStack) -> None:
    gateway = GatewayClient(breakable)
    wait_until(gateway.ready, "the gateway is ready")
    answered = gateway.chat(headers={"Idempotency-Key": "answered"}, max_tokens=5)
    lost = Repeater(breakable, "lost", max_tokens=3000, script={"delay_ms": 50})
    asker = lost.asker()
    direct = DirectTriton(breakable.triton_url)
    wait_until(lambda: in_flight(direct) == 1, "the engine has the request")
    direct.close()
    time.sleep(2 * LEASE_S)
    assert lost.status() == httpx.codes.CONFLICT
    before = breakable.child("gateway").pid
    breakable.kill("gateway")
    wait_until(lambda: breakable.child("gateway").pid not in (before, None), "the gateway was restarted")
    breakable.wait_ready(LONG)
    asker.leave()
    assert gateway.chat(headers={"Idempotency-Key": "answered"}, max_tokens=5).content == answered.content
    # Another request is refused as a mismatch for as long as the old one holds the key.
    again: dict[str, Any] = {"headers": {"Idempotency-Key": "lost"}, "max_tokens": 1}
    wait_until(lambda: gateway.chat(**again).status_code == httpx.codes.OK, "the key is free again", 3 * LEASE_S)
