"""An engine of paper under a scheduler: arrivals in, who started and ended when out. No clock, no dice of its own."""

import heapq
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.admission.line import Ticket
from gateway.admission.settings import AdmissionSettings
from gateway.core.identity import PriorityClass
from gateway.errors import GatewayError, Overloaded


@dataclass(frozen=True, slots=True)
class Arrival:
    """`answer`: tokens that will really come; `expected`: what the scheduler is told. Seconds."""

    at: float
    tenant: str
    prompt: int
    answer: int
    expected: int
    priority_class: PriorityClass = "standard"
    patience: float = 1e9


@dataclass(slots=True)
class Run:
    """What became of one arrival. `refused`: the error's code, given at `ended`."""

    arrival: Arrival
    ticket: Ticket
    started: float | None = None
    ended: float | None = None
    refused: str = ""

    def served(self, now: float, prompt_weight: float = 1.0, output_weight: float = 2.0) -> float:
        """Weighted tokens until `now`; those of the answer come evenly."""
        if self.started is None or self.ended is None or now < self.started:
            return 0.0
        whole = self.ended - self.started
        done = 1.0 if now >= self.ended or not whole else (now - self.started) / whole
        return prompt_weight * self.arrival.prompt + output_weight * self.arrival.answer * done


class Policy(Protocol):
    @property
    def queued(self) -> int: ...

    def arrive(self, ticket: Ticket, now: float) -> None: ...

    def dispatch(self, now: float) -> list[Ticket]: ...

    def finish(self, ticket: Ticket, now: float, prompt: int, answer: int) -> None: ...

    def expire(self, now: float) -> list[Ticket]: ...

    @property
    def next_expiry(self) -> float | None: ...


