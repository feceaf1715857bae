"""The gateway before a real tritonserver and a real Valkey, with the scripted engine to order faults from."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import GatewayClient, events, wait_until
from tests.support.triton import DirectTriton, text_of
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
SLOW = {"delay_ms": 50}


@pytest.fixture(scope="module")
def gateway(stack: EmbeddedStack) -> GatewayClient:
    return GatewayClient(stack)


@pytest.fixture(scope="module")
def direct(stack: EmbeddedStack) -> Iterator[DirectTriton]:
    one = DirectTriton(stack.triton_url)
    yield one
    one.close()


def in_flight(direct: DirectTriton) -> int:
    return int(direct.control(control="stats")["in_flight"])


def metric(gateway: GatewayClient, name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in gateway.get("/metrics").text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))


def test_the_words_and_counts_are_those_of_a_direct_request(gateway: GatewayClient, direct: DirectTriton) -> None:
    answer = gateway.chat(max_tokens=20).json()
    deltas = direct.deltas({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20})
    assert answer["choices"][0]["message"]["content"] == text_of(deltas)
    assert answer["usage"]["prompt_tokens"] == deltas[-1]["usage"]["prompt"]
    assert answer["usage"]["completion_tokens"] == 20


def test_a_stream_ends_with_done_and_every_header_is_there(gateway: GatewayClient) -> None:
    response = gateway.chat(max_tokens=5, stream=True, headers={"x-request-id": "my-own.id"})
    assert events(response)[-1] == {"done": True}
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == "my-own.id"
    assert response.headers["x-model-version"] == "1"
    stages = [stage.partition(";")[0] for stage in response.headers["server-timing"].split(", ")]
    assert stages[:6] == ["auth", "parse", "tokens", "limits", "admission", "routing"]


def test_the_default_limit_is_the_room_left_in_the_context(gateway: GatewayClient, stack: EmbeddedStack) -> None:
    usage = gateway.chat().json()["usage"]
    assert usage["total_tokens"] == stack.settings.max_model_len


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
@pytest.mark.parametrize(
    "script", [{"delay_ms": 20}, {"hang_at": 0}, {"hang_at": 3}], ids=["decoding", "first", "hung"]
)
def test_a_client_that_leaves_frees_the_engine(
    gateway: GatewayClient, direct: DirectTriton, stream: bool, script: dict[str, Any]
) -> None:
    asker = gateway.ask(max_tokens=2000, stream=stream, script=script)
    wait_until(lambda: in_flight(direct) == 1, "the engine has the request")
    asker.leave()
    wait_until(lambda: in_flight(direct) == 0, "the engine is free again", 3.0)
    wait_until(lambda: metric(gateway, "trireme_requests_in_flight") == 1, "only the metrics request is in flight")


def test_a_failure_in_mid_stream_is_an_error_event_and_no_done(gateway: GatewayClient) -> None:
    response = gateway.chat(max_tokens=9, stream=True, script={"fail_at": 4})
    *chunks, last = events(response)
    assert response.status_code == 200
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).count("word") >= 3
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "scripted_failure")


@pytest.mark.parametrize("fail_at", [0, 4])
def test_a_failure_without_a_stream_is_a_status(gateway: GatewayClient, fail_at: int) -> None:
    response = gateway.chat(max_tokens=9, script={"fail_at": fail_at})
    assert response.status_code in (500, 502)
    assert response.json()["error"]["code"] == "scripted_failure"


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_is_kept(gateway: GatewayClient, direct: DirectTriton, stream: bool) -> None:
    response = gateway.chat(headers={"x-deadline-ms": "300"}, stream=stream, script={"hang_at": 0})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    wait_until(lambda: in_flight(direct) == 0, "the engine is free again", 3.0)


def test_a_deadline_in_mid_stream_is_an_error_event(gateway: GatewayClient, direct: DirectTriton) -> None:
    response = gateway.chat(headers={"x-deadline-ms": "400"}, stream=True, script={"hang_at": 2})
    assert events(response)[-1]["error"]["code"] == "deadline_exceeded"
    wait_until(lambda: in_flight(direct) == 0, "the engine is free again", 3.0)


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "param"),
    [
        ("/v1/chat/completions", {"temperature": -1}, 400, "invalid_value", "temperature"),
        ("/v1/chat/completions", {"audio": {}}, 400, "unsupported_parameter", "audio"),
        ("/v1/chat/completions", {"colour": 1}, 400, "unknown_parameter", "colour"),
        ("/v1/chat/completions", {"max_tokens": 10**6}, 400, "context_length_exceeded", "max_tokens"),
        ("/v1/chat/completions", {"model": "nobody"}, 404, "model_not_found", "model"),
        ("/v1/nowhere", {}, 404, "unknown_url", None),
        ("/v1/models", {}, 405, "method_not_allowed", None),
    ],
)
def test_a_wrong_request_is_refused_in_openais_shape(
    gateway: GatewayClient, path: str, fields: dict[str, Any], status: int, *, code: str, param: str | None
) -> None:
    response = gateway.post(path, gateway.body(**fields))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert set(error) == {"message", "type", "param", "code"}


def test_sixty_four_streams_at_once_each_get_their_own_words(gateway: GatewayClient, stack: EmbeddedStack) -> None:
    def ask(number: int) -> tuple[str, str]:
        content = f"{number} boats " * (number + 1)
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 30}
        streamed = events(gateway.chat(**body, stream=True, script={"delay_ms": 2}))[:-1]
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in streamed)
        whole = gateway.chat(**body).json()["choices"][0]["message"]["content"]
        return text, whole

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert all(text == whole for text, whole in answers)
    assert len({text for text, _ in answers}) > 48


def test_embeddings_have_one_vector_for_each_input(gateway: GatewayClient, stack: EmbeddedStack) -> None:
    name = stack.settings.embedding_model.name
    answer = gateway.post("/v1/embeddings", {"model": name, "input": ["a cat", "a dog sat", "a cat"]}).json()
    vectors = [one["embedding"] for one in answer["data"]]
    assert [len(vector) for vector in vectors] == [384] * 3
    assert vectors[0] == vectors[2] != vectors[1]
    assert answer["usage"] == {"prompt_tokens": 13, "total_tokens": 13}


def test_an_embedding_input_that_is_too_long_is_refused(gateway: GatewayClient, stack: EmbeddedStack) -> None:
    body = {"model": stack.settings.embedding_model.name, "input": "word " * 600}
    response = gateway.post("/v1/embeddings", body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_the_openai_client_iterates_a_stream(stack: EmbeddedStack) -> None:
    with openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key=stack.dev_key, max_retries=0) as client:
        stream = client.chat.completions.create(
            model=stack.settings.model.name,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=7,
            stream=True,
            n=2,
        )
        texts = {0: "", 1: ""}
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts[0] != texts[1]
    assert all(text.strip() for text in texts.values())


def test_the_wrong_key_is_refused_and_a_key_without_the_scope_forbidden(stack: EmbeddedStack) -> None:
    assert GatewayClient(stack, key="trk_nonsense").chat(max_tokens=1).status_code == 401
    response = httpx.get(f"{stack.gateway_url}/v1/models", timeout=10)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Two places, and one to wait in."""
    gate = {"admission": {"max_running": 2, "max_queued": 1, "standard_timeout_s": 1.0}}
    with EmbeddedStack(isolated_settings(tmp_path, triton_models=("chat",), gateway=gate)) as running:
        yield running


