"""Requests that wait inside Triton, before any engine knows of them: its metrics page tells."""

import re
import time
from collections.abc import Callable
from typing import Final

from gateway.core.job import ENGINE, Backend
from gateway.errors import GatewayError
from gateway.triton.client import TritonClient

# The models that a request to generate passes, one after the other.
_ON_THE_WAY: Final = ("preprocess", ENGINE, "postprocess")
_PENDING = re.compile(
    rb'^nv_inference_pending_request_count\{[^}\n]*?\bmodel="(?:%s)"[^}\n]*\} (\d+)' % "|".join(_ON_THE_WAY).encode(),
    re.MULTILINE,
)
# A page that cannot be had, or says nothing of queues, is asked for again after so long.
SILENT_S: Final = 60.0


class Queues:
    """`timeout_s`: for a page. `clock`: monotonic seconds."""

    def __init__(self, client: TritonClient, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._clock = clock
        self._before: dict[str, int] = {}
        self._silent_until: dict[str, float] = {}

    async def waiting(self, backend: Backend) -> int | None:
        """As many as waited at this look and at the one before: a burst that passes is no queue. None: nobody tells."""
        url = backend.metrics_url
        if url is None or self._clock() < self._silent_until.get(url, 0.0):
            return None
        try:
            page = await self._client.page(backend, url, timeout_s=self._timeout_s)
        except GatewayError:
            page = b""
        found = _PENDING.findall(page)
        if not found:
            self._silent_until[url] = self._clock() + SILENT_S
            self._before.pop(url, None)
            return None
        now = sum(map(int, found))
        before = self._before.get(url, 0)
        self._before[url] = now
        return min(before, now)
