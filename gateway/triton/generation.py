"""Chats and completions: one stream for each prompt, their deltas pushed to the reply as they come."""

import asyncio
from dataclasses import dataclass, field

import msgspec

from gateway.core.call import Call
from gateway.core.job import Backend, Chunk, GenerationJob
from gateway.core.ports import Reply
from gateway.errors import BackendFailed, GatewayError
from gateway.triton.abort import Aborts
from gateway.triton.client import EventStream, TritonClient
from gateway.triton.codec import StreamEvent, stream_request
from gateway.triton.faults import error_of
from python_backends.messages import VIOLATION, Delta

_MID_STREAM = 200


class _Finish(msgspec.Struct):
    finish_reason: str | None = None


_EVENT = msgspec.json.Decoder(StreamEvent)
_DELTA = msgspec.json.Decoder(Delta)
_FINISH = msgspec.json.Decoder(_Finish)


class Generation:
    """Whatever does not end by its last delta is aborted in the engine."""

    def __init__(self, client: TritonClient, aborts: Aborts, prompts_at_once: int) -> None:
        self._client = client
        self._aborts = aborts
        self._prompts_at_once = prompts_at_once

    async def run(self, call: Call, job: GenerationJob, backend: Backend, reply: Reply[Chunk]) -> None:
        """Raises GatewayError: whatever the client sent wrong after all, or what failed on the way."""
        work = _Work(self._client, call, job, backend, reply)
        try:
            if len(job.prompts) == 1:
                await work.stream(0)
            else:
                await work.streams(self._prompts_at_once)
        finally:
            if work.unfinished:
                self._aborts.order(backend, work.unfinished)


@dataclass(slots=True)
class _Work:
    """One job on its backend. `unfinished`: ids that the engine may still be busy with."""

    client: TritonClient
    call: Call
    job: GenerationJob
    backend: Backend
    reply: Reply[Chunk]
    unfinished: set[str] = field(default_factory=set)

    async def streams(self, at_once: int) -> None:
        """All prompts, `at_once` at a time; the first failure ends them all."""
        places = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with places:
                await self.stream(number)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(len(self.job.prompts)):
                    group.create_task(one(number))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def stream(self, number: int) -> None:
        """One prompt; its choices are numbered behind those of the prompts before it."""
        engine_id = f"{self.call.engine_id}-{number}"
        request = stream_request(self.call, self.job, self.job.prompts[number], engine_id)
        self.unfinished.add(engine_id)
        async with self.client.stream(self.backend, self.backend.path("generate_stream"), request) as events:
            await self._relay(events, number)
        self.unfinished.remove(engine_id)

    async def _relay(self, events: EventStream, number: int) -> None:
        """Until the stream's end. Raises BackendFailed when that comes without a last delta.

        What was used by a stream that ends early is its prompt, once there was a token, and the tokens that came.
        """
        call, send = self.call, self.reply.send
        first_index = number * self.job.body.choices
        complete, seen = False, 0
        try:
            while batch := await events.read():
                for data in batch:
                    delta = _decode(call, data, self.backend)
                    seen += delta.tokens
                    call.saw_tokens(delta.tokens)
                    if delta.grammar is not None:
                        call.saw_answer(delta.grammar)
                    if delta.usage is not None:
                        complete = True
                        call.usage.add(delta.usage.prompt, delta.usage.completion, delta.usage.cached)
                        call.engine = delta.timings
                    await send(Chunk(_numbered(delta.choice, first_index), delta.tokens))
            if not complete:
                raise BackendFailed(f"backend {self.backend.name} ended the answer too early", code="answer_truncated")
        finally:
            if seen and not complete:
                call.usage.add(len(self.job.prompts[number].ids), seen, 0)


def _decode(call: Call, data: bytes, backend: Backend) -> Delta:
    try:
        event = _EVENT.decode(data)
        if event.delta is None:
            raise _failed(call, error_of(backend, event.error or "an event without delta", _MID_STREAM))
        delta = _DELTA.decode(event.delta)
        reason = _FINISH.decode(delta.choice).finish_reason
    except msgspec.DecodeError as error:
        raise BackendFailed(f"backend {backend.name} sent an event that makes no sense") from error
    call.model_version = event.model_version or call.model_version
    if reason in ("abort", "error"):
        raise BackendFailed(f"the engine ended the answer early ({reason})", code=f"engine_{reason}")
    return delta


def _failed(call: Call, error: GatewayError) -> GatewayError:
    if error.code == VIOLATION:
        call.saw_answer("violated")
    return error


def _numbered(choice: msgspec.Raw, first_index: int) -> bytes:
    """The choice with its index among all prompts' choices."""
    if first_index == 0:
        return bytes(choice)
    fields = msgspec.json.decode(choice)
    fields["index"] += first_index
    return msgspec.json.encode(fields)
