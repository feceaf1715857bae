"""The order of the stages, and that everything is given back however a request ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest

from gateway.core.call import Call, Model, Task
from gateway.core.job import Backend
from gateway.core.limit import TimeLimit
from gateway.core.ports import Reply
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.pipeline import Pipeline

MODEL = Model("tiny", "generate", 256, 0)


@dataclass
class Body:
    model: str | None = "tiny"


@dataclass
class Stages:
    """Every stage at once; each writes down what it does. `failing`: the stage that raises `error`."""

    failing: str = ""
    error: BaseException = field(default_factory=lambda: Overloaded("busy"))
    done: list[str] = field(default_factory=list)

    def do(self, what: str) -> None:
        self.done.append(what)
        if what == self.failing:
            raise self.error

    @contextmanager
    def entry(self, call: Call) -> Iterator[None]:
        try:
            yield
        finally:
            self.done.append("written down")

    def resolve(self, call: Call, name: str | None, task: Task) -> Model:
        self.do(f"resolve {name} to {task}")
        return MODEL

    async def choose(self, call: Call, model: Model, body: Body) -> Model:
        self.do("choose")
        return model

    async def prepare(self, call: Call, model: Model, body: Body) -> str:
        self.do("count")
        return "job"

    async def check(self, call: Call, body: Body) -> None:
        self.do("check")

    @asynccontextmanager
    async def hold(self, call: Call) -> AsyncIterator[None]:
        self.do("reserve")
        try:
            yield
        finally:
            self.done.append("settle")

    @contextmanager
    def answering(
        self, call: Call, job: str, reply: Reply[str], compute: Callable[[Call, Reply[str]], Awaitable[None]]
    ) -> Iterator[Callable[[], Awaitable[None]]]:
        async def answer() -> None:
            self.do("answer")
            await compute(call, reply)

        self.do("ask the cache")
        try:
            yield answer
        finally:
            self.done.append("asked")

    @asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[None]:
        self.do("turn")
        try:
            yield
        finally:
            self.done.append("turn over")

    async def run(self, call: Call, job: str, backend: Backend, reply: Reply[str]) -> None:
        self.do(f"run {job} on {backend.name}")
        await reply.send("piece")


class Routing:
    """Gives out one backend."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    async def run(self, call: Call, work: Callable[[Backend], Awaitable[None]]) -> None:
        self._stages.do("lease")
        try:
            await work(Backend("b", "http://b"))
        finally:
            self._stages.done.append("lease over")


class Pieces(list[str]):
    async def send(self, piece: str) -> None:
        self.append(piece)

    async def finish(self) -> None:
        self.append("end")


def pipeline(stages: Stages) -> Pipeline[Body, str, str]:
    return Pipeline(
        "generate",
        models=stages,
        choosing=stages,
        tokens=stages,
        limits=stages,
        grammar=stages,
        cache=stages,
        admission=stages,
        routing=Routing(stages),
        engine=stages,
        accounting=stages,
    )


def new_call(seconds: float = 10) -> Call:
    return Call(id="r", uid="u", route="/", limit=TimeLimit(seconds))


async def test_stages_come_in_order_and_leases_end_in_reverse() -> None:
    stages, pieces, call = Stages(), Pieces(), new_call()
    await pipeline(stages).run(call, Body(), pieces)
    assert pieces == ["piece", "end"]
    assert call.model is MODEL
    assert list(call.stages) == ["tokens", "limits", "admission"]
    assert stages.done == [
        "resolve tiny to generate",
        "choose",
        "count",
        "ask the cache",
        "reserve",
        "answer",
        "check",
        "turn",
        "lease",
        "run job on b",
        "lease over",
        "turn over",
        "settle",
        "asked",
        "written down",
    ]


@pytest.mark.parametrize(
    ("failing", "given_back"),
    [
        ("resolve tiny to generate", ["written down"]),
        ("count", ["written down"]),
        ("ask the cache", ["written down"]),
        ("reserve", ["asked", "written down"]),
        ("answer", ["settle", "asked", "written down"]),
        ("check", ["settle", "asked", "written down"]),
        ("turn", ["settle", "asked", "written down"]),
        ("lease", ["turn over", "settle", "asked", "written down"]),
        ("run job on b", ["lease over", "turn over", "settle", "asked", "written down"]),
    ],
)
@pytest.mark.parametrize("error", [Overloaded("busy"), asyncio.CancelledError(), RuntimeError("bug")])
async def test_what_was_taken_is_given_back(failing: str, given_back: list[str], error: BaseException) -> None:
    stages = Stages(failing=failing, error=error)
    with pytest.raises(type(error)):
        await pipeline(stages).run(new_call(), Body(), Pieces())
    assert stages.done[stages.done.index(failing) + 1 :] == given_back


async def test_a_deadline_that_passed_ends_the_request_at_its_next_wait() -> None:
    class Silent(Pieces):
        async def send(self, piece: str) -> None:
            await asyncio.Event().wait()

    stages = Stages()
    with pytest.raises(DeadlineExceeded):
        await pipeline(stages).run(new_call(seconds=0), Body(), Silent())
    assert stages.done[-5:] == ["lease over", "turn over", "settle", "asked", "written down"]
