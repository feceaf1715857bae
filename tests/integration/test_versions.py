"""Versions come and go in one real tritonserver while dozens of streams run: none is dropped, none gets another one."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner
from typer.testing import Result as CommandResult

from control_plane.rollouts.commands import Commands
from control_plane.rollouts.state import Rules
from control_plane.rollouts.store import Store
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import Arm, RoutingSnapshot
from tests.support.gateway import GatewayClient, plain_http, wait_until
from tests.support.triton import DirectTriton
from tests.support.versions import versions_of
from trireme import probes
from trireme.cli import app
from trireme.errors import TriremeError
from trireme.parts import repository_path
from trireme.restart import Backoff
from trireme.settings import LOOPBACK
from trireme.stack import EmbeddedStack, isolated_settings
from trireme.supervisor import Supervision
from trireme.versions import Row

pytestmark = pytest.mark.integration
Result = TypeVar("Result")
STREAMS, TOKENS, DELAY_MS = 24, 60, 40
HALF = Rules(steps=(50, 100), min_samples=50, min_step_s=0.0, first_look=50, error_margin=0.1, latency_margin=3.0)
QUICK = {"routing": {"probe_interval_s": 0.5}}
PATIENCE_S = 120.0


class Fleet:
    """A whole stack, and the versions in its Triton."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.stack = stack
        self.model = stack.settings.model.name
        self.client = GatewayClient(stack)
        self.steps: list[str] = []
        self.versions = versions_of(stack, self.steps.append)

    def trireme(self, *words: str) -> CommandResult:
        """`trireme versions`, at this stack."""
        stack = self.stack
        place = ["--triton", stack.triton_url, "--triton-grpc", stack.triton_grpc_url]
        place += ["--repository", str(repository_path(stack.settings))]
        done = CliRunner().invoke(app, ["versions", *words, *place], env={"TRIREME_VALKEY_URL": stack.valkey_url})
        assert done.exit_code == 0, done.exception
        return done

    def rows(self) -> dict[str, Row]:
        return {row.version: row for row in self.versions.rows()}

    def command(self, give: Callable[[Commands], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            async with Redis.from_url(self.stack.valkey_url) as redis:
                return await give(Commands(Store(redis), RoutingDocument(redis), "test"))

        return asyncio.run(run())

    def document(self) -> RoutingSnapshot:
        async def run() -> RoutingSnapshot:
            async with Redis.from_url(self.stack.valkey_url) as redis:
                return await RoutingDocument(redis).read()

        return asyncio.run(run())

    def known(self, version: str) -> None:
        """To the gateway, which hears of it with its next probe."""
        wait_until(lambda: self.ask(version).status_code == httpx.codes.OK, f"{version} can be asked for", PATIENCE_S)

    def ask(self, version: str, **fields: Any) -> httpx.Response:
        return self.client.chat(model=f"{self.model}@{version}", max_tokens=2, **fields)

    def engine(self, version: str) -> dict[str, Any] | None:
        return probes.engine_state(LOOPBACK, self.stack.settings.ports.triton_http, version)


class Streams:
    """So many clients that stream one answer after the other. `ended`: by version and whether all of it came."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._over = threading.Event()
        self.ended: Counter[tuple[str | None, str]] = Counter()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(STREAMS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def broken(self) -> dict[tuple[str | None, str], int]:
        return {key: number for key, number in self.ended.items() if key[1] != "whole"}

    def _run(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            self.ended[self._one(f"client {number}, turn {turn}")] += 1

    def _one(self, user: str) -> tuple[str | None, str]:
        body = self._fleet.client.body({"delay_ms": DELAY_MS}, max_tokens=TOKENS, stream=True, user=user)
        url = f"{self._fleet.stack.gateway_url}/v1/chat/completions"
        words = 0
        with plain_http().stream("POST", url, json=body, headers=self._fleet.client.headers) as response:
            version = response.headers.get("x-model-version")
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return version, "whole" if words == TOKENS else f"{words} words"
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return version, str(event)
                    words += len(event["choices"][0]["delta"].get("content", "").split())
        return version, f"cut after {words} words, status {response.status_code}"


@contextmanager
def streaming(fleet: Fleet) -> Iterator[Streams]:
    streams = Streams(fleet)
    streams.start()
    try:
        yield streams
    finally:
        streams.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("versions")
    settings = isolated_settings(directory, engine="scripted", triton_models=("chat",), gateway=QUICK)
    supervision = Supervision(backoff=Backoff(first=0.1, factor=1.0), probe_every=1.0)
    with EmbeddedStack(settings, supervision=supervision) as running:
        yield Fleet(running)


@pytest.fixture
def direct(fleet: Fleet) -> Iterator[DirectTriton]:
    one = DirectTriton(fleet.stack.triton_url)
    yield one
    one.close()


def test_a_new_version_takes_over_from_the_old_one_and_no_stream_notices(fleet: Fleet, direct: DirectTriton) -> None:
    with streaming(fleet) as streams:
        wait_until(lambda: streams.ended["1", "whole"] >= STREAMS, "streams run on version 1")
        first_engine = fleet.engine("1")
        fleet.trireme("load", "2", "--engine-args", '{"max_model_len": 2048}')
        fleet.known("2")
        rows = json.loads(fleet.trireme("list", "--json").stdout)
        assert [(row["version"], row["state"], row["default"], row["arms"]) for row in rows] == [
            ("1", "ready", True, {"stable": 1}),
            ("2", "ready", False, {"v2": 0}),
        ]
        assert rows[1]["overrides"] == {"max_model_len": 2048}
        assert fleet.ask("2").headers["x-model-version"] == "2"
        assert first_engine is not None
        assert (fleet.engine("1") or {})["steps"] > first_engine["steps"], "version 1 was not loaded anew"
        promote(fleet)
        assert "version 2 now" in fleet.trireme("unload", "1").stderr
        after = streams.ended["2", "whole"]
        wait_until(lambda: streams.ended["2", "whole"] >= after + STREAMS, "streams run on version 2")
    assert streams.broken == {}
    (row,) = fleet.trireme("list").stdout.splitlines()[1:]
    assert row.split()[:3] == ["2", "ready", "v2=1"]
    assert direct.get("/v2/models/chat").json()["versions"] == ["2"]
    assert fleet.ask("1").status_code == httpx.codes.NOT_FOUND
    assert fleet.client.chat(max_tokens=1).headers["x-model-version"] == "2"


def promote(fleet: Fleet) -> None:
    """By its own requests, as the control plane decides."""
    one = fleet.command(lambda commands: commands.start(fleet.model, Arm(name="v2"), HALF, time.time()))
    assert (one.definition.canary.triton_model, one.definition.canary.version) == ("chat_2", "2")
    until, sessions = time.monotonic() + PATIENCE_S, 0
    while len(arms(fleet)) != 1 and time.monotonic() < until:
        for _ in range(10):
            sessions += 1
            answer = fleet.client.chat(max_tokens=4, user=f"session {sessions}")
            assert answer.headers["x-model-version"] in ("1", "2")
    assert arms(fleet) == {"v2": 1}


def arms(fleet: Fleet) -> dict[str, int]:
    return {arm.name: arm.weight for route in fleet.document().models for arm in route.arms}


def test_what_makes_no_sense_is_refused(fleet: Fleet) -> None:
    with pytest.raises(TriremeError, match=r"is in .* already: unload it first"):
        fleet.versions.load("2", {}, PATIENCE_S)
    with pytest.raises(TriremeError, match="There is no version 9; there are: 2"):
        fleet.versions.unload("9", PATIENCE_S)
    with pytest.raises(TriremeError, match="Version 2 is the only one"):
        fleet.versions.unload("2", PATIENCE_S)


def test_a_version_that_cannot_be_loaded_leaves_everything_as_it_was(fleet: Fleet) -> None:
    before = fleet.rows().keys()
    with streaming(fleet) as streams:
        with pytest.raises(TriremeError, match=r"could not load chat_3(.|\n)*invalid literal"):
            fleet.versions.load("3", {"max_model_len": "many"}, PATIENCE_S)
        done = sum(streams.ended.values())
        wait_until(lambda: sum(streams.ended.values()) >= done + STREAMS, "streams run on")
    assert streams.broken == {}
    assert fleet.rows().keys() == before
    assert fleet.ask("3").status_code == httpx.codes.NOT_FOUND
    backend = fleet.client.get("/admin/v1/backends").json()["data"][0]
    assert backend["healthy"]


@pytest.fixture(scope="module")
def third(fleet: Fleet) -> Iterator[None]:
    """Version 3 beside version 2, which has all calls."""
    fleet.versions.load("3", {}, PATIENCE_S)
    fleet.known("3")
    yield
    fleet.versions.unload("3", PATIENCE_S)
    assert list(fleet.rows()) == ["2"]


@pytest.mark.usefixtures("third")
def test_a_version_that_somebody_is_given_to_is_not_unloaded(fleet: Fleet) -> None:
    with pytest.raises(TriremeError, match=r"Version 2 is still used, by arm v2 of .* with 100 % of the calls"):
        fleet.versions.unload("2", PATIENCE_S)


@pytest.mark.usefixtures("third")
def test_who_leaves_a_stream_stops_the_engine_of_that_version(fleet: Fleet) -> None:
    for version, other in (("2", "3"), ("3", "2")):
        left = fleet.client.ask(script={"delay_ms": 20}, max_tokens=2000, model=f"{fleet.model}@{version}")
        wait_until(lambda one=version: (fleet.engine(one) or {})["running"] == 1, f"it runs on {version}")
        assert (fleet.engine(other) or {})["running"] == 0
        left.leave()
        wait_until(lambda one=version: (fleet.engine(one) or {})["running"] == 0, f"it ends on {version}", 5.0)


@pytest.mark.usefixtures("third")
def test_triton_is_killed_while_it_loads_and_comes_back_with_the_versions_that_were_there(fleet: Fleet) -> None:
    failures: list[TriremeError] = []

    def load() -> None:
        try:
            fleet.versions.load("5", {}, PATIENCE_S)
        except TriremeError as error:
            failures.append(error)

    loading = threading.Thread(target=load)
    fleet.steps.clear()
    loading.start()
    wait_until(lambda: "loading version 5" in fleet.steps, "the load begins")
    fleet.stack.kill("triton")
    loading.join()
    assert len(failures) == 1
    wait_until(lambda: list(settled(fleet)) == ["2", "3"], "versions 2 and 3 are left", PATIENCE_S)
    fleet.known("3")
    assert fleet.ask("3").headers["x-model-version"] == "3"
    assert fleet.client.chat(max_tokens=1).headers["x-model-version"] == "2"


def settled(fleet: Fleet) -> dict[str, Row]:
    """Triton may be away."""
    with suppress(TriremeError):
        return {version: row for version, row in fleet.rows().items() if row.state == "ready"}
    return {}