class Fifo:
    """First come, first served, with the bounds of one class for all: what the scheduler is compared with."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self._waiting: deque[Ticket] = deque()
        self._running = self._tokens = 0

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def next_expiry(self) -> float | None:
        return self._waiting[0].arrived + self._settings.standard_timeout_s if self._waiting else None

    def arrive(self, ticket: Ticket, now: float) -> None:
        ticket.arrived = now
        if len(self._waiting) >= self._settings.max_queued:
            raise Overloaded("full")
        ticket.state = "waiting"
        self._waiting.append(ticket)
        if len(self._waiting) == 1:
            self.dispatch(now, inside=ticket)

    def dispatch(self, now: float, inside: Ticket | None = None) -> list[Ticket]:
        started = []
        while self._waiting and self._fits(self._waiting[0]):
            ticket = self._waiting.popleft()
            ticket.state, ticket.started = "running", now
            self._running += 1
            self._tokens += ticket.cost
            if ticket is not inside:
                started.append(ticket)
        return started

    def finish(self, ticket: Ticket, now: float, prompt: int, answer: int) -> None:
        self._running -= 1
        self._tokens -= ticket.cost

    def expire(self, now: float) -> list[Ticket]:
        expired = []
        while self._waiting and self._waiting[0].arrived + self._settings.standard_timeout_s <= now:
            expired.append(self._waiting.popleft())
        return expired

    def _fits(self, ticket: Ticket) -> bool:
        settings = self._settings
        return self._running < settings.max_running and self._tokens + ticket.cost <= settings.max_running_tokens


class Simulation:
    """`prefill`, `decode`: tokens a second of one request. Time jumps from event to event."""

    def __init__(self, policy: Policy, *, prefill: float = 4000.0, decode: float = 50.0) -> None:
        self.policy = policy
        self._prefill = prefill
        self._decode = decode
        self._ends: list[tuple[float, int, Run]] = []
        self._runs: dict[Ticket, Run] = {}
        self._started = 0

    def play(self, arrivals: Sequence[Arrival]) -> list[Run]:
        """In the order of arrival; ends when everybody was answered."""
        runs = []
        for arrival in arrivals:
            self._advance(arrival.at)
            runs.append(self._arrive(arrival))
        self._advance(float("inf"))
        return runs

    def _arrive(self, arrival: Arrival) -> Run:
        ticket = Ticket(
            arrival.priority_class, arrival.tenant, arrival.prompt, arrival.expected, arrival.at + arrival.patience
        )
        run = self._runs[ticket] = Run(arrival, ticket)
        try:
            self.policy.arrive(ticket, arrival.at)
        except GatewayError as error:
            run.ended, run.refused = arrival.at, error.code
            return run
        if ticket.state == "running":
            self._start(run, arrival.at)
        else:
            self._dispatch(arrival.at)
        return run

    def _advance(self, until: float) -> None:
        """All that happens before `until`."""
        while (now := min(self._next_end(), self.policy.next_expiry or float("inf"))) < until:
            while self._ends and self._ends[0][0] <= now:
                run = heapq.heappop(self._ends)[2]
                self.policy.finish(run.ticket, now, run.arrival.prompt, run.arrival.answer)
            for ticket in self.policy.expire(now):
                self._runs[ticket].ended, self._runs[ticket].refused = now, "queue_timeout"
            self._dispatch(now)

    def _next_end(self) -> float:
        return self._ends[0][0] if self._ends else float("inf")

    def _dispatch(self, now: float) -> None:
        for ticket in self.policy.dispatch(now):
            self._start(self._runs[ticket], now)

    def _start(self, run: Run, now: float) -> None:
        run.started = now
        run.ended = now + run.arrival.prompt / self._prefill + run.arrival.answer / self._decode
        self._started += 1
        heapq.heappush(self._ends, (run.ended, self._started, run))


def poisson(
    tenant: str,
    rate: float,
    until: float,
    *,
    seed: int,
    prompt: int = 200,
    answer: int = 200,
    expected: int = 0,
    priority_class: PriorityClass = "standard",
    since: float = 0.0,
) -> Iterator[Arrival]:
    """`rate`: requests a second. Sizes vary by half around `prompt` and `answer`; `expected`: 0 for the true one."""
    dice = random.Random(f"{tenant} {seed}")
    at = since
    while (at := at + dice.expovariate(rate)) < until:
        real = dice.randint(answer // 2, answer * 3 // 2)
        size = dice.randint(prompt // 2, prompt * 3 // 2)
        yield Arrival(at, tenant, size, real, expected or real, priority_class)


def merge(*streams: Iterator[Arrival]) -> list[Arrival]:
    return sorted((one for stream in streams for one in stream), key=lambda one: (one.at, one.tenant))


def largest_gap(runs: Sequence[Run], tenants: Sequence[str], since: float, until: float) -> float:
    """Largest difference of what two of these tenants were served, over all intervals within the given time.

    Meaningful for tenants that had requests waiting all that time.
    """
    moments = sorted(
        {since, until, *(at for run in runs for at in (run.started, run.ended) if at and since < at < until)}
    )
    curves = {tenant: _served(runs, tenant, moments) for tenant in tenants}
    gap = 0.0
    for number, one in enumerate(tenants):
        for other in tenants[number + 1 :]:
            apart = [a - b for a, b in zip(curves[one], curves[other], strict=True)]
            gap = max(gap, max(apart) - min(apart))
    return gap


def _served(runs: Sequence[Run], tenant: str, moments: Sequence[float]) -> list[float]:
    """Cumulative, at each moment."""
    own = [run for run in runs if run.arrival.tenant == tenant and run.started is not None]
    own.sort(key=lambda run: run.started or 0.0)
    curve, live, position, finished = [], [], 0, 0.0
    for now in moments:
        while position < len(own) and (own[position].started or 0.0) <= now:
            live.append(own[position])
            position += 1
        finished += sum(run.served(now) for run in live if (run.ended or 0.0) <= now)
        live = [run for run in live if (run.ended or 0.0) > now]
        curve.append(finished + sum(run.served(now) for run in live))
    return curve
