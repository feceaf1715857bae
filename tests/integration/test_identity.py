"""Tenants and keys with two gateway processes, one Valkey, and the command line."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.support.gateway import plain_http, wait_until
from trireme.claims import free_ports
from trireme.keys import key_store, pepper_file
from trireme.parts import gateway_environment
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration

TRIREME = Path(sys.prefix) / "bin" / "trireme"
PROMISED_S = 1.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Keys need no Triton."""
    settings = isolated_settings(tmp_path_factory.mktemp("identity"))
    with EmbeddedStack(settings, parts={"valkey", "gateway"}) as running:
        yield running


@pytest.fixture(scope="module")
def urls(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of the stack's gateway and of a second one."""
    (port,) = free_ports(1)
    spool = tmp_path_factory.mktemp("second") / "spool"
    environment = {**gateway_environment(stack.settings), "TRIREME_PORT": str(port), "TRIREME_SPOOL_DIR": str(spool)}
    process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, stderr=subprocess.DEVNULL)
    try:
        second = f"http://127.0.0.1:{port}"
        for url in (stack.gateway_url, second):
            wait_until(lambda url=url: keys_are_read(url), f"{url} reads the keys")
        yield stack.gateway_url, second
    finally:
        process.terminate()
        process.wait(30)


def keys_are_read(url: str) -> bool:
    try:
        return bool(plain_http().get(f"{url}/health/ready").json()["checks"]["keys"] == "ok")
    except httpx.TransportError:
        return False


