"""A plain HTTP client of the gateway, for what the `openai` client hides: headers, broken streams, leaving."""

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx

from trireme.stack import EmbeddedStack

LONG = 60.0


@cache
def plain_http() -> httpx.Client:
    """For all requests, each on a connection of its own; another client each time would read all certificates anew."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.Client(limits=limits, timeout=LONG)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = LONG) -> None:
    """Ask again and again. Fails with `what` when it does not come true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.02)


class GatewayClient:
    def __init__(self, stack: EmbeddedStack, key: str | None = None) -> None:
        self._stack = stack
        self._key = key or stack.dev_key

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", self.body(**fields), headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        url = f"{self._stack.gateway_url}{path}"
        return plain_http().post(url, json=body, headers={**self.headers, **(headers or {})})

    def get(self, path: str) -> httpx.Response:
        return plain_http().get(f"{self._stack.gateway_url}{path}", headers=self.headers)

    def delete(self, path: str) -> httpx.Response:
        return plain_http().delete(f"{self._stack.gateway_url}{path}", headers=self.headers)

    def ready(self) -> bool:
        """Not while it is away either."""
        try:
            return self.get("/health/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def body(self, script: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """A chat; `script`: orders to the scripted engine."""
        orders = {f"script_{name}": str(value) for name, value in (script or {}).items()}
        chat = {"model": self._stack.settings.model.name, "messages": [{"role": "user", "content": "hi"}]}
        return {**chat, **fields, **({"metadata": orders} if orders else {})}

    def ask(self, **fields: Any) -> "Asker":
        """Send a chat and do not read the answer."""
        return Asker(self._stack.gateway_url, self.body(**fields), self.headers)


class Asker:
    """A client that sends a request, does not read the answer, and leaves when told to."""

    def __init__(self, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=LONG)
        headers = {**headers, "Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)

    def leave(self) -> None:
        self._connection.close()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON events of a streamed answer; `[DONE]` is `{"done": True}`."""
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [{"done": True} if one == "[DONE]" else json.loads(one) for one in data]
