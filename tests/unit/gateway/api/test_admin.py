"""Tenants and keys over HTTP, through a whole gateway with a real Valkey."""

import logging
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.auth.store import KeyStore
from gateway.telemetry.logs import FIELDS
from tests.unit.gateway.conftest import Gateway, StartGateway

TENANTS = "/admin/v1/tenants"
KEYS = "/admin/v1/keys"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
KEY: dict[str, Any] = {"tenant": "acme", "name": "web", "scopes": ["inference"]}


async def send(gateway: Gateway, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    options = {} if body is None else {"json": body}
    async with gateway.client.request(method, path, headers=headers, **options) as response:
        return response.status, await response.json()


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_the_life_of_a_tenant(gateway: Gateway) -> None:
    status, made = await send(
        gateway, "POST", TENANTS, {"id": "beta", "name": "Beta", "limits": {"requests_per_minute": 5}}
    )
    assert status == 201
    assert (made["id"], made["object"], made["limits"]) == ("beta", "tenant", {"requests_per_minute": 5})
    assert await send(gateway, "GET", f"{TENANTS}/beta") == (200, made)
    status, listed = await send(gateway, "GET", TENANTS)
    assert (listed["object"], [one["id"] for one in listed["data"]]) == ("list", ["acme", "beta"])

    status, changed = await send(gateway, "PATCH", f"{TENANTS}/beta", {"quotas": {"cost_per_day": 2.5}, "weight": 2})
    assert (status, changed["quotas"], changed["weight"]) == (200, {"cost_per_day": 2.5}, 2)
    assert changed["limits"] == {"requests_per_minute": 5}
    status, changed = await send(gateway, "PATCH", f"{TENANTS}/beta", {"limits": None})
    assert (changed["limits"], changed["quotas"]) == ({}, {"cost_per_day": 2.5})

    status, deleted = await send(gateway, "DELETE", f"{TENANTS}/beta")
    assert (status, deleted["id"]) == (200, "beta")
    status, answer = await send(gateway, "GET", f"{TENANTS}/beta")
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_the_life_of_a_key(gateway: Gateway) -> None:
    status, made = await send(gateway, "POST", KEYS, KEY | {"models": ["tiny"], "max_priority": "standard"})
    assert status == 201
    assert (made["object"], made["tenant"], made["status"], made["models"]) == ("api_key", "acme", "active", ["tiny"])
    place, first = f"{KEYS}/{made['id']}", made.pop("secret")
    assert (await gateway.ask(CHAT, BODY, **bearer(first)))[0] == 200
    assert await send(gateway, "GET", place) == (200, made)

    status, changed = await send(gateway, "PATCH", place, {"name": "site", "models": None})
    assert (status, changed["name"], changed["models"], changed["scopes"]) == (200, "site", None, ["inference"])

    status, rotated = await send(gateway, "POST", f"{place}/rotate", {"overlap_seconds": 0})
    assert (status, rotated["id"]) == (201, made["id"])
    assert rotated["secret"] != first

    status, revoked = await send(gateway, "DELETE", place)
    assert (status, revoked["status"]) == (200, "revoked")
    assert await send(gateway, "DELETE", place) == (200, revoked)
    status, answer = await send(gateway, "PATCH", place, {"name": "again"})
    assert (status, answer["error"]["code"]) == (409, "conflict")


async def test_a_rotation_without_a_body_overlaps(gateway: Gateway) -> None:
    _, made = await send(gateway, "POST", KEYS, KEY)
    status, rotated = await send(gateway, "POST", f"{KEYS}/{made['id']}/rotate")
    assert status == 201
    for secret in (made["secret"], rotated["secret"]):
        assert (await gateway.ask(CHAT, BODY, **bearer(secret)))[0] == 200


async def test_keys_are_listed_by_tenant_without_secrets(gateway: Gateway, secret: str) -> None:
    await send(gateway, "POST", TENANTS, {"id": "beta"})
    _, made = await send(gateway, "POST", KEYS, KEY | {"tenant": "beta"})
    _, everything = await send(gateway, "GET", KEYS)
    _, some = await send(gateway, "GET", f"{KEYS}?tenant=beta")
    assert sorted(one["name"] for one in everything["data"]) == ["all", "web"]
    assert [one["id"] for one in some["data"]] == [made["id"]]
    assert not any(text in str(everything) for text in (secret, made["secret"], "digest"))


@pytest.mark.parametrize("moment", [4102444800, "2100-01-01T00:00:00Z", "2100-01-01T01:00:00+01:00"])
async def test_an_end_is_unix_seconds_or_rfc_3339(gateway: Gateway, moment: int | str) -> None:
    _, made = await send(gateway, "POST", KEYS, KEY | {"expires_at": moment})
    assert made["expires_at"] == 4102444800
    _, changed = await send(gateway, "PATCH", f"{KEYS}/{made['id']}", {"expires_at": None})
    assert changed["expires_at"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", TENANTS, {"id": "a b"}, 400, "id"),
        ("POST", TENANTS, {"id": "a\n"}, 400, "id"),
        ("POST", TENANTS, {"id": "acme"}, 409, "id"),
        ("POST", TENANTS, {"id": "b", "colour": 1}, 400, "colour"),
        ("POST", TENANTS, {"id": "b", "limits": {"requests_per_minute": 0}}, 400, "limits.requests_per_minute"),
        ("POST", TENANTS, {"id": "b", "limits": {"speed": 1}}, 400, "limits.speed"),
        ("POST", TENANTS, {"id": "b", "weight": 0}, 400, "weight"),
        ("PATCH", f"{TENANTS}/acme", {"id": "b"}, 400, "id"),
        ("PATCH", f"{TENANTS}/nobody", {"name": "b"}, 404, "id"),
        ("DELETE", f"{TENANTS}/acme", None, 409, None),
        ("DELETE", f"{TENANTS}/acme?force=yes", None, 400, "force"),
        ("DELETE", f"{TENANTS}/acme?froce=true", None, 400, "froce"),
        ("POST", KEYS, KEY | {"tenant": "nobody"}, 400, "tenant"),
        ("POST", KEYS, KEY | {"scopes": []}, 400, "scopes"),
        ("POST", KEYS, KEY | {"scopes": ["root"]}, 400, "scopes[0]"),
        ("POST", KEYS, {"tenant": "acme", "scopes": ["inference"]}, 400, "name"),
        ("POST", KEYS, KEY | {"models": []}, 400, "models"),
        ("POST", KEYS, KEY | {"max_priority": "first"}, 400, "max_priority"),
        ("POST", KEYS, KEY | {"expires_at": 5}, 400, "expires_at"),
        ("POST", KEYS, KEY | {"expires_at": "tomorrow"}, 400, "expires_at"),
        ("POST", KEYS, KEY | {"expires_at": "2100-01-01T00:00:00"}, 400, "expires_at"),
        ("POST", f"{KEYS}/key_none/rotate", {"overlap_seconds": -1}, 400, "overlap_seconds"),
        ("POST", f"{KEYS}/key_none/rotate", {}, 404, "id"),
        ("GET", f"{KEYS}/key_none", None, 404, "id"),
        ("DELETE", f"{KEYS}/key_none", None, 404, "id"),
        ("GET", f"{KEYS}?colour=red", None, 400, "colour"),
    ],
)
async def test_what_is_wrong_is_named(
    gateway: Gateway, *, method: str, path: str, body: Any, status: int, param: str | None
) -> None:
    got, answer = await send(gateway, method, path, body)
    error = answer["error"]
    assert (got, error["param"]) == (status, param)
    assert error.keys() == {"message", "type", "param", "code"}


