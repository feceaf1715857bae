"""One gateway before two real tritonservers with the scripted engine, whose answers begin with the adapter's name."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.support.adapters import shapes_of, write_adapter
from tests.support.gateway import GatewayClient, events, plain_http, wait_until
from tests.support.triton import DirectTriton, text_of
from trireme.cli import app
from trireme.errors import TriremeError
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
ADAPTERS = "/admin/v1/adapters"
ROUTING: dict[str, Any] = {"probe_interval_s": 0.2, "slow_start_s": 0.0, "weights": {"load": 0.1, "adapter": 1.0}}
PLACES = 3
DAMAGES = ("missing", "changed", "refused")


@dataclass
class Fleet:
    """`root`: of the adapters' files. `directs`: both servers, by backend id."""

    client: GatewayClient
    root: Path
    model_dir: Path
    directs: dict[str, DirectTriton]

    def write(self, path: str, seed: int = 0, **orders: Any) -> None:
        shapes = shapes_of(self.model_dir, "q_proj")
        write_adapter(self.root / path, seed, shapes=shapes, orders=orders)

    def add(self, name: str, revision: str = "1", seed: int = 0, **fields: Any) -> dict[str, Any]:
        """Written and registered."""
        orders = fields.pop("orders", {})
        self.write(f"{name}/{revision}", seed, **orders)
        answer = self.client.post(ADAPTERS, {"name": name, "revision": revision, **fields})
        assert answer.status_code == httpx.codes.CREATED, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def say(self, model: str, **fields: Any) -> str:
        answer = self.client.chat(model=model, max_tokens=3, **fields)
        assert answer.status_code == httpx.codes.OK, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        url = f"{self.client._stack.gateway_url}{ADAPTERS}{path}"
        return plain_http().request(method, url, json=body, headers=self.client.headers)

    def shelf(self, backend: str) -> dict[str, Any]:
        return self.directs[backend].control(control="adapters")

    def loaded(self, checksum: str) -> list[str]:
        return [name for name in self.directs if checksum in self.shelf(name)["loaded"]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("adapters")

    def stack(name: str, parts: set[str], **changes: Any) -> EmbeddedStack:
        state = tmp_path_factory.mktemp(name)
        settings = isolated_settings(state, engine="scripted", triton_models=("chat",), **changes)
        adapters = replace(settings.adapters, dir=root, max_loras=2, max_cpu_loras=PLACES)
        return EmbeddedStack(replace(settings, adapters=adapters), parts=parts)

    with stack("a", {"triton"}) as a, stack("b", {"triton"}) as b:
        backends = [{"id": "a", "url": a.triton_url}, {"id": "b", "url": b.triton_url}]
        gateway = {"routing": {**ROUTING, "backends": backends}, "adapters": {"refresh_s": 0.3}}
        with stack("front", {"valkey", "gateway"}, gateway=gateway) as front:
            client = GatewayClient(front)
            wait_until(client.ready, "the gateway is ready")
            directs = {"a": DirectTriton(a.triton_url), "b": DirectTriton(b.triton_url)}
            rows = "/admin/v1/backends"
            wait_until(lambda: all(row["healthy"] for row in client.get(rows).json()["data"]), "both are healthy")
            yield Fleet(client, root, front.settings.model.path, directs)
            for direct in directs.values():
                direct.close()


def checksum_of(row: dict[str, Any], revision: str = "1") -> str:
    (found,) = [one["checksum"] for one in row["revisions"] if one["revision"] == revision]
    return str(found)


def test_each_request_gets_the_adapter_that_it_names(fleet: Fleet) -> None:
    fleet.add("red", seed=1)
    fleet.add("blue", seed=2)
    base = fleet.client._stack.settings.model.name
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(fleet.say, ["red", "blue", base] * 8))
    for name, answer in zip(["red", "blue", base] * 8, answers, strict=True):
        assert answer.startswith(f"[{name}/1@sha256:") == (name != base)


def test_an_adapter_is_loaded_by_one_backend_and_stays_with_it(fleet: Fleet) -> None:
    row = fleet.add("homely", seed=3)
    for _ in range(10):
        fleet.say("homely")
    assert len(fleet.loaded(checksum_of(row))) == 1


def test_a_promotion_leaves_streams_alone_and_the_old_revision_is_unloaded_after_them(fleet: Fleet) -> None:
    first = fleet.add("hot", "1", seed=4)
    answers: list[httpx.Response] = []

    def stream() -> None:
        script = {"delay_ms": 100}
        answers.append(fleet.client.chat(model="hot", stream=True, max_tokens=30, script=script))

    streams = [threading.Thread(target=stream) for _ in range(4)]
    for one in streams:
        one.start()
    wait_until(lambda: bool(fleet.loaded(checksum_of(first))), "the first revision is loaded", 20.0)
    fleet.add("hot", "2", seed=5)
    assert fleet.send("POST", "/hot/promote", {"revision": "2"}).status_code == httpx.codes.OK
    assert fleet.say("hot").startswith("[hot/2@")
    assert any(one.is_alive() for one in streams), "the streams were over too soon to tell"
    for one in streams:
        one.join()
    for answer in answers:
        chunks = [one["choices"][0] for one in events(answer) if one.get("choices")]
        assert "".join(one["delta"].get("content") or "" for one in chunks).startswith("[hot/1@")
        assert chunks[-1]["finish_reason"] == "length"
    wait_until(lambda: not fleet.loaded(checksum_of(first)), "the old revision is unloaded", 20.0)
    assert fleet.say("hot@1").startswith("[hot/1@")


