"""The `vllm` model: Triton requests → engine host → Triton responses."""

from typing import Any

import msgspec
import prometheus_client

from python_backends.adapters.inspection import Base
from python_backends.llm.engine import Engine, EngineError, EngineUnavailableError, ShelfState
from python_backends.llm.host import EngineHost
from python_backends.llm.scripted import ScriptedEngine
from python_backends.llm.shelf import Shelf
from python_backends.llm.vllm_engine import VllmEngine
from python_backends.messages import Control, Plan
from python_backends.preprocessing.errors import RequestError
from python_backends.runtime.errors import engine_error, request_error
from python_backends.runtime.metrics import MetricsMirror, Sample, adapter_samples, preemption_samples, vllm_samples
from python_backends.runtime.replies import Outbox, TritonReply, engine_response
from python_backends.runtime.settings import EngineSettings
from python_backends.runtime.tensors import read_array, read_bytes

_PLAN = msgspec.json.Decoder(Plan)
_CONTROL = msgspec.json.Decoder(Control)


def build_engine(settings: EngineSettings, version: str) -> Engine:
    if settings.engine == "scripted":
        return ScriptedEngine(settings.max_model_len, version)
    return VllmEngine(settings.arguments, preemption=settings.preemption)


class GenerationModel:
    """One engine, its host, and the thread that answers."""

    def __init__(self, settings: EngineSettings, version: str) -> None:
        engine = build_engine(settings, version)
        base = Base.from_dir(settings.model_dir) if settings.shelf.places else None
        self._host = EngineHost(engine, shelf=Shelf(engine, settings.shelf, base))
        self._outbox = Outbox()
        labels = {"model": settings.model_dir.name, "version": version}
        self._mirror = MetricsMirror(settings.metrics_interval, labels, self._samples)

    def start(self) -> None:
        self._outbox.start()
        self._host.start()
        self._mirror.start()

    def stop(self) -> None:
        self._mirror.stop()
        self._host.stop()
        self._outbox.stop()

    def execute(self, request: Any) -> None:
        """Start a generation, or answer a control request. Every path answers the request exactly once."""
        reply = TritonReply(request.get_response_sender(), self._outbox)
        input_ids = read_array(request, "input_ids")
        try:
            if input_ids is None:
                self._control(_decode(_CONTROL, read_bytes(request, "plan")), reply)
            else:
                plan = _decode(_PLAN, read_bytes(request, "plan"))
                self._host.submit(request.request_id(), input_ids.tolist(), plan, reply)
        except RequestError as error:
            reply.answer(request_error(error))
        except EngineError as error:
            reply.answer(engine_error(error))

    def _samples(self) -> list[Sample]:
        try:
            state = self._host.state()
            return [
                *vllm_samples(prometheus_client.REGISTRY),
                *preemption_samples(state),
                *adapter_samples(state.shelf),
            ]
        except EngineUnavailableError:
            return []

    def _control(self, control: Control, reply: TritonReply) -> None:
        if control.control == "abort":
            self._host.abort(control.ids, lambda aborted: reply.answer(_control_response({"aborted": aborted})))
        elif control.control == "stats":
            reply.answer(_control_response(self._host.state()))
        elif control.control == "adapters":
            reply.answer(_control_response(self._host.state().shelf))
        else:
            self._host.adapters(control, lambda answer: reply.answer(_adapter_response(answer)))


def _adapter_response(answer: ShelfState | EngineError) -> Any:
    return engine_error(answer) if isinstance(answer, EngineError) else _control_response(answer)


def _control_response(answer: Any) -> Any:
    return engine_response([], "", msgspec.json.encode(answer))


def _decode(decoder: Any, text: bytes) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"plan: {error}", param="plan", code="invalid_plan") from error
