"""The request path. Each stage answers one question and knows no other stage; `app.py` puts them together."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Generic, Protocol, TypeVar

from gateway.core.call import Call, Model, Task
from gateway.core.job import Backend
from gateway.core.ports import Reply


class Named(Protocol):
    """A checked request body."""

    model: str | None


Body = TypeVar("Body", bound=Named)
Job = TypeVar("Job")
Piece = TypeVar("Piece")
Body_contra = TypeVar("Body_contra", contravariant=True)
Job_contra = TypeVar("Job_contra", contravariant=True)
Job_co = TypeVar("Job_co", covariant=True)
Piece_co = TypeVar("Piece_co", covariant=True)


class Catalogue(Protocol):
    def resolve(self, call: Call, name: str | None, task: Task) -> Model: ...


class Choosing(Protocol[Body_contra]):
    async def choose(self, call: Call, model: Model, body: Body_contra) -> Model:
        """`model` itself, unless it is a router's name."""
        ...


class Tokens(Protocol[Body_contra, Job_co]):
    async def prepare(self, call: Call, model: Model, body: Body_contra) -> Job_co: ...


class Grammar(Protocol[Body_contra]):
    async def check(self, call: Call, body: Body_contra) -> None: ...


class Caching(Protocol[Job_contra, Piece]):
    def answering(
        self, call: Call, job: Job_contra, reply: Reply[Piece], compute: Callable[[Call, Reply[Piece]], Awaitable[None]]
    ) -> AbstractContextManager[Callable[[], Awaitable[None]]]:
        """Begins to look, and gives what answers: with what is known already, or with what `compute` finds, for this
        call or for one in its place.
        """
        ...


class Limiting(Protocol):
    def hold(self, call: Call) -> AbstractAsyncContextManager[None]: ...


class Admission(Protocol):
    def turn(self, call: Call) -> AbstractAsyncContextManager[None]: ...


class Routing(Protocol):
    async def run(self, call: Call, work: Callable[[Backend], Awaitable[None]]) -> None:
        """`work` with a lease on a backend; once more on another one, while the client has seen nothing."""


class Engine(Protocol[Job_contra, Piece_co]):
    async def run(self, call: Call, job: Job_contra, backend: Backend, reply: Reply[Piece_co]) -> None: ...


class Accounting(Protocol):
    def entry(self, call: Call) -> AbstractContextManager[None]: ...


class Pipeline(Generic[Body, Job, Piece]):
    """One for requests that generate, one for embeddings: same path, other tokens and engine."""

    def __init__(
        self,
        task: Task,
        *,
        models: Catalogue,
        choosing: Choosing[Body],
        tokens: Tokens[Body, Job],
        limits: Limiting,
        grammar: Grammar[Body],
        cache: Caching[Job, Piece],
        admission: Admission,
        routing: Routing,
        engine: Engine[Job, Piece],
        accounting: Accounting,
    ) -> None:
        self._task = task
        self._models = models
        self._choosing = choosing
        self._tokens = tokens
        self._limits = limits
        self._grammar = grammar
        self._cache = cache
        self._admission = admission
        self._routing = routing
        self._engine = engine
        self._accounting = accounting

    async def run(self, call: Call, body: Body, reply: Reply[Piece]) -> None:
        """Answer `call`, whose caller is known and whose body is checked. Raises GatewayError.

        One task owns every lease, and the answer is pushed: a client that leaves cancels this task, and everything
        that the call held is given back on the way out.
        """
        with self._accounting.entry(call):
            async with call.limit:
                named = self._models.resolve(call, body.model, self._task)
                call.model = await self._choosing.choose(call, named, body)
                job = await self._tokens.prepare(call, call.model, body)
                call.mark("tokens")
                with self._cache.answering(call, job, reply, partial(self._compute, body, job)) as answer:
                    async with self._limits.hold(call):
                        call.mark("limits")
                        await answer()
                await reply.finish()

    async def _compute(self, body: Body, job: Job, call: Call, reply: Reply[Piece]) -> None:
        await self._grammar.check(call, body)
        async with self._admission.turn(call):
            call.mark("admission")
            await self._routing.run(call, lambda backend: self._engine.run(call, job, backend, reply))
