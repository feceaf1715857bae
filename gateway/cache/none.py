"""No cache: for what nobody keeps yet."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Generic, TypeVar

from gateway.core.call import Call
from gateway.core.ports import Reply

Job = TypeVar("Job")
Piece = TypeVar("Piece")


class Uncached(Generic[Job, Piece]):
    """Everything is computed."""

    def answering(
        self, call: Call, job: Job, reply: Reply[Piece], compute: Callable[[Call, Reply[Piece]], Awaitable[None]]
    ) -> AbstractContextManager[Callable[[], Awaitable[None]]]:
        return nullcontext(partial(compute, call, reply))
