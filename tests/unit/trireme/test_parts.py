"""The parts of the stack: what they are told, and how they are asked."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from trireme import parts, probes
from trireme.settings import Model, Settings
from trireme.stack import isolated_settings
from trireme.supervisor import ChildSpec


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return isolated_settings(tmp_path, gateway={"admission": {"limit": 3}})


def test_the_gateway_is_told_where_everything_is(settings: Settings) -> None:
    spec = parts.gateway_part(settings)
    environment = spec.environment
    assert spec.argv == (sys.executable, "-m", "gateway")
    assert environment["TRIREME_TRITON_URL"] == f"http://127.0.0.1:{settings.ports.triton_http}"
    metrics = f"http://127.0.0.1:{settings.ports.triton_metrics}/metrics"
    assert environment["TRIREME_TRITON_METRICS_URL"] == metrics
    assert environment["TRIREME_VALKEY_URL"] == f"redis://127.0.0.1:{settings.ports.valkey}/0"
    assert environment["TRIREME_PORT"] == str(settings.ports.gateway)
    assert environment["TRIREME_SPOOL_DIR"] == str(settings.state_dir / "spool")
    assert environment["TRIREME_MODEL_NAME"] == "smollm2-135m-instruct"
    assert environment["TRIREME_EMBEDDING_MODEL_NAME"] == "all-minilm-l6-v2"
    assert environment["TRIREME_MAX_MODEL_LEN"] == "4096"
    assert Path(environment["TRIREME_PEPPER_FILE"]).stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(Path(environment["TRIREME_CONFIG"]).read_text()) == {
        "admission": {"limit": 3},
        "cache": {"mode": "off"},
        "valkey": {"call_timeout_s": 1.0},
    }


def test_the_control_plane_is_told_where_valkey_is_and_stays_on_loopback(settings: Settings) -> None:
    spec = parts.control_plane_part(settings)
    assert spec.argv == (sys.executable, "-m", "control_plane")
    assert spec.environment["TRIREME_VALKEY_URL"] == f"redis://127.0.0.1:{settings.ports.valkey}/0"
    assert spec.environment["TRIREME_CONTROL_HOST"] == "127.0.0.1"
    assert spec.environment["TRIREME_CONTROL_PORT"] == str(settings.ports.control)


def test_valkey_writes_every_change_to_disk_and_stays_on_loopback(settings: Settings) -> None:
    argv = list(parts.valkey_part(settings).argv)
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert Path(argv[0]).is_file()
    assert (options["--bind"], options["--appendonly"]) == ("127.0.0.1", "yes")
    assert options["--dir"] == str(settings.state_dir / "valkey")


def test_parts_stop_in_time_for_ten_seconds_altogether(settings: Settings) -> None:
    specs: list[ChildSpec] = [part(settings) for part in parts.PARTS.values()]
    deadlines = [spec.stop_by for spec in specs]
    assert deadlines == sorted(deadlines, reverse=True)  # who starts last stops first
    assert max(deadlines) < 10.0


def test_the_engine_is_asked_only_when_the_chat_model_is_there(settings: Settings) -> None:
    assert parts.triton_part(settings).is_alive is not None
    assert parts.triton_part(replace(settings, triton_models=("embed",))).is_alive is None


def test_the_gateway_offers_embeddings_only_where_triton_has_them(settings: Settings) -> None:
    names = ("TRIREME_EMBEDDING_MODEL_NAME", "TRIREME_EMBEDDING_MODEL_DIR", "TRIREME_EMBEDDING_MODELS")
    assert parts.gateway_environment(settings)[names[0]] == settings.embedding_model.name
    without = parts.gateway_environment(replace(settings, triton_models=("chat",)))
    assert [without[name] for name in names] == ["", "", ""]


def test_a_large_log_is_put_aside_at_the_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LARGE_LOG_BYTES", 10)
    path = parts.log_file(settings, "triton")
    path.write_text("x" * 11)
    assert parts.log_file(settings, "triton") == path
    assert [file.name for file in path.parent.iterdir()] == ["triton.log.1"]


def test_a_server_on_all_addresses_is_called_on_loopback() -> None:
    assert [parts.reachable(host) for host in ("0.0.0.0", "::", "10.1.2.3")] == ["127.0.0.1", "127.0.0.1", "10.1.2.3"]


class FakeTriton:
    """Answers a generation with `reply`; every look at the metrics finds `step` more tokens than the one before."""

    def __init__(self, reply: str, step: int = 0, state: int = 200) -> None:
        self.reply = reply
        self.state = state  # HTTP status of a question for the engine's state
        self.step = step
        self.tokens = 100
        self.asked: list[dict[str, object]] = []


@contextmanager
def served(triton: FakeTriton) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            triton.tokens += triton.step
            self.answer(
                "# HELP vllm:generation_tokens_total so far\n"
                f'vllm:generation_tokens_total{{model="a",engine="0"}} {triton.tokens}\n'
                'vllm:prompt_tokens_total{model="a"} 7.0\n'
                'vllm:request_prompt_tokens_bucket{le="1.0"} 5000\n'
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v2/models/vllm/generate":
                self.answer("{}", triton.state)
            else:
                triton.asked.append(body)
                self.answer(triton.reply)

        def answer(self, text: str, status: int = 200) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def works(settings: Settings, triton: FakeTriton) -> bool:
    with served(triton) as port:
        ports = replace(settings.ports, triton_http=port, triton_metrics=port)
        return parts.engine_works(replace(settings, ports=ports))


def test_a_token_means_that_the_engine_works(settings: Settings) -> None:
    triton = FakeTriton('data: {"delta":"{}"}\n\n')
    assert works(settings, triton)
    request = json.loads(str(triton.asked[0]["request"]))
    assert request["max_tokens"] == 1
    assert triton.asked[0]["priority"] == 0


@pytest.mark.parametrize("reply", ["", 'data: {"error":"Stub process is not healthy."}\n\n'])
def test_no_token_or_an_error_means_that_it_does_not(settings: Settings, reply: str) -> None:
    assert not works(settings, FakeTriton(reply))


def test_an_engine_that_is_busy_with_others_is_not_taken_for_dead(settings: Settings) -> None:
    assert works(settings, FakeTriton("", step=5))


def test_a_server_that_is_away_does_not_work(settings: Settings) -> None:
    assert not parts.engine_works(settings)


def test_a_dead_engine_is_known_by_its_state_without_asking_for_a_token(settings: Settings) -> None:
    for state, alive in ((200, True), (500, False)):
        triton = FakeTriton("", state=state)
        with served(triton) as port:
            ports = replace(settings.ports, triton_http=port, triton_metrics=port)
            liveness = parts.EngineLiveness(replace(settings, ports=ports), clock=lambda: 100.0)
            assert liveness() is alive
        assert triton.asked == []


def test_an_engine_that_hangs_is_found_by_the_token_that_it_owes_now_and_then(settings: Settings) -> None:
    now = [100.0]
    triton = FakeTriton('data: {"delta":"{}"}\n\n')
    with served(triton) as port:
        ports = replace(settings.ports, triton_http=port, triton_metrics=port)
        liveness = parts.EngineLiveness(replace(settings, ports=ports), clock=lambda: now[0])
        assert liveness()
        assert triton.asked == []  # the start has seen a token
        now[0] += parts.TOKEN_EVERY_S
        assert liveness()
        assert liveness()
        assert len(triton.asked) == 1  # the next one is due half a minute later
        triton.reply = ""
        now[0] += parts.TOKEN_EVERY_S
        assert not liveness()
        assert not liveness()  # asked again at once: two failures in a row are needed
        assert len(triton.asked) == 3


def test_token_counters_are_summed_and_histograms_left_out() -> None:
    with served(FakeTriton("")) as port:
        assert probes.tokens_counted("127.0.0.1", port) == 107.0


def test_a_reply_without_choices_is_no_token() -> None:
    for reply in ("{}", "[]", "not json", '{"choices": []}'):
        with served(FakeTriton(reply)) as port:
            assert "no choices" in probes.gateway_generates("127.0.0.1", port, "key", "model", 5.0)


def test_a_gateway_that_refuses_is_told_with_its_words() -> None:
    assert probes.gateway_generates("127.0.0.1", 1, "key", "model", 5.0).startswith("0 ConnectionRefusedError")


def test_a_model_of_the_users_own_keeps_its_name(settings: Settings) -> None:
    own = replace(settings, model=Model("my-model", Path("/models/my-model"), prepared=False))
    environment = parts.gateway_part(own).environment
    assert (environment["TRIREME_MODEL_NAME"], environment["TRIREME_MODEL_DIR"]) == ("my-model", "/models/my-model")
