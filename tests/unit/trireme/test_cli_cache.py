"""`trireme cache`: what it asks of a gateway, and what it prints."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from trireme.cli import app
from trireme.errors import TriremeError

ROWS = [{"object": "cache", "tenant": "acme", "answers": 3, "bytes": 4096}]


class Gateway(ThreadingHTTPServer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": ROWS})

    def do_DELETE(self) -> None:
        self._answer({"object": "cache.purged", "answers": 3})

    def log_message(self, *_: object) -> None: ...

    def _answer(self, body: object) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers['authorization']}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with Gateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TRIREME_GATEWAY_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("TRIREME_API_KEY", "sk")
        yield server
        server.shutdown()


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cache", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_stats_for_people_and_programs(gateway: Gateway) -> None:
    header, row = run("stats").splitlines()
    assert header.split() == ["tenant", "answers", "bytes"]
    assert row.split() == ["acme", "3", "4096"]
    assert json.loads(run("stats", "--json", "--tenant", "acme")) == ROWS
    assert gateway.asked == ["GET /admin/v1/cache Bearer sk", "GET /admin/v1/cache?tenant=acme Bearer sk"]


def test_a_purge_says_how_much_went(gateway: Gateway) -> None:
    assert "3 answers are gone" in run("purge", "--tenant", "acme", "--model", "a/b")
    assert gateway.asked == ["DELETE /admin/v1/cache?tenant=acme&model=a%2Fb Bearer sk"]


def test_everything_is_purged_only_when_it_is_asked_for(gateway: Gateway) -> None:
    with pytest.raises(TriremeError, match="--all"):
        run("purge")
    assert gateway.asked == []
    run("purge", "--all")
    assert gateway.asked == ["DELETE /admin/v1/cache Bearer sk"]
