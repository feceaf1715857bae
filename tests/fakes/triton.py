"""A Triton server that speaks the wire contract of model_repository/README.md and does as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from python_backends.embedding.embedder import Terms, finished
from python_backends.messages import EmbeddingOptions, ErrorBody
from python_backends.preprocessing.errors import RequestError

JSON_LENGTH = "Inference-Header-Content-Length"
DIMENSIONS = 4
TERMS = Terms(256, DIMENSIONS, poolings=("mean", "cls"), normalize=False, shorter=(3,))


@dataclass
class Script:
    """What happens to generations. Positions count the deltas of one stream; errors are Triton's `error` text.

    `words`: texts, or whole deltas of a chat.
    """

    words: list[str | dict[str, Any]] = field(default_factory=lambda: ["Hello", ",", " world"])
    fail_at: int | None = None
    error: str = "something broke"
    hang_at: int | None = None
    cut_at: int | None = None
    finish: str = "stop"
    raw: bytes | None = None
    grammar: str | None = None


class FakeTriton:
    """`requests`: bodies of `generate_stream`, probes left out; `aborts`: lists of ids; `hanging`: set by `hang_at`,
    and `go_on` by tests, to end that. `plans`: texts that were judged; `score`: what is said of each.

    `versions`: ready ones of each model, None to keep them secret; `dead_engines`: versions; `loads`: by version.
    `controls`: those that are no aborts. `queues`: by model, None: no metrics page, which was asked for `pages` times.
    """

    def __init__(self) -> None:
        self.script = Script()
        self.alive = True
        self.generates = True
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.inferences: list[list[list[int]]] = []
        self.options: list[EmbeddingOptions] = []
        self.aborts: asyncio.Queue[list[str]] = asyncio.Queue()
        self.score = 0.5
        self.plan_hangs = False
        self.plans: list[str] = []
        self.failing_aborts = 0
        self.hanging = asyncio.Event()
        self.go_on = asyncio.Event()
        self.running = 0
        self.most_running = 0
        self.url = ""
        self.versions: dict[str, list[str]] | None = {"chat": ["1"], "vllm": ["1"], "embed": ["1"]}
        self.dead_engines: set[str] = set()
        self.loads: dict[str, dict[str, Any]] = {}
        self.controls: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.abort_paths: list[str] = []
        self.queues: dict[str, int] | None = None
        self.pages = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeTriton"]:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v2/health/live", self._ready)
        app.router.add_get("/v2/models/{model}/ready", self._ready)
        app.router.add_post("/v2/models/chat/generate_stream", self._generate)
        app.router.add_post("/v2/models/{model}/versions/{version}/generate_stream", self._generate)
        app.router.add_post("/v2/models/vllm/generate", self._control)
        app.router.add_post("/v2/models/vllm/versions/{version}/generate", self._control)
        app.router.add_post("/v2/repository/index", self._index)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v2/models/embed/infer", self._infer)
        app.router.add_post("/v2/models/plan/infer", self._plan)
        self._runner = runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def stop(self) -> None:
        """Close every connection and take no more."""
        await self._runner.cleanup()

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.alive else 400)

    async def _metrics(self, _: web.Request) -> web.Response:
        """As Triton writes it."""
        self.pages += 1
        if self.queues is None:
            return web.Response(status=404)
        name = "nv_inference_pending_request_count"
        lines = [f'{name}{{model="{model}",version="1"}} {number}' for model, number in self.queues.items()]
        return web.Response(text="\n".join([f"# TYPE {name} gauge", *lines, 'other{model="vllm"} 7', ""]))

    async def _control(self, request: web.Request) -> web.Response:
        plan = json.loads((await request.json())["plan"])
        if plan["control"] == "stats":
            version = request.match_info.get("version", "")
            dead = not self.alive or version in self.dead_engines
            return web.json_response({"event": json.dumps(self.loads.get(version, {}))}, status=400 if dead else 200)
        if plan["control"] != "abort":
            await self.controls.put(plan)
            return web.json_response({"event": "{}"})
        if self.failing_aborts:
            self.failing_aborts -= 1
            return web.json_response({"error": "not now"}, status=500)
        self.abort_paths.append(request.path)
        await self.aborts.put(plan["ids"])
        return web.json_response({"event": "{}"})

    async def _index(self, _: web.Request) -> web.Response:
        if self.versions is None:
            return web.json_response({"error": "This API is restricted"}, status=403)
        entries = [(model, version) for model, versions in self.versions.items() for version in versions]
        return web.json_response([{"name": model, "version": one, "state": "READY"} for model, one in entries])

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["id"] == "probe":
            return await self._probe(request)
        self.requests.append(body)
        self.paths.append(request.path)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._stream(request, body)
        finally:
            self.running -= 1

    async def _probe(self, request: web.Request) -> web.StreamResponse:
        if not self.generates:
            return web.json_response({"error": "the engine is dead"}, status=400)
        return web.Response(
            body=_event(_delta(_chat_choice(0, "x", "length", True), 1, {"prompt": 1, "completion": 1}))
        )

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        script = self.script
        for position, event in enumerate(_events(script, body)):
            if position == script.hang_at:
                self.hanging.set()
                await self.go_on.wait()
            if position == script.cut_at:
                request.transport.abort()  # type: ignore[union-attr]
                break
            error = b"data: " + json.dumps({"error": script.error}).encode() + b"\n\n"
            if position == script.fail_at == 0:
                return web.Response(body=error, status=400)
            if not response.prepared:
                await response.prepare(request)
            version = f'"model_version": "{request.match_info.get("version", "1")}"'.encode()
            told = event.replace(b'"model_version": "1"', version)
            await response.write(error if position == script.fail_at else told)
            if position == script.fail_at:
                break
        await response.write_eof()
        return response

    async def _plan(self, request: web.Request) -> web.Response:
        body = json.loads((await request.json())["inputs"][0]["data"][0])
        self.plans.append(body["messages"][-1]["content"])
        if self.plan_hangs:
            await asyncio.Event().wait()
        decision = json.dumps({"scorer": "fake", "score": self.score, "parts": {"meaning": 1.0}})
        outputs = [
            {"name": "decision", "datatype": "BYTES", "shape": [1], "data": [decision]},
            {"name": "prompt_tokens", "datatype": "INT32", "shape": [1], "data": [3]},
            {"name": "embedding", "shape": [1, DIMENSIONS], "parameters": {"binary_data_size": 4 * DIMENSIONS}},
        ]
        header = json.dumps({"outputs": outputs}).encode()
        data = header + np.full(DIMENSIONS, 0.5, dtype="<f4").tobytes()
        return web.Response(body=data, headers={JSON_LENGTH: str(len(header))})

    async def _infer(self, request: web.Request) -> web.Response:
        data = await request.read()
        length = int(request.headers[JSON_LENGTH])
        first, _, how = json.loads(data[:length])["inputs"]
        options = msgspec.json.decode(how["data"][0], type=EmbeddingOptions)
        try:
            TERMS.check(options)
        except RequestError as error:
            body = ErrorBody(message=error.message, type="invalid_request_error", code=error.code, param=error.param)
            return web.json_response({"error": msgspec.json.encode(body).decode()}, status=400)
        split = length + first["parameters"]["binary_data_size"]
        ids = np.frombuffer(data[length:split], dtype="<i4")
        lengths = np.frombuffer(data[split:], dtype="<i4")
        inputs = [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
        self.inferences.append(inputs)
        self.options.append(options)
        vectors = np.array([[len(one), *one[:3], 0, 0, 0][:DIMENSIONS] for one in inputs], dtype="<f4")
        vectors = finished(vectors, TERMS, options)
        return _tensors({"embedding": vectors, "prompt_tokens": lengths})


def _events(script: Script, body: dict[str, Any]) -> list[bytes]:
    """One answer, its choices taking turns word by word."""
    if script.raw is not None:
        return [script.raw]
    request = json.loads(body["request"])
    choices = request.get("n", 1)
    shape = _chat_choice if request["kind"] == "chat" else _text_choice
    deltas = []
    for position, word in enumerate(script.words):
        last = position == len(script.words) - 1
        for index in range(choices):
            usage = None
            if last and index == choices - 1:
                tokens = len(script.words) * choices
                usage = {"prompt": len(body["input_ids"]), "completion": tokens, "cached": 2}
            choice = shape(index, word, script.finish if last else None, position == 0, bool(request.get("logprobs")))
            ending = {"grammar": script.grammar} if last and script.grammar else {}
            deltas.append(_event(_delta(choice, 1, usage) | ending))
    return deltas


def _chat_choice(
    index: int, word: str | dict[str, Any], finish: str | None, first: bool, logprobs: bool = False
) -> dict[str, Any]:
    said, text = (word, "") if isinstance(word, dict) else ({"content": word}, word)
    delta = {"role": "assistant", **said} if first else said
    entry = {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}
    return {
        "index": index,
        "delta": delta,
        "logprobs": {"content": [entry]} if logprobs else None,
        "finish_reason": finish,
    }


def _text_choice(index: int, text: str, finish: str | None, first: bool, logprobs: bool = False) -> dict[str, Any]:
    table = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5}], "text_offset": [0]}
    return {"index": index, "text": text, "logprobs": table if logprobs else None, "finish_reason": finish}


def _delta(choice: dict[str, Any], tokens: int, usage: dict[str, int] | None) -> dict[str, Any]:
    delta: dict[str, Any] = {"choice": choice, "tokens": tokens}
    if usage is not None:
        delta |= {"usage": usage, "timings": {"queued": 1.0, "prefill": 2.0, "decode": 3.0}}
    return delta


def _event(delta: dict[str, Any]) -> bytes:
    text = json.dumps(delta, separators=(",", ":"), ensure_ascii=False)
    event = {"delta": text, "id": "", "model_name": "chat", "model_version": "1", "sequence_end": False}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _tensors(outputs: dict[str, Any]) -> web.Response:
    described = [
        {
            "name": name,
            "datatype": "FP32" if values.dtype == np.float32 else "INT32",
            "shape": list(values.shape),
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in outputs.items()
    ]
    header = json.dumps({"model_name": "embed", "model_version": "1", "outputs": described}).encode()
    body = header + b"".join(values.tobytes() for values in outputs.values())
    return web.Response(body=body, headers={JSON_LENGTH: str(len(header))})
