"""One gateway before two real tritonservers with the scripted engine, of which one after the other is lost.

Backend `a` is reached directly, `b` through a proxy that can be made to misbehave. Tests name the time within which a
loss must be found.
"""

import json
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.support.gateway import GatewayClient, events, plain_http, wait_until
from tests.support.ledger import entries
from tests.support.proxy import FaultyProxy
from trireme.restart import Backoff
from trireme.stack import EmbeddedStack, isolated_settings
from trireme.supervisor import Supervision

LOG = logging.getLogger(__name__)
pytestmark = pytest.mark.integration
SOAK_S = float(os.environ.get("SOAK_S", "15"))
ROUTING: dict[str, Any] = {
    "probe_interval_s": 0.5,
    "probe_timeout_s": 1.0,
    "generation_interval_s": 1.0,
    "generation_timeout_s": 1.5,
    "hung_s": 2.0,
    "slow_start_s": 0.0,
}
AT_ONCE = Supervision(backoff=Backoff(first=0.1, factor=1.0), probe_every=1.0)
BACKENDS = "/admin/v1/backends"
# Nothing has come from the engine for so long: whatever happens meanwhile can be tried elsewhere.
PATIENT = {"first_delay_ms": 1500, "delay_ms": 5}
QUICK = {"delay_ms": 5}
# Status and, of an error, its code.
Ending = tuple[int, str]
SERVED: Ending = (200, "")


@dataclass
class Fleet:
    """`tritons` by backend id."""

    tritons: dict[str, EmbeddedStack]
    proxy: FaultyProxy
    front: EmbeddedStack
    client: GatewayClient

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.client.get(BACKENDS).json()["data"]}

    def healthy(self, name: str) -> bool:
        return bool(self.rows()[name]["healthy"])

    def all_well(self) -> None:
        wait_until(lambda: all(row["healthy"] for row in self.rows().values()), "all backends are healthy", 90.0)

    def idle(self) -> None:
        """No lease is left anywhere."""
        wait_until(
            lambda: not any(row["in_flight_requests"] or row["in_flight_tokens"] for row in self.rows().values()),
            "no lease is left",
            10.0,
        )

    def stub(self, name: str) -> psutil.Process:
        """The process of the model `vllm`."""
        server = self.tritons[name].child("triton").pid
        assert server is not None, f"{name} does not run"
        children = psutil.Process(server).children(recursive=True)
        found = [one for one in children if "/vllm/" in command_of(one)]
        assert found, "the model vllm has no process"
        return found[0]

    def restart(self, name: str) -> None:
        """Without waiting until the supervisor finds that something is wrong."""
        with suppress(AssertionError):  # the supervisor was faster
            self.stub(name).kill()
        self.tritons[name].kill("triton")

    def crowd(self, pool: ThreadPoolExecutor, number: int, script: dict[str, Any]) -> list[Future[httpx.Response]]:
        """So many requests at once, spread over the backends by what they ask."""
        return [
            pool.submit(self.client.chat, messages=[{"role": "user", "content": f"{one} boats"}], **limits(script))
            for one in range(number)
        ]

    def wait_for_work(self, name: str, requests: int = 1) -> None:
        wait_until(lambda: self.rows()[name]["in_flight_requests"] >= requests, f"{name} has work", 10.0)