async def test_deleting_a_tenant_by_force_revokes_its_keys(gateway: Gateway, store: KeyStore) -> None:
    await send(gateway, "POST", TENANTS, {"id": "beta"})
    _, made = await send(gateway, "POST", KEYS, KEY | {"tenant": "beta"})
    assert (await send(gateway, "DELETE", f"{TENANTS}/beta"))[0] == 409
    assert (await send(gateway, "DELETE", f"{TENANTS}/beta?force=true"))[0] == 200
    assert (await store.get(made["id"])).revoked_at is not None


async def test_only_administrators_may(gateway: Gateway) -> None:
    _, made = await send(gateway, "POST", KEYS, KEY | {"scopes": ["inference", "embeddings", "metrics"]})
    routes = [("GET", TENANTS), ("POST", TENANTS), ("DELETE", f"{TENANTS}/acme"), ("PATCH", f"{TENANTS}/acme")]
    routes += [("GET", KEYS), ("POST", KEYS), ("DELETE", f"{KEYS}/{made['id']}"), ("PATCH", f"{KEYS}/{made['id']}")]
    routes += [("GET", f"{TENANTS}/acme"), ("GET", f"{KEYS}/{made['id']}"), ("POST", f"{KEYS}/{made['id']}/rotate")]
    for method, path in routes:
        status, answer = await send(gateway, method, path, **bearer(made["secret"]))
        assert (status, answer["error"]["code"]) == (403, "insufficient_scope"), path


