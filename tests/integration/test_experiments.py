"""A whole stack with the control plane: calls are divided, rated and copied, and counted as they were."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from control_plane.arms import with_arm
from control_plane.experiments.commands import TrialCommands
from control_plane.experiments.evidence import Evidence, Pairs
from control_plane.experiments.results import paired, results
from control_plane.experiments.state import Mirroring, Trial
from control_plane.experiments.store import TrialStore
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import Arm
from tests.support.gateway import GatewayClient, wait_until
from tests.support.ledger import entries
from tests.support.proxy import FaultyProxy
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
Result = TypeVar("Result")
# The same Triton model, once by its version: an arm of its own that is no better.
SAME = Arm(name="v1", version="1")
SHADOW = Arm(name="new", group="shadow")
QUICKLY = {"mirroring": {"concurrent": 4, "deadline_s": 3.0}, "routing": {"probe_timeout_s": 1.0, "hung_s": 2.0}}


@dataclass
class Whole:
    """`shadow`: a second Triton, which the gateway of `stack` reaches by `proxy`."""

    stack: EmbeddedStack
    shadow: EmbeddedStack
    proxy: FaultyProxy
    client: GatewayClient

    def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            async with Redis.from_url(self.stack.valkey_url) as redis:
                return await work(redis)

        return asyncio.run(run())

    def command(self, give: Callable[[TrialCommands], Awaitable[Result]]) -> Result:
        return self.do(lambda redis: give(TrialCommands(TrialStore(redis), RoutingDocument(redis), "test")))

    def evidence(self, trial: Trial) -> Evidence | Pairs:
        return self.do(lambda redis: TrialStore(redis).evidence(trial))

    def weights(self) -> dict[str, int]:
        document = self.do(lambda redis: RoutingDocument(redis).read())
        return {arm.name: arm.weight for route in document.models for arm in route.arms}

    def mirror(self) -> Mirroring:
        model = self.stack.settings.model.name
        return self.command(lambda commands: commands.mirror(model, SHADOW, 1.0, time.time()))

    def stop(self, trial: Trial) -> None:
        self.command(lambda commands: commands.stop(trial.id, time.time()))

    def copies(self, mirroring: Mirroring) -> Pairs:
        pairs = self.evidence(mirroring)
        assert isinstance(pairs, Pairs)
        return pairs

    def shadow_is(self, healthy: bool) -> None:
        def found() -> bool:
            rows = self.client.get("/admin/v1/backends").json()["data"]
            return any(row["id"] == "shadow" and row["healthy"] is healthy for row in rows)

        wait_until(found, f"the shadow's health is {healthy}", 90.0)

    def ask(self, number: int, **fields: object) -> list[float]:
        """So many chats one after the other, all answered; milliseconds of each."""
        found = []
        for one in range(number):
            began = time.monotonic()
            content = [{"role": "user", "content": f"{uuid4()}: {one} boats"}]  # nothing that a cache knows
            response = self.client.chat(messages=content, max_tokens=4, temperature=0, **fields)
            assert response.status_code == httpx.codes.OK, response.text
            found.append((time.monotonic() - began) * 1000)
        return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    second = isolated_settings(tmp_path_factory.mktemp("shadow"), engine="scripted", triton_models=("chat",))
    first = isolated_settings(
        tmp_path_factory.mktemp("experiments"), engine="scripted", triton_models=("chat",), gateway=QUICKLY
    )
    with (
        EmbeddedStack(second, parts={"triton"}) as shadow,
        FaultyProxy("127.0.0.1", shadow.settings.ports.triton_http) as proxy,
        EmbeddedStack(first) as stack,
    ):
        client = GatewayClient(stack)
        body = {"id": "shadow", "url": f"http://127.0.0.1:{proxy.port}", "group": "shadow"}
        assert client.post("/admin/v1/backends", body).status_code == httpx.codes.CREATED
        yield Whole(stack, shadow, proxy, client)


@pytest.fixture
def mirroring(whole: Whole) -> Iterator[Mirroring]:
    whole.proxy.heal()
    whole.shadow_is(True)
    one = whole.mirror()
    time.sleep(0.3)  # until the gateway has it: nothing else shows that
    yield one
    whole.stop(one)
    whole.proxy.heal()


def rate(whole: Whole, request_id: str, score: float) -> None:
    """As a client that tries again when it is told to."""
    for _ in range(5):
        said = whole.client.post("/v1/feedback", {"request_id": request_id, "score": score})
        if said.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(float(said.headers["retry-after"]))
    assert said.status_code == httpx.codes.OK, said.text


def test_sessions_keep_their_arms_and_are_rated(whole: Whole) -> None:
    model = whole.stack.settings.model.name
    whole.do(lambda redis: RoutingDocument(redis).change(lambda document: with_arm(document, model, SAME)))
    arms = {"stable": 50, "v1": 50}
    one = whole.command(
        lambda commands: commands.experiment(model, arms, "session", time.time(), planned=1000, confidence=0.95)
    )
    wait_until(
        lambda: whole.client.chat(max_tokens=1).is_success and bool(entries(whole.stack)[-1].experiment), "divided"
    )
    for number in range(240):
        name = f"galley-{number}"
        headers = {"x-session-id": f"session-{number % 60}", "x-request-id": name}
        assert whole.client.chat(headers, max_tokens=3).status_code == httpx.codes.OK
        rate(whole, name, (number % 5) / 4)
    counted = [entry for entry in entries(whole.stack) if entry.request_id.startswith("galley-")]
    assert len({(entry.unit, entry.arm) for entry in counted}) == len({entry.unit for entry in counted}) == 60
    by_arm = {arm: sum(entry.arm == arm for entry in counted) for arm in arms}
    assert min(by_arm.values()) > 60

    def scores() -> float:
        evidence = whole.evidence(one)
        assert isinstance(evidence, Evidence)
        return sum(sum(arm.tally("score").counts.values()) for arm in evidence.arms.values())

    wait_until(lambda: scores() == 240, "all feedback is counted", 20.0)
    evidence = whole.evidence(one)
    assert isinstance(evidence, Evidence)
    found = {(row.measure, row.arm): row for row in results(one, evidence).rows}
    for arm, requests in by_arm.items():
        assert found["score", arm].count == requests
        assert found["tokens", arm].value == pytest.approx(3.0, abs=0.05)
    wanted = sum((number % 5) / 4 for number in range(240)) / 240
    whole_score = sum(found["score", arm].value * requests for arm, requests in by_arm.items()) / 240
    assert whole_score == pytest.approx(wanted)
    page = httpx.get(f"http://127.0.0.1:{whole.stack.settings.ports.control}", timeout=5.0).text
    assert one.id in page
    whole.stop(one)
    assert whole.weights() == {"stable": 1, "v1": 0}


def test_copies_give_the_same_answers_and_nobody_pays_for_them(whole: Whole, mirroring: Mirroring) -> None:
    whole.ask(20)
    wait_until(lambda: whole.copies(mirroring).copies == 20, "all copies are counted", 20.0)
    pairs = whole.copies(mirroring)
    assert (pairs.failed, pairs.originals_failed, pairs.tokens, pairs.original_tokens) == (0, 0, 80, 80)
    (same,) = [row for row in paired(mirroring, pairs) if row.measure == "same"]
    assert (same.count, same.difference) == (20, 1.0)
    copies = [entry for entry in entries(whole.stack) if entry.kind == "mirror"]
    assert {(entry.arm, entry.backend, entry.priority) for entry in copies} == {("new", "shadow", "batch")}


def test_a_shadow_that_is_slow_hangs_or_dies_is_not_noticed(whole: Whole, mirroring: Mirroring) -> None:
    """Its delays are of half a second and more."""
    quick = sorted(whole.ask(20))[10]
    whole.proxy.delay_s = 0.5
    assert sorted(whole.ask(20))[10] < quick + 250
    whole.proxy.delay_s, whole.proxy.black_hole = 0.0, True
    assert sorted(whole.ask(20))[10] < quick + 250
    whole.proxy.heal()
    whole.proxy.refusing = True
    whole.proxy.reset()
    assert sorted(whole.ask(20))[10] < quick + 250
    whole.shadow_is(False)
    whole.ask(5)
    text = whole.client.get("/metrics").text
    dropped = [line for line in text.splitlines() if line.startswith("trireme_mirror_total") and "unavail" in line]
    assert float(dropped[0].rpartition(" ")[2]) >= 5


def test_a_copy_for_a_version_that_is_missing_does_no_harm_to_the_backend_that_lacks_it(whole: Whole) -> None:
    """It is the backend that serves everybody."""
    model = whole.stack.settings.model.name
    missing = Arm(name="missing", version="99")
    one = whole.command(lambda commands: commands.mirror(model, missing, 1.0, time.time()))
    time.sleep(0.3)
    whole.ask(30)
    wait_until(lambda: whole.copies(one).copies == 30, "all copies are counted", 20.0)
    assert (whole.copies(one).failed, whole.copies(one).originals_failed) == (30, 0)
    rows = {row["id"]: row for row in whole.client.get("/admin/v1/backends").json()["data"]}
    assert [(row["healthy"], row["circuit"]) for name, row in rows.items() if name != "shadow"] == [(True, "closed")]
    whole.stop(one)
