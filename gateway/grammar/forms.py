"""What answers must match is compiled before anything waits for a backend, by the code that `preprocess` runs."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from gateway.core.call import Call
from gateway.core.requests import request_faults
from gateway.core.settings import Setting
from gateway.errors import GrammarUnavailable
from python_backends.grammar.checker import CheckerUnavailableError, GrammarLimits
from python_backends.messages import Constraint
from python_backends.preprocessing.constraints import Wanted
from python_backends.preprocessing.expectation import wanted_constraints
from python_backends.preprocessing.schema import EmbeddingRequest, GenerationRequest


@dataclass(frozen=True, kw_only=True)
class GrammarSettings:
    max_bytes: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Largest schema, regex or grammar.", env="GRAMMAR_MAX_BYTES", unit="bytes"),
    ] = 64 * 1024
    compile_s: Annotated[
        float,
        msgspec.Meta(gt=0),
        Setting("CPU time that compiling one may take.", env="GRAMMAR_COMPILE_S", unit="s"),
    ] = 1.0
    remembered: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Verdicts that are kept, so that the same one is not compiled again.", env="GRAMMAR_REMEMBERED"),
    ] = 1024
    max_waiting: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Requests that may wait for a verdict; then 503.", env="GRAMMAR_MAX_WAITING"),
    ] = 64

    @property
    def limits(self) -> GrammarLimits:
        return GrammarLimits(self.max_bytes, self.compile_s, self.remembered)


class Checker(Protocol):
    """Thread-safe. Both raise RequestError."""

    def recall(self, wanted: Constraint, param: str) -> Constraint | None:
        """Costs next to nothing."""
        ...

    def check(self, wanted: Constraint, param: str) -> Constraint:
        """May take as long as the settings allow. Raises CheckerUnavailableError."""
        ...


class Forms:
    """`checkers`: by the name of the model whose vocabulary they know."""

    def __init__(self, checkers: Mapping[str, Checker], max_waiting: int) -> None:
        self._checkers = checkers
        # Verdicts are waited for in threads, one for each checker: those give one verdict at a time.
        self._pool = ThreadPoolExecutor(len(checkers), thread_name_prefix="grammar")
        self._max_waiting = max_waiting
        self._waiting = 0

    async def check(self, call: Call, body: GenerationRequest) -> None:
        """Raises InvalidRequest that says what is wrong and where, GrammarUnavailable."""
        if call.model is None:
            return
        with request_faults():
            checker = self._checkers[call.model.base]
            checked = False
            for wanted in wanted_constraints(body):
                checked = True
                if checker.recall(wanted.constraint, wanted.param) is None:
                    await self._compile(checker, wanted)
        if checked:
            call.mark("grammar")

    async def _compile(self, checker: Checker, wanted: Wanted) -> None:
        if self._waiting >= self._max_waiting:
            raise GrammarUnavailable("too many new forms of answers are being checked: try again", retry_after=1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, checker.check, wanted.constraint, wanted.param)
        except CheckerUnavailableError as error:
            raise GrammarUnavailable("forms of answers cannot be checked now: try again", retry_after=1.0) from error
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class AnyForm:
    """For what generates nothing."""

    async def check(self, call: Call, body: EmbeddingRequest) -> None:
        """Nothing to check."""