async def test_a_key_sees_and_uses_only_its_models(gateway: Gateway) -> None:
    _, made = await send(gateway, "POST", KEYS, KEY | {"scopes": ["inference", "embeddings"], "models": ["tiny-embed"]})
    theirs = bearer(made["secret"])
    _, listed = await send(gateway, "GET", "/v1/models", **theirs)
    assert [one["id"] for one in listed["data"]] == ["tiny-embed"]
    assert (await send(gateway, "GET", "/v1/models/tiny-embed", **theirs))[0] == 200
    assert (await gateway.ask("/v1/embeddings", {"model": "tiny-embed", "input": "x"}, **theirs))[0] == 200
    refused = [
        await send(gateway, "GET", "/v1/models/tiny", **theirs),
        await gateway.ask(CHAT, BODY, **theirs),
        await gateway.ask("/v1/completions", {"model": "tiny", "prompt": "x"}, **theirs),
        await gateway.ask("/tokenize", {"model": "tiny", "prompt": "x"}, **theirs),
        await gateway.ask("/detokenize", {"model": "tiny", "tokens": [1]}, **theirs),
    ]
    for status, answer in refused:
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (403, "model_not_allowed", "model")


async def test_every_change_is_in_the_audit_log_without_secrets(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await send(gateway, "POST", TENANTS, {"id": "beta"})
    await send(gateway, "PATCH", f"{TENANTS}/beta", {"name": "Beta"})
    _, made = await send(gateway, "POST", KEYS, KEY, **{"x-request-id": "r-1"})
    place = f"{KEYS}/{made['id']}"
    await send(gateway, "PATCH", place, {"name": "site"})
    _, rotated = await send(gateway, "POST", f"{place}/rotate")
    await send(gateway, "DELETE", place)
    await send(gateway, "DELETE", f"{TENANTS}/beta")
    await send(gateway, "GET", KEYS)
    lines = [getattr(record, FIELDS) for record in caplog.records if record.name == "trireme.audit"]
    assert [line["event"] for line in lines] == [
        "tenant.created",
        "tenant.changed",
        "key.created",
        "key.changed",
        "key.rotated",
        "key.revoked",
        "tenant.deleted",
    ]
    assert [line["target"] for line in lines] == ["beta", "beta", *[made["id"]] * 4, "beta"]
    assert all(line["actor"].startswith("key_") and line["address"] == "127.0.0.1" for line in lines)
    assert lines[2]["request_id"] == "r-1"
    assert not any(secret in caplog.text + str(lines) for secret in (made["secret"], rotated["secret"]))


async def test_wrong_keys_from_one_address_are_limited_and_proxies_are_seen_through(start: StartGateway) -> None:
    async with start(TRIREME_FAILED_ATTEMPTS_PER_MINUTE="1", TRIREME_TRUSTED_PROXIES="127.0.0.0/8") as gateway:
        for client, status in (("192.0.2.1", 401), ("192.0.2.1", 429), ("192.0.2.2", 401)):
            headers = bearer("trk_wrong") | {"x-forwarded-for": f"203.0.113.{status % 9}, {client}"}
            got, answer = await send(gateway, "GET", KEYS, **headers)
            assert got == status
        assert (await send(gateway, "GET", KEYS, **{"x-forwarded-for": "192.0.2.1"}))[0] == 200
        assert answer["error"]["code"] == "invalid_api_key"


async def test_forwarded_addresses_of_strangers_mean_nothing(start: StartGateway) -> None:
    async with start(TRIREME_FAILED_ATTEMPTS_PER_MINUTE="1") as gateway:
        statuses = [
            (await send(gateway, "GET", KEYS, **bearer(f"trk_{number}"), **{"x-forwarded-for": f"192.0.2.{number}"}))[0]
            for number in range(3)
        ]
    assert statuses == [401, 429, 429]


async def test_the_description_has_status_query_and_conflicts(gateway: Gateway) -> None:
    _, document = await send(gateway, "GET", "/openapi.json")
    paths = document["paths"]
    assert paths[KEYS]["post"]["responses"].keys() >= {"201", "400", "409"}
    assert "200" not in paths[KEYS]["post"]["responses"]
    assert {"name": "force", "in": "query", "schema": {"type": "string"}} in (
        paths[f"{TENANTS}/{{tenant}}"]["delete"]["parameters"]
    )
    assert paths[f"{KEYS}/{{key}}"].keys() == {"get", "patch", "delete"}


async def test_the_store_holds_what_the_answer_says(gateway: Gateway, redis: Redis) -> None:
    _, made = await send(gateway, "POST", KEYS, KEY | {"limits": {"concurrent_requests": 2}})
    records = await redis.hgetall("trireme:{keys}:records")
    assert made["id"].encode() in records
    assert b'"concurrent_requests":2' in records[made["id"].encode()]