def test_a_full_gateway_answers_429_then_408_and_loses_nothing(tight: EmbeddedStack) -> None:
    gateway, direct = GatewayClient(tight), DirectTriton(tight.triton_url)
    wait_until(gateway.ready, "the gateway is ready")
    askers = [gateway.ask(max_tokens=3000, stream=True, script=SLOW) for _ in range(2)]
    wait_until(lambda: in_flight(direct) == 2, "both places are taken")
    queued: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: queued.append(gateway.chat(max_tokens=1)))
    waiting.start()
    wait_until(lambda: metric(gateway, "trireme_admission_queued") == 1, "one request waits")
    refused = gateway.chat(max_tokens=1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after-ms"]) > 0
    assert metric(gateway, "trireme_saturation") == 1
    waiting.join()
    assert (queued[0].status_code, queued[0].json()["error"]["code"]) == (408, "queue_timeout")
    for asker in askers:
        asker.leave()
    wait_until(lambda: in_flight(direct) == 0, "the engine is free again")
    assert gateway.chat(max_tokens=1).status_code == 200
    direct.close()


def test_known_keys_work_while_valkey_is_away_and_unknown_ones_are_told_so(tight: EmbeddedStack) -> None:
    gateway = GatewayClient(tight)
    wait_until(gateway.ready, "the gateway is ready")
    assert gateway.chat(max_tokens=1).status_code == 200
    tight.kill("valkey")
    assert gateway.chat(max_tokens=1).status_code == 200
    tight.wait_ready()
    assert gateway.chat(max_tokens=1).status_code == 200


def test_a_crashed_engine_process_is_answered_noticed_and_replaced(tight: EmbeddedStack) -> None:
    gateway = GatewayClient(tight)
    wait_until(gateway.ready, "the gateway is ready")
    crashed = gateway.chat(max_tokens=9, script={"crash_at": 2})
    assert crashed.status_code in (502, 503, 504)
    assert set(crashed.json()["error"]) == {"message", "type", "param", "code"}
    wait_until(lambda: not gateway.ready(), "readiness turns false")
    wait_until(gateway.ready, "the engine is back", 90.0)
    assert gateway.chat(max_tokens=2).status_code == 200