def command_of(process: psutil.Process) -> str:
    """Nothing for one that has ended and that Triton did not bury."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def limits(script: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 8, "script": script}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    def triton(name: str) -> EmbeddedStack:
        settings = isolated_settings(tmp_path_factory.mktemp(name), engine="scripted", triton_models=("chat",))
        return EmbeddedStack(settings, parts={"triton"}, supervision=AT_ONCE)

    with triton("a") as a, triton("b") as b, FaultyProxy("127.0.0.1", b.settings.ports.triton_http) as proxy:
        backends = [
            {"id": "a", "url": a.triton_url, "metrics_url": a.metrics_url},
            {"id": "b", "url": f"http://127.0.0.1:{proxy.port}"},
        ]
        gateway = {"routing": {**ROUTING, "backends": backends}}
        settings = isolated_settings(
            tmp_path_factory.mktemp("front"), engine="scripted", triton_models=("chat",), gateway=gateway
        )
        with EmbeddedStack(settings, parts={"valkey", "gateway"}) as front:
            fleet = Fleet({"a": a, "b": b}, proxy, front, GatewayClient(front))
            fleet.all_well()
            yield fleet


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> Iterator[None]:
    """Every test begins and ends with all backends healthy and no lease left."""
    fleet.proxy.heal()
    fleet.all_well()
    yield
    fleet.proxy.heal()
    fleet.idle()


def all_served(answers: list[Future[httpx.Response]]) -> None:
    statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses == {200: len(answers)}, [
        answer.result().text for answer in answers if answer.result().status_code != 200
    ][:3]


def test_calls_are_spread_and_the_next_turn_goes_where_the_first_one_went(fleet: Fleet) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = fleet.crowd(pool, 16, PATIENT)
        all_served(answers)
    assert set(Counter(answer.result().headers["x-backend"] for answer in answers)) == {"a", "b"}
    homes = set()
    talk = [{"role": "user", "content": "the tale of the trireme and its three banks of oars " * 12}]
    for _ in range(4):
        response = fleet.client.chat(messages=talk, max_tokens=4)
        homes.add(response.headers["x-backend"])
        talk += [response.json()["choices"][0]["message"], {"role": "user", "content": "and then?"}]
    assert len(homes) == 1


def kill_stub_of_b(fleet: Fleet) -> None:
    """Triton still says ready, so that it takes a while until anybody knows."""
    fleet.stub("b").kill()
    wait_until(lambda: not fleet.healthy("b"), "the loss is noticed", 60.0)


def kill_server(fleet: Fleet) -> None:
    fleet.tritons["a"].kill("triton")


def kill_stub(fleet: Fleet) -> None:
    fleet.stub("a").kill()


def stop_stub(fleet: Fleet) -> None:
    fleet.stub("a").send_signal(signal.SIGSTOP)


def ask_directly(fleet: Fleet, content: str, **script: Any) -> httpx.Response:
    """Without the gateway, of `a`."""
    chat = json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 1})
    url = f"{fleet.tritons['a'].triton_url}/v2/models/chat/generate_stream"
    return plain_http().post(url, json={"request": chat, **script})


def stall(fleet: Fleet) -> None:
    """It goes on telling that it is well."""
    assert ask_directly(fleet, "hi", script_stall_ms=60_000).is_success


def restart(fleet: Fleet) -> None:
    fleet.restart("a")


def nothing(_: Fleet) -> None:
    """Its supervisor starts it again."""


@pytest.mark.parametrize(
    ("lose", "mend", "within_s"),
    [
        (kill_server, nothing, 4.0),
        (kill_stub, restart, 8.0),
        (stop_stub, restart, 8.0),
        (stall, restart, 8.0),
    ],
    ids=["server killed", "engine process killed", "engine process hung", "engine generates nothing"],
)
def test_a_lost_backend_is_found_and_its_requests_are_served_by_the_other(
    fleet: Fleet, lose: Callable[[Fleet], None], mend: Callable[[Fleet], None], within_s: float
) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = fleet.crowd(pool, 12, PATIENT)
        fleet.wait_for_work("a")
        lose(fleet)
        wait_until(lambda: not fleet.healthy("a"), "the loss is found", within_s)
        all_served(answers)
    assert fleet.client.chat(max_tokens=2).headers["x-backend"] == "b"
    mend(fleet)


def test_a_connection_into_a_black_hole_is_found_and_its_requests_are_served_by_the_other(fleet: Fleet) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = fleet.crowd(pool, 12, PATIENT)
        fleet.wait_for_work("b")
        fleet.proxy.black_hole = True
        wait_until(lambda: not fleet.healthy("b"), "the loss is found", 8.0)
        all_served(answers)


def test_a_reset_in_mid_stream_is_an_error_event_and_the_backend_comes_back(fleet: Fleet) -> None:
    fleet.client.post(f"{BACKENDS}/a/drain", None)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fleet.client.chat, stream=True, max_tokens=500, script={"delay_ms": 20})
        fleet.wait_for_work("b")
        time.sleep(0.5)
        fleet.proxy.reset()
        *chunks, last = events(answer.result())
    assert chunks
    assert last["error"]["code"] == "backend_lost"
    fleet.client.post(f"{BACKENDS}/a/undrain", None)


def test_requests_that_wait_before_the_engine_make_a_backend_full_whoever_sent_them(fleet: Fleet) -> None:
    """Long prompts, which others send to the same Triton: its engine does not know of them, its own metrics do."""
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            assert ask_directly(fleet, "boats and oars " * 5000).status_code == httpx.codes.BAD_REQUEST

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(send) for _ in range(8)]
        try:
            wait_until(lambda: fleet.rows()["a"]["saturation"] == 1.0, "the queue is seen", 20.0)
        finally:
            over.set()
        for one in others:
            one.result()
    wait_until(lambda: fleet.rows()["a"]["saturation"] == 0.0, "it is over", 10.0)


@contextmanager
def steady_load(fleet: Fleet, clients: int, script: dict[str, Any]) -> Iterator[list[Ending]]:
    """So many clients that ask again and again, every second one for streams; how every request ended is kept."""
    answers: list[Ending] = []
    over = threading.Event()

    def ask(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            body = {"messages": [{"role": "user", "content": f"client {number} asks for the {turn}. time"}]}
            answer = fleet.client.chat(**body, **limits(script), stream=bool(number % 2))
            answers.append(ending_of(answer))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(ask, number) for number in range(clients)]
        try:
            yield answers
        finally:
            over.set()
        for one in running:
            one.result()


def ending_of(answer: httpx.Response) -> Ending:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.status_code, "" if answer.is_success else str(answer.json()["error"]["code"])
    last = events(answer)[-1]
    assert "done" in last or "error" in last, "a stream without an end"
    return answer.status_code, str(last["error"]["code"]) if "error" in last else ""


def test_a_backend_is_drained_under_load_without_a_lost_request(fleet: Fleet) -> None:
    with steady_load(fleet, 6, QUICK) as answers:
        fleet.wait_for_work("a")
        row = fleet.client.post(f"{BACKENDS}/a/drain", None).json()
        assert row["draining"]
        wait_until(lambda: fleet.rows()["a"]["in_flight_requests"] == 0, "a is drained", 10.0)
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 20, "others go on")
        assert fleet.rows()["a"]["in_flight_requests"] == 0
        assert not fleet.client.post(f"{BACKENDS}/a/undrain", None).json()["draining"]
        fleet.wait_for_work("a")
    assert set(answers) == {SERVED}


def test_a_backend_is_added_and_removed_under_load_without_a_lost_request(fleet: Fleet) -> None:
    with steady_load(fleet, 6, QUICK) as answers:
        body = {"id": "c", "url": fleet.tritons["a"].triton_url}
        assert fleet.client.post(BACKENDS, body).status_code == 201
        assert fleet.client.post(BACKENDS, body).status_code == 409
        fleet.wait_for_work("c")
        assert fleet.client.delete(f"{BACKENDS}/c").json() == {"id": "c", "deleted": True}
        assert fleet.client.delete(f"{BACKENDS}/a").status_code == 409
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 20, "others go on")
    assert set(answers) == {SERVED}
    assert set(fleet.rows()) == {"a", "b"}


def stop_server_of_b(fleet: Fleet) -> None:
    server = fleet.tritons["b"].child("triton").pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    wait_until(lambda: not fleet.healthy("b"), "the loss is found", 60.0)
    time.sleep(ROUTING["hung_s"])
    os.kill(server, signal.SIGCONT)


def swallow_for_b(fleet: Fleet) -> None:
    fleet.proxy.black_hole = True
    wait_until(lambda: not fleet.healthy("b"), "the loss is found", 60.0)
    time.sleep(ROUTING["hung_s"])
    fleet.proxy.heal()


FAULTS: dict[str, Callable[[Fleet], None]] = {
    "server of b killed": lambda fleet: fleet.tritons["b"].kill("triton"),
    "engine process of b killed": kill_stub_of_b,
    "connections to b reset": lambda fleet: fleet.proxy.reset(),
    "server of a killed": kill_server,
    "server of b stopped for a while": stop_server_of_b,
    "b in a black hole for a while": swallow_for_b,
}


@pytest.mark.timeout(300 + SOAK_S)
def test_a_soak_with_losses_answers_everything_and_fails_nothing_that_could_be_tried_again(fleet: Fleet) -> None:
    """`SOAK_S` seconds of it. Losses come one at a time, each when the one before is mended: somebody is always well.

    The ledger tells of streams and whole answers alike whether a token had come from the backend.
    """
    dice, happened, before = random.Random(1), Counter[str](), len(entries(fleet.front))
    over_budget = retries(fleet, "over_budget")
    until = time.monotonic() + SOAK_S
    with steady_load(fleet, 12, {"first_delay_ms": 100, "delay_ms": 15}) as answers:
        while time.monotonic() < until:
            for name in dice.sample(sorted(FAULTS), len(FAULTS)):
                FAULTS[name](fleet)
                happened[name] += 1
                time.sleep(1.0)
                fleet.all_well()
                if time.monotonic() >= until:
                    break
    wait_until(lambda: len(entries(fleet.front)) - before >= len(answers), "all are in the ledger", 10.0)
    ledger = entries(fleet.front)[before:]
    counts = Counter((one.stream, one.ttft_ms is not None, one.code or "") for one in ledger)
    LOG.info("faults: %s; retries: %d", dict(happened), sum(one.retries for one in ledger))
    for (stream, begun, code), number in sorted(counts.items()):
        LOG.info("%s, %s, %s: %d", "stream" if stream else "whole", "begun" if begun else "not begun", code, number)
    failed = [one for one in ledger if one.code is not None]
    not_begun = [one for one in failed if one.ttft_ms is None]
    assert len(ledger) == len(answers)
    assert len(not_begun) <= retries(fleet, "over_budget") - over_budget, not_begun
    # What had begun to come when the connection broke cannot be taken back.
    assert {one.code for one in failed} <= {"backend_lost", "backend_failed", "answer_truncated"}, counts
    assert Counter(code for _, code in answers if code) == Counter(one.code for one in failed)


def retries(fleet: Fleet, outcome: str) -> float:
    """That were made, or were over budget."""
    text = fleet.client.get("/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if is_count(line, outcome))


def is_count(line: str, outcome: str) -> bool:
    return line.startswith("trireme_retries_total{") and f'"{outcome}"' in line
