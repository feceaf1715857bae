"""Runs an engine on an event loop of its own and gives every request exactly one ending.

Triton calls `submit` and `control` from its thread; everything else happens on the loop. A request ends by its last
token, an error, an abort or its deadline, and its Triton request is answered in each case.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from python_backends.llm.chunking import Chunking, Folder
from python_backends.llm.engine import Engine, EngineError, EngineOutput, EngineRequest, EngineState, ShelfState
from python_backends.llm.shelf import Shelf
from python_backends.messages import Control, Event, Plan, Postprocessing, Tokens

log = logging.getLogger(__name__)

EARLY_ABORT_SECONDS = 30.0
MAX_EARLY_ABORTS = 10_000


class Reply(Protocol):
    """Where the responses of one Triton request go. Both methods return at once."""

    def send(self, token_ids: Sequence[int], text: str, event: Event, *, final: bool) -> None: ...

    def fail(self, error: EngineError) -> None: ...


class EngineHost:
    """`chunking`: see there. `clock`: seconds, monotonic. `shelf`: None for an engine that serves no adapters."""

    def __init__(
        self,
        engine: Engine,
        chunking: Chunking | None = None,
        clock: Callable[[], float] = time.monotonic,
        shelf: Shelf | None = None,
    ) -> None:
        self._engine = engine
        self._shelf = shelf or Shelf(engine)
        self._chunking = chunking or Chunking()
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._numbers = itertools.count(1)
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._by_client_id: dict[str, set[int]] = {}
        self._early_aborts: dict[str, float] = {}

    def start(self) -> None:
        """Start the loop and the engine; returns when it can generate. Raises what the engine raises."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._engine.start(), self._loop).result()

    def stop(self) -> None:
        """End every request with an abort, then the engine."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def submit(self, client_id: str, input_ids: Sequence[int], plan: Plan, reply: Reply) -> None:
        """Start one generation. Thread-safe; returns at once."""
        self._loop.call_soon_threadsafe(self._begin, client_id, input_ids, plan, reply)

    def abort(self, client_ids: Sequence[str], done: Callable[[int], None]) -> None:
        """End all requests with these ids, also those that are still to come. Thread-safe; returns at once.

        `done` is called on the loop with the number of requests that ran.
        """
        future = asyncio.run_coroutine_threadsafe(self._abort(client_ids), self._loop)
        future.add_done_callback(lambda finished: done(finished.result()))

    def adapters(self, control: Control, done: Callable[[ShelfState | EngineError], None]) -> None:
        """Load, unload, pin or unpin. Thread-safe; returns at once. `done` is called on the loop."""
        future = asyncio.run_coroutine_threadsafe(self._adapters(control), self._loop)
        future.add_done_callback(lambda finished: done(finished.result()))

    def state(self) -> EngineState:
        return replace(self._engine.state(), in_flight=len(self._streams), shelf=self._shelf.state())

    async def _stop(self) -> None:
        await self._cancel(list(self._streams))
        await self._engine.stop()

    async def _abort(self, client_ids: Sequence[str]) -> int:
        numbers = [number for one in client_ids for number in self._by_client_id.get(one, ())]
        self._forget_early_aborts()
        for one in client_ids:
            if one not in self._by_client_id and len(self._early_aborts) < MAX_EARLY_ABORTS:
                self._early_aborts[one] = self._clock() + EARLY_ABORT_SECONDS
        await self._cancel(numbers)
        return len(numbers)

    async def _adapters(self, control: Control) -> ShelfState | EngineError:
        try:
            await self._shelf.obey(control)
        except EngineError as error:
            return error
        return self._shelf.state()

    async def _cancel(self, numbers: list[int]) -> None:
        tasks = [self._streams[number] for number in numbers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget_early_aborts(self) -> None:
        now = self._clock()
        self._early_aborts = {one: until for one, until in self._early_aborts.items() if until > now}

    def _begin(self, client_id: str, input_ids: Sequence[int], plan: Plan, reply: Reply) -> None:
        number = next(self._numbers)
        stream = _Stream(number, len(input_ids), plan, reply)
        if self._early_aborts.pop(client_id, 0.0) > self._clock():
            stream.abort()
            return
        request = EngineRequest(id=f"{client_id or 'anonymous'}#{number}", input_ids=input_ids, plan=plan)
        task = self._loop.create_task(self._run(request, stream), name=f"stream {request.id}")
        self._streams[number] = task
        self._by_client_id.setdefault(client_id, set()).add(number)
        task.add_done_callback(lambda _: self._end(client_id, number))

    def _end(self, client_id: str, number: int) -> None:
        del self._streams[number]
        numbers = self._by_client_id[client_id]
        numbers.discard(number)
        if not numbers:
            del self._by_client_id[client_id]

    async def _run(self, request: EngineRequest, stream: "_Stream") -> None:
        deadline = request.plan.deadline_ms
        try:
            async with asyncio.timeout(None if deadline is None else max(deadline, 0) / 1000):
                async with self._with_adapter(request) as loaded:
                    await self._relay(loaded, stream)
        except (asyncio.CancelledError, TimeoutError):
            stream.abort()
        except EngineError as error:
            stream.fail(error)
        except Exception as error:  # the boundary between Triton and any engine: whatever happened, Triton is answered
            log.exception("request %s failed", request.id)
            stream.fail(EngineError(f"the engine failed: {type(error).__name__}"))

    @asynccontextmanager
    async def _with_adapter(self, request: EngineRequest) -> AsyncIterator[EngineRequest]:
        """Its adapter is in the engine for so long. Raises EngineError."""
        if request.plan.adapter is None:
            yield request
            return
        async with self._shelf.hold(request.plan.adapter) as adapter:
            yield replace(request, adapter=adapter)

    async def _relay(self, request: EngineRequest, stream: "_Stream") -> None:
        folder = Folder()
        timer: asyncio.TimerHandle | None = None

        def flush() -> None:
            nonlocal timer
            timer = None
            now = self._clock()
            for output in folder.take(now, self._chunking.interval(len(self._streams))):
                stream.send(output)

        try:
            async for output in self._engine.generate(request):
                folder.add(output)
                wait = 0.0 if stream.must_not_fold else folder.wait(self._clock())
                if wait <= 0:
                    if timer is not None:
                        timer.cancel()
                    flush()
                elif timer is None:
                    timer = self._loop.call_later(wait, flush)
        finally:
            # However it ended: what was generated goes out, and counts, before the ending does.
            if timer is not None:
                timer.cancel()
                flush()


class _Stream:
    """The responses of one request: numbers them, counts them, and sends each ending once."""

    def __init__(self, number: int, prompt_tokens: int, plan: Plan, reply: Reply) -> None:
        self._number = number
        self._prompt_tokens = prompt_tokens
        self._plan = plan
        self._reply = reply
        self._post: Postprocessing | None = plan.post
        self._open = set(range(plan.sampling.n))
        self._completion_tokens = 0
        self._ended = False

    @property
    def must_not_fold(self) -> bool:
        """Stop strings count from `min_tokens` on, so that the border must not lie within a response."""
        sampling = self._plan.sampling
        return bool(sampling.stop) and self._completion_tokens <= sampling.min_tokens * sampling.n

    def send(self, output: EngineOutput) -> None:
        self._completion_tokens += len(output.token_ids)
        if output.finish:
            self._open.discard(output.index)
        event = Event(
            stream=self._number,
            index=output.index,
            post=self._take_post(),
            logprobs=output.logprobs,
            prompt_logprobs=output.prompt_logprobs,
            finish=output.finish,
            usage=self._usage(output.cached_tokens) if output.last else None,
            timings=output.timings,
        )
        self._ended = output.last
        self._reply.send(output.token_ids, output.text, event, final=output.last)

    def abort(self) -> None:
        """Finish every choice that is still open. Does nothing after the end."""
        if self._ended:
            return
        self._ended = True
        indices = sorted(self._open) or [0]
        for index in indices:
            last = index == indices[-1]
            event = Event(
                stream=self._number,
                index=index,
                post=self._take_post(),
                finish="abort",
                usage=self._usage(0) if last else None,
            )
            self._reply.send([], "", event, final=last)

    def fail(self, error: EngineError) -> None:
        """A Triton error while nothing was sent; afterwards an event, which keeps its place behind the tokens."""
        if self._ended:
            return
        self._ended = True
        if self._post is not None:
            self._reply.fail(error)
        else:
            self._reply.send([], "", Event(stream=self._number, error=error.body), final=True)

    def _take_post(self) -> Postprocessing | None:
        post, self._post = self._post, None
        return post

    def _usage(self, cached: int) -> Tokens:
        return Tokens(prompt=self._prompt_tokens, completion=self._completion_tokens, cached=cached)
