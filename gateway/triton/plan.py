"""How hard is it, and what is it about? One question to the ensemble `plan` answers both."""

import time
from collections.abc import Callable

from prometheus_client import Counter, Histogram

from gateway.core.call import Call
from gateway.core.circuit import Circuit
from gateway.core.job import Backend, Planned
from gateway.core.snapshot import PLAN
from gateway.errors import GatewayError, PlanSkipped
from gateway.triton.client import TritonClient
from gateway.triton.codec import plan_answer, plan_request
from gateway.triton.settings import TritonSettings

# The least loaded backend that serves a route, and how full it is.
Spot = Callable[[str], tuple[Backend, float] | None]


class Plans:
    """A request must never wait long for this, nor fail by it: whoever asks goes on without when it raises.

    `clock`: monotonic seconds.
    """

    def __init__(
        self,
        client: TritonClient,
        spot: Spot,
        settings: TritonSettings,
        *,
        outcomes: Counter,
        seconds: Histogram,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._spot = spot
        self._settings = settings
        self._outcomes = outcomes
        self._seconds = seconds
        self._clock = clock
        self._circuit = Circuit(settings.plan_failures, settings.plan_pause_s, clock)
        self._open = 0

    async def plan(self, call: Call, text: str, timeout_s: float | None = None) -> Planned:
        """Of `text`, the last turn of the call's user; asked once, and kept in `call.planned`.

        `timeout_s`: less than the settings' if somebody has no time. Raises PlanSkipped for a question that is not
        asked, other GatewayErrors for one that got no answer.
        """
        if call.plan_failed:
            raise PlanSkipped("plan was not asked: it failed for this request already")
        if call.planned is None:
            backend = self._backend(text)
            wait_s = min(
                self._settings.plan_timeout_s, call.limit.remaining, timeout_s or self._settings.plan_timeout_s
            )
            call.plan_failed = True
            call.planned = await self._ask(backend, text, wait_s)
            call.plan_failed = False
        return call.planned

    def _backend(self, text: str) -> Backend:
        """Raises PlanSkipped."""
        settings = self._settings
        found = self._spot(PLAN)
        problem = ""
        if not text:
            problem = "there is no text"
        elif found is None:
            problem = "no backend serves it"
        elif found[1] >= settings.plan_max_saturation:
            problem = "every backend is full"
        elif self._open >= settings.plans_at_once:
            problem = "too many questions are open"
        elif not self._circuit.allows():
            problem = "it failed lately"
        if problem or found is None:
            self._outcomes.labels("skipped").inc()
            raise PlanSkipped(f"plan was not asked: {problem}")
        return found[0]

    async def _ask(self, backend: Backend, text: str, wait_s: float) -> Planned:
        """Cancellations leave no trace: they are no fault of the backend's."""
        began = self._clock()
        self._open += 1
        try:
            body, headers = await self._client.post(
                backend, backend.path("infer"), plan_request(text), timeout_s=wait_s
            )
            planned = plan_answer(body, headers)
        except GatewayError as error:
            self._circuit.failed()
            self._outcomes.labels(error.code).inc()
            raise
        finally:
            self._open -= 1
        self._circuit.succeeded()
        self._outcomes.labels("ok").inc()
        self._seconds.observe(self._clock() - began)
        return planned
