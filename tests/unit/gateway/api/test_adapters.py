"""Adapters at the HTTP face: models of their own for clients, and the admin API that makes them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.api.keys import METRICS, ROUTER
from gateway.auth.store import KeyStore
from tests.fakes.triton import FakeTriton
from tests.support.adapters import write_adapter
from tests.unit.gateway.conftest import Gateway, StartGateway

ADAPTERS = "/admin/v1/adapters"
CHAT = {"model": "pirate", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@pytest.fixture
async def gateway(start: StartGateway, triton: FakeTriton, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Its backend serves adapters, of which two revisions of one lie there."""
    for number in ("1", "2"):
        write_adapter(tmp_path / "adapters" / "pirate" / number, int(number))
    triton.loads = {version: {"shelf": {"places": 4}} for version in ("", "1")}
    async with start(TRIREME_ADAPTERS_DIR=str(tmp_path / "adapters")) as gateway:
        yield gateway


async def add(gateway: Gateway, revision: str = "1", **fields: Any) -> Any:
    status, body = await gateway.ask(ADAPTERS, {"name": "pirate", "revision": revision, **fields})
    assert status == 201, body
    return body


async def send(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with gateway.client.request(method, path, json=body) as response:
        return response.status, await response.json()


async def test_an_adapter_is_a_model_with_a_parent(gateway: Gateway) -> None:
    await add(gateway)
    _, listed = await send(gateway, "GET", "/v1/models")
    models = {one["id"]: one for one in listed["data"]}
    assert (models["pirate"]["parent"], models["pirate"]["root"]) == ("tiny", "pirate/1")
    assert models["tiny"]["parent"] is None
    status, one = await send(gateway, "GET", "/v1/models/pirate")
    assert (status, one) == (200, models["pirate"])


async def test_a_request_for_it_names_its_files_to_the_engine(gateway: Gateway, triton: FakeTriton) -> None:
    record = await add(gateway)
    status, answer = await gateway.ask("/v1/chat/completions", CHAT)
    assert (status, answer["model"]) == (200, "pirate")
    sent = triton.requests[-1]
    assert (sent["adapter"], sent["adapter_checksum"]) == ("pirate/1", record["revisions"][0]["checksum"])
    await gateway.ask("/v1/chat/completions", {**CHAT, "model": "tiny"})
    assert "adapter" not in triton.requests[-1]


async def test_promoting_and_removing_hold_for_the_next_request(gateway: Gateway, triton: FakeTriton) -> None:
    await add(gateway)
    await add(gateway, "2")
    await gateway.ask("/v1/chat/completions", {**CHAT, "model": "pirate@2"})
    assert triton.requests[-1]["adapter"] == "pirate/2"
    status, row = await gateway.ask(f"{ADAPTERS}/pirate/promote", {"revision": "2"})
    assert (status, [one["current"] for one in row["revisions"]]) == (200, [False, True])
    await gateway.ask("/v1/chat/completions", CHAT)
    assert triton.requests[-1]["adapter"] == "pirate/2"
    assert (await send(gateway, "DELETE", f"{ADAPTERS}/pirate?revision=1"))[0] == 200
    assert (await send(gateway, "DELETE", f"{ADAPTERS}/pirate"))[0] == 200
    status, error = await gateway.ask("/v1/chat/completions", CHAT)
    assert (status, error["error"]["code"]) == (404, "model_not_found")


async def test_being_allowed_the_base_does_not_allow_its_adapters(gateway: Gateway, store: KeyStore) -> None:
    await add(gateway)
    for models, status in ((frozenset({"tiny"}), 403), (frozenset({"tiny", "pirate"}), 200)):
        _, secret = await store.create(tenant="acme", name="some", scopes=frozenset({"inference"}), models=models)
        found, _ = await gateway.ask("/v1/chat/completions", CHAT, authorization=f"Bearer {secret}")
        assert found == status


async def test_limits_of_an_adapter_hold_for_it_alone(gateway: Gateway) -> None:
    await add(gateway, limits={"requests_per_minute": 1})
    statuses = [(await gateway.ask("/v1/chat/completions", CHAT))[0] for _ in range(2)]
    assert statuses == [200, 429]
    _, error = await gateway.ask("/v1/chat/completions", CHAT)
    assert "the adapter's limit of 1 requests a minute" in error["error"]["message"]
    assert (await gateway.ask("/v1/chat/completions", {**CHAT, "model": "tiny"}))[0] == 200
    assert (await send(gateway, "PATCH", f"{ADAPTERS}/pirate", {"limits": None}))[0] == 200
    assert (await gateway.ask("/v1/chat/completions", CHAT))[0] == 200


async def test_a_damaged_one_is_its_requests_failure_and_not_the_backends(gateway: Gateway, triton: FakeTriton) -> None:
    await add(gateway)
    body = {"message": "adapter pirate/1: damaged", "type": "server_error", "code": "adapter_unavailable"}
    triton.script.fail_at, triton.script.error = 0, f"in ensemble 'chat', {json.dumps(body)}"
    for _ in range(6):
        status, error = await gateway.ask("/v1/chat/completions", CHAT)
        assert (status, error["error"]["code"]) == (503, "adapter_unavailable")
    triton.script.fail_at = None
    assert (await gateway.ask("/v1/chat/completions", {**CHAT, "model": "tiny"}))[0] == 200
    (member,) = gateway.app[ROUTER]
    assert member.ejection.closed


async def test_without_a_backend_for_adapters_only_they_are_refused(start: StartGateway, tmp_path: Path) -> None:
    write_adapter(tmp_path / "pirate" / "1")
    async with start(TRIREME_ADAPTERS_DIR=str(tmp_path)) as gateway:
        await add(gateway)
        status, error = await gateway.ask("/v1/chat/completions", CHAT)
        assert (status, error["error"]["code"]) == (503, "backend_unavailable")
        assert "serves adapters of 'tiny'" in error["error"]["message"]
        assert (await gateway.ask("/v1/chat/completions", {**CHAT, "model": "tiny"}))[0] == 200


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"name": "tiny"}, 409, "name"),
        ({"name": "a/b"}, 400, "name"),
        ({"revision": "../1"}, 400, "revision"),
        ({"path": "../../etc"}, 400, "path"),
        ({"path": "/etc"}, 400, "path"),
        ({"path": "https://host/x"}, 400, "path"),
        ({"checksum": "sha256:0"}, 400, "checksum"),
    ],
)
async def test_what_cannot_be_added_names_the_member(
    gateway: Gateway, fields: dict[str, str], status: int, param: str
) -> None:
    found, error = await gateway.ask(ADAPTERS, {"name": "pirate", "revision": "1", **fields})
    assert (found, error["error"]["param"]) == (status, param)


