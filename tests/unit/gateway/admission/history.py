"""Histories of a scheduler, with every decision written down. As a module it plays one of its own and prints all."""

import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.admission.line import Ticket
from gateway.admission.scheduler import Scheduler
from gateway.admission.state import describe
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from gateway.errors import GatewayError
from tests.unit.gateway.admission.making import new_scheduler

PAUSES = (0.0, 0.5, 7.0, 40.0)
ACTS = ("arrive", "arrive", "arrive", "finish", "finish", "cancel", "expire")
TENANTS = tuple(f"tenant {number}" for number in range(12))


@dataclass(frozen=True)
class Step:
    after: float
    act: str
    cost: int
    tenant: str
    of: PriorityClass
    which: int


@dataclass
class History:
    """Plays steps and writes every decision down."""

    scheduler: Scheduler = field(
        default_factory=lambda: new_scheduler(
            max_running=4, max_running_tokens=100, max_queued=9, max_queued_tokens=300, overtake_tokens=50
        )
    )
    now: float = 0.0
    inside: list[Ticket] = field(default_factory=list)
    answered: list[Ticket] = field(default_factory=list)
    decisions: list[tuple[Any, ...]] = field(default_factory=list)

    def play(self, step: Step) -> None:
        self.now += step.after
        getattr(self, step.act)(step)
        for one in self.scheduler.dispatch(self.now):
            self.decisions.append(("start", one.number))

    def arrive(self, step: Step) -> None:
        new = Ticket(step.of, step.tenant, step.cost, step.cost % 7, self.now + step.which)
        try:
            self.scheduler.arrive(new, self.now)
            self.inside.append(new)
            self.decisions.append((new.state, new.number, new.position))
        except GatewayError as error:
            self.decisions.append((error.code, error.message, error.retry_after))

    def finish(self, step: Step) -> None:
        running = [one for one in self.inside if one.state == "running"]
        if running:
            one = running[step.which % len(running)]
            self.scheduler.finish(one, self.now, step.cost, step.cost)
            self._gone(one)

    def cancel(self, step: Step) -> None:
        if self.inside:
            one = self.inside[step.which % len(self.inside)]
            self.scheduler.cancel(one, self.now)
            self._gone(one)

    def expire(self, step: Step) -> None:
        for one in self.scheduler.expire(self.now):
            self.decisions.append(("expired", one.number))
            self._gone(one)

    def _gone(self, one: Ticket) -> None:
        self.inside.remove(one)
        self.answered.append(one)


def replayed(trace: Iterable[Step]) -> bytes:
    """All decisions, and the state at the end."""
    history = History()
    for step in trace:
        history.play(step)
    return msgspec.json.encode((history.decisions, describe(history.scheduler, {}, history.now)))


def arrivals(number: int, seed: int = 1) -> Iterator[Step]:
    """The same ones in every process; many tenants, and hardly a moment without somebody who waits."""
    dice = random.Random(seed)
    for _ in range(number):
        yield Step(
            after=dice.choice(PAUSES) if dice.random() < 0.05 else 0.1,
            act=dice.choice(ACTS),
            cost=dice.randint(0, 60),
            tenant=dice.choice(TENANTS),
            of=dice.choice(PRIORITY_CLASSES),
            which=dice.randint(0, 1000),
        )


if __name__ == "__main__":
    sys.stdout.buffer.write(replayed(arrivals(5000)))
