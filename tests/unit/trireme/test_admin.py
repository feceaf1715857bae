"""The admin API from the terminal: every failure is a sentence."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trireme.admin import Gateway, gateway_of
from trireme.claims import free_ports
from trireme.errors import TriremeError

JSON = b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s"


@contextmanager
def answering(reply: bytes) -> Iterator[Gateway]:
    """A server that reads one request, sends these bytes and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Gateway(f"http://127.0.0.1:{server.getsockname()[1]}", "sk-secret")
        thread.join(5.0)


def said(reply: bytes) -> str:
    with answering(reply) as gateway, pytest.raises(TriremeError) as raised:
        gateway.ask("GET", "/admin/v1/backends")
    return str(raised.value)


def test_a_refusal_is_the_gateways_own_words() -> None:
    body = b'{"error": {"message": "there is no backend a"}}'
    assert said(JSON % (b"404 Not Found", len(body), body)) == "The gateway refused: there is no backend a."
    assert said(JSON % (b"502 Bad Gateway", 4, b"oops")) == "The gateway refused: status 502."


@pytest.mark.parametrize(
    "reply",
    [b"", b"+PONG\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"],
    ids=["nothing", "another protocol", "half an answer"],
)
def test_a_gateway_that_breaks_off_is_one_that_does_not_answer(reply: bytes) -> None:
    assert "does not answer: start it" in said(reply)


def test_what_is_no_json_comes_from_no_gateway() -> None:
    assert "is no gateway: is the address right?" in said(JSON % (b"200 OK", 4, b"<ht>"))


def test_nobody_there_is_said_without_the_key() -> None:
    with pytest.raises(TriremeError, match="does not answer: start it") as raised:
        Gateway(f"http://127.0.0.1:{free_ports(1)[0]}", "sk-secret").ask("GET", "/")
    assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:8080", "file:///etc/passwd"])
def test_an_address_has_a_scheme(url: str) -> None:
    with pytest.raises(TriremeError, match="is no address of a gateway: write http://HOST:PORT"):
        gateway_of(url, "sk", None)


def test_an_answer_is_its_body() -> None:
    with answering(JSON % (b"200 OK", 2, b"[]")) as gateway:
        assert gateway.ask("GET", "/") == []
