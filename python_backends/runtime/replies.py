"""Responses of decoupled requests, sent from one thread so that the engine's loop never waits for Triton."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import triton_python_backend_utils as pb_utils

from python_backends.llm.engine import EngineError
from python_backends.messages import Event
from python_backends.runtime.errors import engine_error
from python_backends.runtime.tensors import bytes_tensor, int_tensor

log = logging.getLogger(__name__)


class Outbox:
    """Sends responses in the order in which they were posted."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what was posted, then end."""
        self._queue.put(None)
        self._thread.join()

    def post(self, send: Callable[[], None]) -> None:
        self._queue.put(send)

    def _run(self) -> None:
        while (send := self._queue.get()) is not None:
            try:
                send()
            except Exception:  # a thread that everything depends on: one request's failure must not end it
                log.exception("a response could not be sent")


class TritonReply:
    """The responses of one generation request."""

    def __init__(self, sender: Any, outbox: Outbox) -> None:
        self._sender = sender
        self._outbox = outbox

    def send(self, token_ids: Sequence[int], text: str, event: Event, *, final: bool) -> None:
        self._outbox.post(lambda: self._send(engine_response(token_ids, text, msgspec.json.encode(event)), final))

    def fail(self, error: EngineError) -> None:
        self._outbox.post(lambda: self._send(engine_error(error), True))

    def answer(self, response: Any) -> None:
        """The one response of a request that generates nothing, or its refusal."""
        self._outbox.post(lambda: self._send(response, True))

    def _send(self, response: Any, final: bool) -> None:
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)


def engine_response(token_ids: Sequence[int], text: str, event: bytes) -> Any:
    """The three outputs of the `vllm` model."""
    tensors = [int_tensor("token_ids", token_ids), bytes_tensor("text", text.encode()), bytes_tensor("event", event)]
    return pb_utils.InferenceResponse(output_tensors=tensors)
