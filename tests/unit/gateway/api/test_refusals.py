"""Everything that is refused, with its status, its place and all four members."""

import asyncio
import json
from typing import Any

import pytest

from gateway.auth.store import KeyStore
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, Any] = {"model": "tiny", "messages": MESSAGES}


def checked(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"messages": MESSAGES}, 400, "model", "missing_required_parameter"),
        ({"model": "tiny"}, 400, "messages", "missing_required_parameter"),
        (GOOD | {"model": "gpt-9"}, 404, "model", "model_not_found"),
        (GOOD | {"model": "tiny-embed"}, 400, "model", "invalid_value"),
        (GOOD | {"temperature": 3}, 400, "temperature", "invalid_value"),
        (GOOD | {"temperature": "hot"}, 400, "temperature", "invalid_type"),
        (GOOD | {"surprise": 1}, 400, "surprise", "unknown_parameter"),
        (GOOD | {"audio": {}}, 400, "audio", "unsupported_parameter"),
        (GOOD | {"tools": []}, 400, "tools", "invalid_value"),
        (GOOD | {"tool_choice": "auto"}, 400, "tool_choice", "invalid_value"),
        (GOOD | {"max_tokens": 1000}, 400, "max_tokens", "context_length_exceeded"),
        ({"model": "tiny", "messages": [{"role": "wizard", "content": ""}]}, 400, "messages[0].role", "invalid_value"),
        ([], 400, None, "invalid_type"),
    ],
)
async def test_bad_bodies(gateway: Gateway, body: Any, status: int, param: str | None, code: str) -> None:
    got, answer = await gateway.ask(CHAT, body)
    error = checked(answer)
    assert (got, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


async def test_an_unknown_model_is_told_the_known_ones(gateway: Gateway) -> None:
    _, answer = await gateway.ask(CHAT, GOOD | {"model": "gpt-9"})
    assert "tiny, tiny-embed" in checked(answer)["message"]


async def test_a_body_that_is_not_json(gateway: Gateway) -> None:
    headers = {"content-type": "application/json"}
    async with gateway.client.post(CHAT, data=b"{", headers=headers) as response:
        assert response.status == 400
        assert checked(await response.json())["code"] == "invalid_json"


async def test_another_content_type(gateway: Gateway) -> None:
    async with gateway.client.post(CHAT, data=b"a=1", headers={"content-type": "text/plain"}) as response:
        assert response.status == 415
        assert checked(await response.json())["code"] == "unsupported_media_type"


async def test_json_with_a_charset_and_without_any_type_are_taken(gateway: Gateway) -> None:
    data = json.dumps(GOOD).encode()
    for kind in ({"content-type": "application/json; charset=utf-8"}, {}):
        skip = [] if kind else ["content-type"]
        async with gateway.client.post(CHAT, data=data, headers=kind, skip_auto_headers=skip) as response:
            assert response.status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large(start: StartGateway, chunked: bool) -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100

    async with start(TRIREME_MAX_BODY_BYTES="2048") as gateway:
        data = pieces() if chunked else b"x" * 4000
        async with gateway.client.post(CHAT, data=data, headers={"content-type": "application/json"}) as response:
            assert response.status == 413
            assert checked(await response.json())["code"] == "payload_too_large"


async def test_an_unknown_address(gateway: Gateway) -> None:
    status, answer = await gateway.ask("/v1/nothing", {})
    assert status == 404
    assert checked(answer)["code"] == "unknown_url"


async def test_a_method_that_does_nothing(gateway: Gateway) -> None:
    async with gateway.client.get(CHAT) as response:
        assert response.status == 405
        assert response.headers["allow"] == "POST"
        assert checked(await response.json())["code"] == "method_not_allowed"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer trk_nonsense"}, {"authorization": "Basic x"}])
async def test_no_good_key(gateway: Gateway, headers: dict[str, str]) -> None:
    gateway.client.headers.pop("authorization")
    async with gateway.client.post(CHAT, json=GOOD, headers=headers) as response:
        assert response.status == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert checked(await response.json())["code"] == "invalid_api_key"


async def test_a_key_may_come_as_x_api_key(gateway: Gateway, secret: str) -> None:
    gateway.client.headers.pop("authorization")
    async with gateway.client.post(CHAT, json=GOOD, headers={"x-api-key": secret}) as response:
        assert response.status == 200


async def test_a_key_without_the_scope(gateway: Gateway, store: KeyStore) -> None:
    _, secret = await store.create(tenant="acme", name="e", scopes=frozenset({"embeddings"}))
    status, answer = await gateway.ask(CHAT, GOOD, authorization=f"Bearer {secret}")
    assert status == 403
    assert checked(answer)["code"] == "insufficient_scope"
    assert "inference" in answer["error"]["message"]
    async with gateway.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"}) as response:
        assert response.status == 200


async def test_a_request_larger_than_the_gate(start: StartGateway) -> None:
    async with start(TRIREME_MAX_RUNNING_TOKENS="300") as gateway:
        status, answer = await gateway.ask(CHAT, GOOD | {"n": 2})
    assert (status, checked(answer)["code"]) == (400, "request_too_large")


async def test_a_full_server_says_when_to_come_back(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1", TRIREME_MAX_QUEUED="0") as gateway:
        holder = asyncio.create_task(gateway.ask(CHAT, GOOD))
        await triton.hanging.wait()
        async with gateway.client.post(CHAT, json=GOOD) as response:
            assert response.status == 429
            assert response.headers["retry-after"] == "1"
            assert response.headers["retry-after-ms"] == "1000"
            assert checked(await response.json())["type"] == "rate_limit_error"
        holder.cancel()


async def test_a_turn_that_does_not_come(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1", TRIREME_STANDARD_QUEUE_TIMEOUT_S="0.05") as gateway:
        holder = asyncio.create_task(gateway.ask(CHAT, GOOD))
        await triton.hanging.wait()
        status, answer = await gateway.ask(CHAT, GOOD)
        assert (status, checked(answer)["code"]) == (408, "queue_timeout")
        holder.cancel()


async def test_a_backend_that_goes_away(gateway: Gateway, triton: FakeTriton) -> None:
    """The first request finds out; those after it are told without trying."""
    triton.script = Script(cut_at=0)
    triton.alive = triton.generates = False
    status, answer = await gateway.ask(CHAT, GOOD)
    assert (status, checked(answer)["code"]) == (502, "backend_lost")
    async with gateway.client.post(CHAT, json=GOOD) as response:
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert checked(await response.json())["code"] == "backend_unavailable"
    assert len(triton.requests) == 1


async def test_a_bug_tells_the_client_the_request_id_and_the_log_the_rest(
    gateway: Gateway, triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    triton.script = Script(raw=b'data: {"delta":"{\\"choice\\":{\\"index\\":\\"?\\",\\"delta\\":{}}}"}\n\n')
    status, answer = await gateway.ask(CHAT, GOOD, x_request_id="r-77")
    assert status == 500
    error = checked(answer)
    assert error["code"] == "internal_error"
    assert "r-77" in error["message"]
    assert any(record.exc_info and "r-77" in record.getMessage() for record in caplog.records)


async def test_strange_request_ids_are_replaced(gateway: Gateway) -> None:
    for strange in ("a b", "x" * 129, "<script>"):
        async with gateway.client.get("/health/live", headers={"x-request-id": strange}) as response:
            assert response.headers["x-request-id"].startswith("req-")
