"""Questions that tell whether a part of the stack works. All answer within their time-out; none raises."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Mapping
from typing import Any

PING = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
QUICK_S = 2.0
# Counters that move while vLLM works, whatever prefix they got on their way into Triton's metrics.
_TOKEN_COUNTER = re.compile(r"^\S*(?:prompt|generation)_tokens(?:_total)?(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def valkey_answers(host: str, port: int) -> bool:
    """PING gets PONG."""
    try:
        with socket.create_connection((host, port), timeout=QUICK_S) as connection:
            connection.settimeout(QUICK_S)
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def http_ok(host: str, port: int, path: str) -> bool:
    """GET gives 200."""
    return _request(host, port, "GET", path, timeout=QUICK_S)[0] == http.client.OK


def engine_is_dead(host: str, port: int) -> bool:
    """Triton answers for the engine, and what it answers is an error. Silence is no proof: it may be busy.

    Of several versions it is the one that counts which clients get who name none: another one may die alone.
    """
    return _engine(host, port, _default_version(host, port))[0] >= http.client.BAD_REQUEST


def engine_state(host: str, port: int, version: str) -> dict[str, Any] | None:
    """What the engine of a version says of itself; None when it does not answer."""
    status, text = _engine(host, port, version)
    return _state_in(text) if status == http.client.OK else None


def engine_is_idle(host: str, port: int, version: str) -> bool:
    """The engine says that it has nothing to do, or Triton that there is none. Silence is no proof: it may be busy."""
    status, text = _engine(host, port, version)
    if status >= http.client.BAD_REQUEST:
        return True
    state = _state_in(text) if status == http.client.OK else None
    return state is not None and not state.get("in_flight", 0)


def _state_in(text: str) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(json.loads(text)["event"])
    except (ValueError, KeyError):
        return None
    return state


def _engine(host: str, port: int, version: str | None) -> tuple[int, str]:
    place = "" if version is None else f"/versions/{version}"
    body = json.dumps({"plan": json.dumps({"control": "stats"})})
    return _request(host, port, "POST", f"/v2/models/vllm{place}/generate", body=body, timeout=QUICK_S)


def _default_version(host: str, port: int) -> str | None:
    status, text = _request(host, port, "GET", "/v2/models/chat", timeout=QUICK_S)
    try:
        return str(json.loads(text)["versions"][-1]) if status == http.client.OK else None
    except (ValueError, KeyError, IndexError):
        return None


def triton_generates(host: str, port: int, timeout: float, model: str = "chat") -> bool:
    """One real token through an ensemble: a dead engine behind a live server still says READY."""
    body = json.dumps({"request": json.dumps(PING), "priority": 0})  # before everybody who waits
    status, text = _request(host, port, "POST", f"/v2/models/{model}/generate_stream", body=body, timeout=timeout)
    events = [line for line in text.splitlines() if line.startswith("data:")]
    return status == http.client.OK and bool(events) and not any('"error"' in event for event in events)


def tokens_counted(host: str, port: int) -> float:
    """Sum of the engine's token counters in Triton's metrics; -1 when they cannot be read."""
    status, text = _request(host, port, "GET", "/metrics", timeout=QUICK_S)
    if status != http.client.OK:
        return -1.0
    return sum(float(value) for value in _TOKEN_COUNTER.findall(text))


def gateway_generates(host: str, port: int, key: str, model: str, timeout: float) -> str:
    """One token through the whole chain: "" when it came, else what came instead."""
    body = json.dumps({"model": model, **PING})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    status, text = _request(host, port, "POST", "/v1/chat/completions", body=body, headers=headers, timeout=timeout)
    if status != http.client.OK:
        return f"{status} {text[:300]}".strip()
    return "" if _has_choices(text) else f"no choices in {text[:300]}"


def _has_choices(text: str) -> bool:
    try:
        reply: Any = json.loads(text)
    except ValueError:
        return False
    return isinstance(reply, dict) and bool(reply.get("choices"))


def _request(
    host: str, port: int, method: str, path: str, *, timeout: float, body: str = "", headers: Mapping[str, str] = {}
) -> tuple[int, str]:
    """Status and text; (0, reason) when there was no answer."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body=body or None, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
