"""Connections to Triton, within a bounded time of the server's own."""

from typing import Any

import aiohttp

from gateway.core.bounded import Bounded


class Connector(aiohttp.TCPConnector):
    """`timeout_s`: for a connection. aiohttp's own time-out counts while this process is too busy to look: a crowd of
    clients would look like a backend that is gone. `most`: connections; more wait for one, within the same time.
    """

    def __init__(self, timeout_s: float, most: int) -> None:
        super().__init__(limit=most)
        self._timeout_s = timeout_s

    async def connect(self, req: Any, traces: Any, timeout: Any) -> aiohttp.connector.Connection:  # noqa: ASYNC109
        """Raises aiohttp.ConnectionTimeoutError."""
        try:
            async with Bounded(self._timeout_s):
                return await super().connect(req, traces, timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"no connection to {req.host} in {self._timeout_s:g} s") from error
