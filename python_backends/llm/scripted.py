"""An engine without a model: the same tokens for the same prompt, at a chosen pace, with faults on order.

Token `k` of choice `i` has the id `(sum of the prompt's ids + 31 i + k) mod vocabulary` and the text `word<id> `, so
that tests can compute what they must receive. Every 7th token is an emoji. `script_text` orders another text.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec

from python_backends.llm.engine import (
    AdapterUnavailableError,
    EngineError,
    EngineOutput,
    EngineRequest,
    EngineState,
    LoadedAdapter,
)
from python_backends.messages import Plan, Script, Timings, TokenLogprob, TopLogprob

VOCABULARY = 1000
EXIT_STATUS = 86
SPOKEN = 4


class _AdapterOrders(msgspec.Struct):
    load_ms: float = 0.0
    fail: bool = False


class ScriptedEngine:
    """Sampling is ignored but for `max_tokens`, `n`, `stop`, `logprobs` and `prompt_logprobs`."""

    def __init__(self, max_model_len: int, version: str = "1") -> None:
        self._max_model_len = max_model_len
        self._version = version
        self._running = 0
        self._tokens = 0
        self._stalled_until = 0.0
        self._adapters: set[int] = set()

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to unload."""

    def state(self) -> EngineState:
        return EngineState(
            engine="scripted",
            version=self._version,
            model="scripted",
            max_model_len=self._max_model_len,
            running=self._running,
            kv_tokens=self._max_model_len * 64,
            steps=self._tokens,
            tokens=self._tokens,
        )

    async def load_adapter(self, adapter: LoadedAdapter) -> None:
        """The file `scripted.json` beside the weights orders how long it takes (`load_ms`), and whether it fails."""
        orders = _AdapterOrders()
        with suppress(FileNotFoundError):
            orders = msgspec.json.decode((Path(adapter.directory) / "scripted.json").read_bytes(), type=_AdapterOrders)
        await asyncio.sleep(orders.load_ms / 1000)
        if orders.fail:
            raise AdapterUnavailableError("the engine refuses this adapter, as ordered")
        self._adapters.add(adapter.number)

    async def unload_adapter(self, adapter: LoadedAdapter) -> None:
        self._adapters.discard(adapter.number)

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """With an adapter, the answer begins with its name."""
        if request.adapter is not None and request.adapter.number not in self._adapters:
            raise EngineError(f"adapter {request.adapter.name} is not loaded")
        self._running += 1
        try:
            async for output in self._script(request):
                yield output
        finally:
            self._running -= 1

    async def _script(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        plan, script = request.plan, request.plan.scripted or Script()
        started = time.monotonic()
        written = [""] * plan.sampling.n
        open_choices = set(range(plan.sampling.n))
        for number in range(plan.sampling.max_tokens):
            await self._wait(script, number)
            _fail_on_order(script, number)
            for index in sorted(open_choices):
                output = _token(request, index, number) if script.text is None else _spoken(script.text, index, number)
                written[index] += output.text
                self._tokens += 1
                _finish(output, plan, number, written[index])
                if script.text is not None and len(script.text) <= len(written[index]):
                    output.finish = "stop"
                if output.finish:
                    open_choices.discard(index)
                output.last = not open_choices
                if output.last:
                    output.timings = Timings(decode=1000 * (time.monotonic() - started))
                yield output
            if not open_choices:
                self._stalled_until = max(self._stalled_until, time.monotonic() + script.stall_ms / 1000)
                return

    async def _wait(self, script: Script, number: int) -> None:
        delay = script.delay_ms + (script.first_delay_ms if number == 0 else 0)
        await asyncio.sleep(delay / 1000)
        if script.hang_at == number:
            await asyncio.Event().wait()
        await asyncio.sleep(self._stalled_until - time.monotonic())


def token_id(input_ids: list[int], index: int, number: int) -> int:
    return (sum(input_ids) + 31 * index + number) % VOCABULARY


def token_text(identifier: int) -> str:
    return "🛶 " if identifier % 7 == 0 else f"word{identifier} "


def _token(request: EngineRequest, index: int, number: int) -> EngineOutput:
    identifier = token_id(list(request.input_ids), index, number)
    sampling = request.plan.sampling
    output = EngineOutput(index, [identifier], token_text(identifier))
    if request.adapter is not None and number == 0:
        output.text = f"[{request.adapter.name}] {output.text}"
    if sampling.logprobs is not None:
        output.logprobs = [_logprob(identifier, sampling.logprobs)]
    if sampling.prompt_logprobs is not None and number == 0:
        rest = [_logprob(one, sampling.prompt_logprobs) for one in request.input_ids[1:]]
        output.prompt_logprobs = [None, *rest]
    return output


def _spoken(text: str, index: int, number: int) -> EngineOutput:
    """A text on order; its tokens have no meaning."""
    return EngineOutput(index, [number % VOCABULARY], text[number * SPOKEN : (number + 1) * SPOKEN])


def _logprob(identifier: int, top: int) -> TokenLogprob:
    tokens = [token_text(identifier + other) for other in range(max(top, 1))]
    likeliest = [TopLogprob(token=t, logprob=-0.5 - n, bytes=list(t.encode())) for n, t in enumerate(tokens)]
    chosen = likeliest[0]
    return TokenLogprob(token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top=likeliest[:top])


def _finish(output: EngineOutput, plan: Plan, number: int, written: str) -> None:
    if number >= plan.sampling.min_tokens and any(stop in written for stop in plan.sampling.stop):
        output.finish = "stop"
    elif number + 1 == plan.sampling.max_tokens:
        output.finish = "length"


def _fail_on_order(script: Script, number: int) -> None:
    if script.fail_at == number:
        raise EngineError(f"failed at token {number}, as ordered", code="scripted_failure")
    if script.crash_at == number:
        os._exit(EXIT_STATUS)