def test_a_removed_adapter_is_not_found_and_is_unloaded(fleet: Fleet) -> None:
    row = fleet.add("gone", seed=6)
    fleet.say("gone")
    assert fleet.send("DELETE", "/gone").status_code == httpx.codes.OK
    answer = fleet.client.chat(model="gone")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    wait_until(lambda: not fleet.loaded(checksum_of(row)), "it is unloaded", 20.0)


def test_a_pinned_adapter_is_in_every_engine_before_anybody_asks(fleet: Fleet) -> None:
    row = fleet.add("firm", seed=7)
    assert fleet.send("PATCH", "/firm", {"pinned": True}).json()["pinned"] is True
    wait_until(lambda: fleet.loaded(checksum_of(row)) == ["a", "b"], "both engines have it", 20.0)
    for number in range(2 * PLACES):
        fleet.add(f"passing{number}", seed=20 + number)
        fleet.say(f"passing{number}")
    assert fleet.loaded(checksum_of(row)) == ["a", "b"]
    fleet.send("PATCH", "/firm", {"pinned": False})
    wait_until(lambda: not any(fleet.shelf(name)["pinned"] for name in "ab"), "nothing is pinned", 20.0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_adapter_fails_for_its_own_requests_only(fleet: Fleet, damage: str) -> None:
    seed = 50 + 10 * DAMAGES.index(damage)
    fleet.add(damage, seed=seed, orders={"fail": damage == "refused"})
    if damage == "missing":
        (fleet.root / damage / "1" / "adapter_model.safetensors").unlink()
    elif damage == "changed":
        fleet.write(f"{damage}/1", seed=seed + 1)
    fleet.add(f"beside-{damage}", seed=seed + 2)
    with ThreadPoolExecutor(12) as pool:
        bad = [pool.submit(fleet.client.chat, model=damage, max_tokens=2) for _ in range(6)]
        good = [pool.submit(fleet.say, f"beside-{damage}") for _ in range(6)]
        assert [one.result().json()["error"]["code"] for one in bad] == ["adapter_unavailable"] * 6
        assert all(one.result().startswith(f"[beside-{damage}/1@") for one in good)
    rows = fleet.client.get("/admin/v1/backends").json()["data"]
    assert all(row["healthy"] and row["circuit"] == "closed" for row in rows)


def test_more_adapters_than_places_take_turns_and_no_request_fails(fleet: Fleet) -> None:
    names = [f"many{number}" for number in range(3 * PLACES)]
    for number, name in enumerate(names):
        fleet.add(name, seed=100 + number, orders={"load_ms": 5})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(fleet.say, names * 6))
    assert [answer.partition("/")[0] for answer in answers] == [f"[{name}" for name in names * 6]
    assert all(len(fleet.shelf(name)["loaded"]) <= PLACES for name in "ab")


def test_a_direct_client_names_a_directory_below_the_root_and_nothing_else(fleet: Fleet) -> None:
    fleet.write("direct/1", seed=11)
    direct = fleet.directs["a"]
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    assert text_of(direct.deltas(body, adapter="direct/1")).startswith("[direct/1@")
    for path in ("/etc", "../adapters", "direct/../../x", ""):
        (failed,) = direct.deltas(body, adapter=path)
        assert failed["error"]["param"] == "adapter"
    (missing,) = direct.deltas(body, adapter="nobody/1")
    assert missing["error"]["code"] == "adapter_unavailable"
    shelf = direct.control(control="load", adapter={"path": "direct/1"})
    with suppress(KeyError):
        assert shelf["loaded"]
    assert not text_of(direct.deltas(body)).startswith("[")


def test_the_commands_do_what_the_admin_api_does(fleet: Fleet) -> None:
    fleet.write("typed/1", seed=301)
    fleet.write("elsewhere", seed=302)
    where = ["--url", fleet.client._stack.gateway_url, "--key", fleet.client._stack.dev_key]

    def trireme(*words: str) -> str:
        done = CliRunner().invoke(app, ["adapters", *words, *where])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    trireme("add", "typed", "1", "--limit", "requests_per_minute=100")
    trireme("add", "typed", "2", "--path", "elsewhere")
    trireme("promote", "typed", "2")
    trireme("pin", "typed")
    (row,) = [one for one in json.loads(trireme("list", "--json")) if one["id"] == "typed"]
    assert row["pinned"] and row["limits"] == {"requests_per_minute": 100}
    assert {one["revision"]: (one["path"], one["current"]) for one in row["revisions"]} == {
        "1": ("typed/1", False),
        "2": ("elsewhere", True),
    }
    assert "typed" in trireme("list")
    trireme("unpin", "typed")
    trireme("remove", "typed", "--revision", "1")
    trireme("remove", "typed")
    refused = CliRunner().invoke(app, ["adapters", "promote", "typed", "1", *where])
    assert isinstance(refused.exception, TriremeError)
    assert "there is no adapter 'typed'" in str(refused.exception)