class Admin:
    """Speaks to one gateway with the development key."""

    def __init__(self, url: str, stack: EmbeddedStack) -> None:
        self._url = f"{url}/admin/v1"
        self._headers = {"Authorization": f"Bearer {stack.dev_key}"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        answer = plain_http().request(method, self._url + path, json=body, headers=self._headers)
        assert answer.is_success, answer.text
        return answer.json()


def status(url: str, secret: str) -> int:
    return plain_http().get(f"{url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code


def within_a_second(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, f"{what} within {PROMISED_S} s", PROMISED_S)


def test_what_one_gateway_changes_the_other_knows_within_a_second(stack: EmbeddedStack, urls: tuple[str, str]) -> None:
    here, there = urls
    admin = Admin(here, stack)
    admin("POST", "/tenants", {"id": "acme"})
    key = admin("POST", "/keys", {"tenant": "acme", "name": "web", "scopes": ["inference"]})
    place, secret = f"/keys/{key['id']}", key["secret"]
    within_a_second(lambda: status(there, secret) == 200, "a new key works")

    model = stack.settings.embedding_model.name
    admin("PATCH", place, {"models": [model]})
    within_a_second(lambda: models(there, secret) == [model], "a change of a key is known")

    rotated = admin("POST", f"{place}/rotate", {"overlap_seconds": 0})["secret"]
    within_a_second(lambda: status(there, secret) == 401, "a secret that was rotated away is refused")
    assert status(there, rotated) == 200

    admin("DELETE", place)
    within_a_second(lambda: status(there, rotated) == 401, "a revoked key is refused")


def test_an_overlap_lets_both_secrets_work_on_both_gateways(stack: EmbeddedStack, urls: tuple[str, str]) -> None:
    admin = Admin(urls[1], stack)
    key = admin("POST", "/keys", {"tenant": "default", "name": "web", "scopes": ["inference"]})
    second = admin("POST", f"/keys/{key['id']}/rotate", {"overlap_seconds": 2})["secret"]
    for url in urls:
        assert [status(url, secret) for secret in (key["secret"], second)] == [200, 200]
    wait_until(lambda: all(status(url, key["secret"]) == 401 for url in urls), "the overlap ends", 4)
    assert [status(url, second) for url in urls] == [200, 200]


def test_deleting_a_tenant_ends_its_keys_everywhere(stack: EmbeddedStack, urls: tuple[str, str]) -> None:
    admin = Admin(urls[0], stack)
    admin("POST", "/tenants", {"id": "brief"})
    secrets = [
        admin("POST", "/keys", {"tenant": "brief", "name": str(number), "scopes": ["inference"]})["secret"]
        for number in range(5)
    ]
    within_a_second(lambda: all(status(urls[1], secret) == 200 for secret in secrets), "new keys work")
    admin("DELETE", "/tenants/brief?force=true")
    within_a_second(lambda: all(status(urls[1], secret) == 401 for secret in secrets), "they are refused")


def test_a_valkey_that_was_flushed_gets_everything_back(stack: EmbeddedStack, urls: tuple[str, str]) -> None:
    admin = Admin(urls[0], stack)
    key = admin("POST", "/keys", {"tenant": "default", "name": "kept", "scopes": ["inference"]})
    revoked = admin("POST", "/keys", {"tenant": "default", "name": "dead", "scopes": ["inference"]})
    admin("DELETE", f"/keys/{revoked['id']}")
    within_a_second(lambda: status(urls[1], key["secret"]) == 200, "the key works")
    asyncio.run(flush(stack.valkey_url))
    began = time.monotonic()
    while time.monotonic() - began < 12 and not asyncio.run(is_stored(stack, key["id"])):
        assert [status(url, key["secret"]) for url in urls] == [200, 200]
        assert [status(url, revoked["secret"]) for url in urls] == [401, 401]
        time.sleep(0.2)
    assert admin("GET", f"/keys/{key['id']}")["status"] == "active"
    assert admin("GET", f"/keys/{revoked['id']}")["status"] == "revoked"


async def flush(url: str) -> None:
    async with Redis.from_url(url) as redis:
        await redis.flushall()


async def is_stored(stack: EmbeddedStack, key_id: str) -> bool:
    async with key_store(stack.settings, {}) as store:
        return any(record.key_id == key_id for record in await store.list())


def models(url: str, secret: str) -> list[str]:
    answer = plain_http().get(f"{url}/v1/models", headers={"Authorization": f"Bearer {secret}"})
    return [model["id"] for model in answer.json().get("data", [])]


def trireme(stack: EmbeddedStack, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command against the stack's Valkey, as from another machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIREME_")}
    remote = {"TRIREME_VALKEY_URL": stack.valkey_url, "TRIREME_PEPPER_FILE": str(pepper_file(stack.settings))}
    return subprocess.run(
        [str(TRIREME), *arguments],
        env={**environment, **remote, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ok(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_command_line_does_the_same(stack: EmbeddedStack, urls: tuple[str, str]) -> None:
    ok(trireme(stack, "tenants", "create", "cli", "--name", "By hand", "--limit", "requests_per_minute=60"))
    tenant = json.loads(ok(trireme(stack, "tenants", "set", "cli", "--quota", "tokens_per_day=1000", "--weight", "2")))
    assert (tenant["name"], tenant["limits"]) == ("By hand", {"requests_per_minute": 60})
    assert (tenant["quotas"], tenant["weight"]) == ({"tokens_per_day": 1000}, 2)
    cleared = json.loads(ok(trireme(stack, "tenants", "set", "cli", "--limit", "requests_per_minute=none")))
    assert cleared["limits"] == {}
    assert "cli" in [one["id"] for one in json.loads(ok(trireme(stack, "tenants", "list", "--json")))]

    made = trireme(
        stack, "keys", "create", "--tenant", "cli", "--scope", "inference", "--limit", "concurrent_requests=2"
    )
    secret = ok(made)
    within_a_second(lambda: status(urls[1], secret) == 200, "a key of the command line works")
    (key,) = json.loads(ok(trireme(stack, "keys", "list", "--tenant", "cli", "--json")))
    assert (key["limits"], key["status"], "secret" in key) == ({"concurrent_requests": 2}, "active", False)
    assert json.loads(ok(trireme(stack, "keys", "show", key["id"])))["id"] == key["id"]
    assert secret not in ok(trireme(stack, "keys", "list"))

    second = ok(trireme(stack, "keys", "rotate", key["id"], "--overlap", "0"))
    within_a_second(lambda: status(urls[1], secret) == 401, "the old secret is refused")
    assert status(urls[1], second) == 200

    refused = trireme(stack, "tenants", "delete", "cli")
    assert (refused.returncode, "force" in refused.stderr) == (1, True)
    ok(trireme(stack, "tenants", "delete", "cli", "--force"))
    within_a_second(lambda: status(urls[1], second) == 401, "the key of a deleted tenant is refused")


def test_the_command_line_says_what_is_wrong(stack: EmbeddedStack) -> None:
    for arguments, words in (
        (("keys", "create", "--tenant", "nobody"), "trireme tenants create nobody"),
        (("keys", "create", "--scope", "root"), "root"),
        (("keys", "create", "--limit", "speed=3"), "requests_per_minute"),
        (("keys", "create", "--limit", "requests_per_minute=0"), "requests_per_minute"),
        (("keys", "revoke", "key_none"), "key_none"),
        (("tenants", "create", "a b"), "'a b'"),
        (("tenants", "show", "nobody"), "nobody"),
    ):
        run = trireme(stack, *arguments)
        assert (run.returncode, words in run.stderr) == (1, True), run.stderr
    without = trireme(stack, "keys", "list", TRIREME_PEPPER_FILE="")
    assert (without.returncode, "TRIREME_PEPPER" in without.stderr) == (1, True)
    both = trireme(stack, "keys", "list", TRIREME_PEPPER="ab" * 32)
    assert (both.returncode, "set one" in both.stderr) == (1, True)
