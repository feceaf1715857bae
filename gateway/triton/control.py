"""Requests to an engine itself, about its adapters."""

import msgspec

from gateway.core.job import Backend
from gateway.triton.client import TritonClient
from python_backends.messages import Control


class EngineControl:
    """`timeout_s`: for an answer; loading an adapter takes a while."""

    def __init__(self, client: TritonClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def send(self, backend: Backend, control: Control) -> None:
        """Raises GatewayError."""
        body = msgspec.json.encode({"plan": msgspec.json.encode(control).decode()})
        await self._client.post(backend, backend.control_path, body, timeout_s=self._timeout_s)
