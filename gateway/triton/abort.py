"""Work that nobody waits for is stopped in the engine.

Closing the connection alone would not do that: the steps of an ensemble run on.
"""

import asyncio
from collections.abc import Iterable

import msgspec
from prometheus_client import Counter

from gateway.core.job import Backend
from gateway.errors import GatewayError
from gateway.telemetry.tasks import Tasks
from gateway.triton.client import TritonClient
from gateway.triton.settings import TritonSettings
from python_backends.messages import Control

_PAUSE_S = 0.1


class Aborts:
    """Sends abort requests from tasks of their own, so that a cancelled request can order one and be gone."""

    def __init__(self, client: TritonClient, tasks: Tasks, settings: TritonSettings, counter: Counter) -> None:
        self._client = client
        self._tasks = tasks
        self._settings = settings
        self._counter = counter

    def order(self, backend: Backend, engine_ids: Iterable[str]) -> None:
        """Returns at once. Ids that the engine has not seen yet are ended when they arrive there."""
        ids = list(engine_ids)
        self._tasks.spawn(f"abort {ids[0]}", self._abort(backend, ids))

    async def _abort(self, backend: Backend, ids: list[str]) -> None:
        plan = msgspec.json.encode(Control(control="abort", ids=ids)).decode()
        body = msgspec.json.encode({"plan": plan})
        for attempt in range(self._settings.abort_attempts):
            try:
                await self._client.post(backend, backend.control_path, body, timeout_s=self._settings.abort_timeout_s)
            except GatewayError:
                if attempt + 1 == self._settings.abort_attempts:
                    self._counter.labels("failed").inc()
                    raise
                await asyncio.sleep(_PAUSE_S * 2**attempt)
            else:
                self._counter.labels("done").inc()
                return
