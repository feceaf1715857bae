"""A whole gateway before two Triton servers: spreading, retries, and the administration of backends."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from gateway.api.keys import MODELS, ROUTER
from gateway.auth.store import KeyStore
from gateway.config import ConfigError, load
from gateway.core.document import CHANGED, KEY
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until
from trireme.cli import app as command

CHAT = "/v1/chat/completions"
BACKENDS = "/admin/v1/backends"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def other() -> AsyncIterator[FakeTriton]:
    async with FakeTriton().serve() as fake:
        yield fake


@pytest.fixture
async def pair(start: StartGateway, triton: FakeTriton, other: FakeTriton) -> AsyncIterator[Gateway]:
    backends = [{"id": "a", "url": triton.url}, {"id": "b", "url": other.url}]
    async with start(TRIREME_BACKENDS=json.dumps(backends), TRIREME_ROUTING_STRATEGY="round_robin") as gateway:
        yield gateway


async def rows(gateway: Gateway) -> dict[str, dict[str, Any]]:
    async with gateway.client.get(BACKENDS) as response:
        body = await response.json()
    assert (response.status, body["object"]) == (200, "list")
    return {row["id"]: row for row in body["data"]}


async def metric(gateway: Gateway, name: str) -> float:
    async with gateway.client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def test_calls_are_spread_and_administrators_are_told_where_each_went(pair: Gateway) -> None:
    found = []
    for _ in range(4):
        async with pair.client.post(CHAT, json=BODY) as response:
            found.append(response.headers["x-backend"])
    assert sorted(found) == ["a", "a", "b", "b"]
    assert await metric(pair, 'trireme_backend_requests_total{backend="a",outcome="ok"}') == 2


async def test_other_keys_are_not_told(pair: Gateway, store: KeyStore) -> None:
    _, secret = await store.create(tenant="acme", name="web", scopes=frozenset({"inference"}))
    async with pair.client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {secret}"}) as response:
        assert response.status == 200
        assert "x-backend" not in response.headers
    async with pair.client.get(BACKENDS, headers={"authorization": f"Bearer {secret}"}) as response:
        assert response.status == 403


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [Script(fail_at=0), Script(cut_at=0)], ids=["error", "reset"])
async def test_what_fails_before_the_first_token_is_answered_by_the_other(
    pair: Gateway, triton: FakeTriton, other: FakeTriton, script: Script, stream: bool
) -> None:
    triton.script = script
    for _ in range(4):
        async with pair.client.post(CHAT, json=BODY | {"stream": stream}) as response:
            assert response.status == 200
            assert b"world" in await response.read()
    assert triton.requests
    assert len(other.requests) == 4
    first = triton.requests[0]["id"]
    async with asyncio.timeout(1):
        assert first in await triton.aborts.get()
    assert all(row["in_flight_tokens"] == 0 for row in (await rows(pair)).values())
    assert await metric(pair, 'trireme_retries_total{outcome="made"}') == len(triton.requests)


async def test_a_hung_stream_that_has_begun_is_not_tried_again(pair: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(cut_at=1)
    for _ in range(2):
        async with pair.client.post(CHAT, json=BODY | {"stream": True}) as response:
            text = (await response.read()).decode()
        if response.headers["x-backend"] == "a":
            assert '"code":"backend_lost"' in text
            assert "[DONE]" not in text
    assert len(triton.requests) == 1


async def test_a_wrong_request_is_never_tried_again(pair: Gateway, triton: FakeTriton, other: FakeTriton) -> None:
    wrong = json.dumps({"message": "no", "type": "invalid_request_error", "code": "invalid_value", "param": "seed"})
    triton.script = other.script = Script(fail_at=0, error=wrong)
    status, answer = await pair.ask(CHAT, BODY)
    assert (status, answer["error"]["param"]) == (400, "seed")
    assert len(triton.requests) + len(other.requests) == 1


async def test_sessions_stay_on_a_backend_by_header_or_user(
    start: StartGateway, triton: FakeTriton, other: FakeTriton
) -> None:
    backends = [{"id": "a", "url": triton.url}, {"id": "b", "url": other.url}]
    async with start(TRIREME_BACKENDS=json.dumps(backends), TRIREME_ROUTING_WEIGHTS='{"session": 1}') as gateway:
        for headers, more in (({"x-session-id": "s-1"}, {}), ({}, {"user": "s-1"})):
            homes = set()
            for _ in range(6):
                async with gateway.client.post(CHAT, json=BODY | more, headers=headers) as response:
                    homes.add(response.headers["x-backend"])
            assert len(homes) == 1


async def test_a_backend_is_added_drained_and_removed_while_requests_run(
    gateway: Gateway, triton: FakeTriton, other: FakeTriton
) -> None:
    status, row = await gateway.ask(BACKENDS, {"id": "b", "url": other.url, "capacity_tokens": 5000})
    assert (status, row["id"], row["healthy"], row["capacity_tokens"]) == (201, "b", False, 5000)
    await until(lambda: gateway.app[ROUTER].saturation == 0)
    await gateway.app[ROUTER].examine()
    status, row = await gateway.ask(f"{BACKENDS}/triton/drain", None)
    assert (status, row["draining"]) == (200, True)
    triton.script = Script(fail_at=0)
    assert (await gateway.ask(CHAT, BODY))[0] == 200
    assert len(other.requests) == 1
    assert triton.requests == []
    other.script = Script(hang_at=1)
    running = asyncio.create_task(gateway.ask(CHAT, BODY))
    await other.hanging.wait()
    assert (await rows(gateway))["b"]["in_flight_requests"] == 1
    async with gateway.client.delete(f"{BACKENDS}/b") as response:
        assert (response.status, await response.json()) == (200, {"id": "b", "deleted": True})
    assert set(await rows(gateway)) == {"triton"}
    assert not running.done()
    status, answer = await gateway.ask(CHAT, BODY)
    assert (status, answer["error"]["code"]) == (503, "backend_unavailable")
    running.cancel()


@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("POST", BACKENDS, {"id": "x", "url": "nowhere"}, (400, "invalid_value")),
        ("POST", BACKENDS, {"id": "x"}, (400, "missing_required_parameter")),
        ("POST", BACKENDS, {"id": "triton", "url": "http://x"}, (409, "conflict")),
        ("DELETE", f"{BACKENDS}/triton", None, (409, "conflict")),
        ("DELETE", f"{BACKENDS}/nobody", None, (404, "not_found")),
        ("POST", f"{BACKENDS}/nobody/drain", None, (404, "not_found")),
        ("POST", f"{BACKENDS}/nobody/undrain", None, (404, "not_found")),
    ],
)
async def test_what_cannot_be_changed_is_refused(
    gateway: Gateway, method: str, path: str, body: Any, refusal: tuple[int, str]
) -> None:
    async with gateway.client.request(method, path, json=body) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == refusal


async def test_the_document_names_arms_versions_and_aliases(gateway: Gateway, triton: FakeTriton, redis: Redis) -> None:
    route = {"name": "tiny", "aliases": ["small"], "arms": [{"name": "new", "version": "7"}]}
    await redis.set(KEY, json.dumps({"version": 1, "models": [route]}))
    await redis.publish(CHANGED, "1")
    await until(lambda: gateway.app[ROUTER].snapshot.version == 1)
    status, answer = await gateway.ask(CHAT, BODY | {"model": "small"})
    assert (status, answer["model"]) == (200, "small")
    assert triton.paths == ["/v2/models/chat/versions/7/generate_stream"]
    assert [model.name for model in gateway.app[MODELS]] == ["tiny", "tiny-embed"]


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"TRIREME_ROUTING_STRATEGY": "luck"}, "known: round_robin, least_tokens, prefix"),
        ({"TRIREME_ROUTING_WEIGHTS": '{"luck": 1}'}, "known: load, prefix, session"),
        ({"TRIREME_BACKENDS": '[{"id": "a", "url": "nowhere"}]'}, "is not http://host:port"),
        ({"TRIREME_BACKENDS": "a,b"}, "not valid JSON"),
    ],
)
async def test_routing_that_makes_no_sense_ends_the_start(
    environment: dict[str, str], variables: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(environment | variables)


async def test_the_command_line_administers_backends(gateway: Gateway, other: FakeTriton, secret: str) -> None:
    at = ["--url", gateway.url, "--key", secret]

    async def run(*words: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, command, ["backends", *words, *at])
        return result.exit_code, result.output + str(result.exception or "")

    other.queues = {"preprocess": 2}
    assert (await run("add", "b", other.url, "--metrics", f"{other.url}/metrics"))[0] == 0
    await gateway.app[ROUTER].examine()
    assert other.pages > 0
    code, output = await run("list", "--json")
    assert code == 0
    assert [(row["id"], row["healthy"]) for row in json.loads(output)] == [("triton", True), ("b", True)]
    assert (await run("drain", "b"))[0] == 0
    assert "draining" in (await run("list"))[1]
    assert (await run("undrain", "b"))[0] == 0
    assert (await run("remove", "b"))[0] == 0
    code, output = await run("remove", "b")
    assert code == 1
    assert "there is no backend 'b'" in output
