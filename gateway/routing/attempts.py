"""A request on one backend, and on another one when the first fails before the client has seen anything."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from prometheus_client import Counter

from gateway.core.call import Call
from gateway.core.job import Backend
from gateway.errors import AdapterUnavailable, GatewayError
from gateway.routing.member import FAULTS
from gateway.routing.settings import RoutingSettings

log = logging.getLogger(__name__)

# Somebody ended the request on purpose.
_ABORTED = "engine_abort"


class Leasing(Protocol):
    def lease(self, call: Call, tried: Collection[str] = ()) -> AbstractAsyncContextManager[Backend]: ...


class RetryBudget:
    """`share` of a retry for each request, of which `burst` can be saved up: failures everywhere never double the load.

    Begins full.
    """

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self._saved = burst

    def earn(self) -> None:
        """A request came."""
        self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Whether one more retry may be made; then it is counted."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Attempts:
    """`random_share`: in [0, 1[."""

    def __init__(
        self,
        leasing: Leasing,
        settings: RoutingSettings,
        retries: Counter,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self._leasing = leasing
        self._settings = settings
        self._budget = RetryBudget(settings.retry_share, settings.retry_burst)
        self._retries = retries
        self._random_share = random_share

    async def run(self, call: Call, work: Callable[[Backend], Awaitable[None]]) -> None:
        """`work` on a backend that is held meanwhile. Raises GatewayError: of several attempts, that of the first.

        Tried again is what the backend is to blame for, while no token has come: never a request that the client got
        wrong, and never on the same backend, whose engine may still be told to end it.
        """
        self._budget.earn()
        failed: dict[str, GatewayError] = {}
        while True:
            backend = None
            try:
                async with self._leasing.lease(call, failed) as backend:
                    call.mark("routing")
                    await work(backend)
            except (*FAULTS, AdapterUnavailable) as error:
                if backend is not None:
                    failed[backend.name] = error
                first = next(iter(failed.values()), error)
                if backend is None or not self._again(call, error, len(failed)):
                    raise first from error.__cause__
                call.mark("failed_attempt")
                call.failed.append((backend.name, error.code))
                call.retries += 1
                log.info("request %s is tried elsewhere: %s", call.id, error.message)
            else:
                return
            await asyncio.sleep(self._random_share() * self._settings.retry_pause_s)

    def _again(self, call: Call, error: GatewayError, attempts: int) -> bool:
        if call.first_token_at is not None or error.code == _ABORTED or attempts >= self._settings.attempts:
            return False
        granted = self._budget.spend()
        self._retries.labels("made" if granted else "over_budget").inc()
        return granted
