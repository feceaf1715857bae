"""What Triton's answers prove of an engine, and what its silence does not."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trireme import probes
from trireme.settings import LOOPBACK


@contextmanager
def triton(status: int, body: bytes, *, silent: bool = False) -> Iterator[int]:
    """The port of one that answers every question so, or `silent`, which takes them and says nothing."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if silent:
                ended.wait(30.0)
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        ended.set()
        server.shutdown()


def engine(**state: int) -> bytes:
    return json.dumps({"event": json.dumps(state)}).encode()


@pytest.mark.parametrize(
    ("status", "body", "idle"),
    [
        (200, engine(in_flight=0), True),
        (200, engine(in_flight=3), False),
        (200, b"{}", False),
        (400, b'{"error": "unknown version"}', True),
        (503, b"", True),
    ],
    ids=["nothing to do", "busy", "no state", "no such version", "dead"],
)
def test_an_engine_is_idle_when_it_says_so_or_is_gone(status: int, body: bytes, idle: bool) -> None:
    with triton(status, body) as port:
        assert probes.engine_is_idle(LOOPBACK, port, "2") is idle


def test_an_engine_that_is_too_busy_to_answer_is_neither_idle_nor_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "QUICK_S", 0.1)
    with triton(200, b"", silent=True) as port:
        assert not probes.engine_is_idle(LOOPBACK, port, "2")
        assert not probes.engine_is_dead(LOOPBACK, port)
        assert probes.engine_state(LOOPBACK, port, "2") is None
