"""Tokens through a whole gateway, with a real server that publishes the keys."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.unit.gateway.conftest import Gateway, StartGateway

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLISHED = {"keys": [{**jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k"}]}
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def authorization(**changes: Any) -> str:
    claims = {"iss": "https://idp", "aud": "trireme", "sub": "ada", "exp": time.time() + 60, "tenant": "acme"}
    token = jwt.encode({**claims, "scope": "inference", **changes}, KEY, algorithm="RS256", headers={"kid": "k"})
    return f"Bearer {token}"


@asynccontextmanager
async def publishing(answer: web.Response) -> AsyncIterator[str]:
    async def keys(request: web.Request) -> web.Response:
        return answer

    app = web.Application()
    app.router.add_get("/keys", keys)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}/keys".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def variables(url: str) -> dict[str, str]:
    return {"TRIREME_OIDC_JWKS": url, "TRIREME_OIDC_ISSUER": "https://idp", "TRIREME_OIDC_AUDIENCE": "trireme"}


async def test_a_token_works_beside_keys(start: StartGateway) -> None:
    async with publishing(web.json_response(PUBLISHED)) as url, start(**variables(url)) as gateway:
        assert (await gateway.ask(CHAT, BODY, authorization=authorization()))[0] == 200
        assert (await gateway.ask(CHAT, BODY))[0] == 200
        assert await refusal(gateway, scope="admin") == (403, "insufficient_scope")
        assert await refusal(gateway, tenant="nobody") == (403, "unknown_tenant")
        assert await refusal(gateway, exp=time.time() - 60) == (401, "invalid_api_key")
        administrator = {"authorization": authorization(scope=["admin"])}
        async with gateway.client.get("/admin/v1/keys", headers=administrator) as response:
            assert response.status == 200


async def refusal(gateway: Gateway, **changes: Any) -> tuple[int, str]:
    status, answer = await gateway.ask(CHAT, BODY, authorization=authorization(**changes))
    return status, answer["error"]["code"]


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=500),
        web.Response(text="<html>"),
        web.Response(status=302, headers={"location": "/keys"}),
        web.Response(text=json.dumps(PUBLISHED) + " " * 2_000_000),
    ],
    ids=["error", "no JSON", "redirect", "too large"],
)
async def test_a_provider_that_answers_nonsense_makes_nobody_wrong(start: StartGateway, answer: web.Response) -> None:
    async with publishing(answer) as url, start(**variables(url)) as gateway:
        assert await refusal(gateway) == (503, "keys_unavailable")
        assert (await gateway.ask(CHAT, BODY))[0] == 200


async def test_without_a_provider_a_token_is_a_wrong_key(gateway: Gateway) -> None:
    assert await refusal(gateway) == (401, "invalid_api_key")