async def test_requests_are_counted_by_adapter_and_revision(gateway: Gateway, triton: FakeTriton) -> None:
    await add(gateway)
    await add(gateway, "2")
    for model in ("pirate", "pirate", "pirate@2", "tiny"):
        await gateway.ask("/v1/chat/completions", {**CHAT, "model": model})
    triton.script.fail_at = 0
    await gateway.ask("/v1/chat/completions", CHAT)
    value = gateway.app[METRICS].registry.get_sample_value
    counted = {
        (revision, outcome): value(
            "trireme_adapter_requests_total", {"adapter": "pirate", "revision": revision, "outcome": outcome}
        )
        for revision in ("1", "2")
        for outcome in ("ok", "failed")
    }
    assert counted == {("1", "ok"): 2, ("1", "failed"): 1, ("2", "ok"): 1, ("2", "failed"): None}
    assert value("trireme_adapters") == 1


async def test_a_pin_is_told_to_the_engine(gateway: Gateway, triton: FakeTriton) -> None:
    await add(gateway)
    status, row = await send(gateway, "PATCH", f"{ADAPTERS}/pirate", {"pinned": True})
    assert (status, row["pinned"]) == (200, True)
    async with asyncio.timeout(5):
        order = await triton.controls.get()
    assert (order["control"], order["adapter"]["path"]) == ("pin", "pirate/1")
