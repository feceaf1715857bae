"""`python -m benchmarks.upstream PORT`: one server, one answer, in two languages: Triton's ensemble and OpenAI's API.

Proxies that speak different ones stand before the same process with the same work: read a request, send one answer.
"""

import asyncio
import json
import sys
from typing import Any, Final

from aiohttp import web

TEXT: Final = "Once upon a time there was a ship."
TOKENS: Final = 8
PROMPT_TOKENS: Final = 32


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/v2/health/live", _ready)
    app.router.add_get("/v2/health/ready", _ready)
    app.router.add_get("/v2/models/{model}/ready", _ready)
    app.router.add_post("/v2/models/vllm/generate", _control)
    app.router.add_post("/v2/models/vllm/versions/1/generate", _control)
    app.router.add_post("/v2/repository/index", _index)
    app.router.add_post("/v2/models/chat/generate_stream", _ensemble)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/traces", _spans)
    return app


async def _ready(request: web.Request) -> web.Response:
    return web.Response()


async def _spans(request: web.Request) -> web.Response:
    """A collector that keeps nothing."""
    await request.read()
    return web.Response()


async def _control(request: web.Request) -> web.Response:
    """The engine is always well, and there is never anything to abort."""
    return web.json_response({"event": "{}"})


async def _index(request: web.Request) -> web.Response:
    """One version of everything, so that everybody knows which one answers."""
    return web.json_response([{"name": name, "version": "1", "state": "READY"} for name in ("chat", "vllm", "embed")])


async def _ensemble(request: web.Request) -> web.Response:
    """The whole answer in one event."""
    body = await request.json()
    choice = {"index": 0, "delta": {"role": "assistant", "content": TEXT}, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt": len(body.get("input_ids", ())), "completion": TOKENS, "cached": 0}
    timings = {"queued": 0.0, "prefill": 0.0, "decode": 0.0}
    delta = _compact({"choice": choice, "tokens": TOKENS, "usage": usage, "timings": timings})
    event = _compact({"delta": delta, "id": "", "model_name": "chat", "model_version": "1", "sequence_end": False})
    return web.Response(text=f"data: {event}\n\n", content_type="text/event-stream")


async def _chat(request: web.Request) -> web.Response:
    body = await request.json()
    message = {"role": "assistant", "content": TEXT}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    return web.Response(text=_compact(answer), content_type="application/json")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


async def serve(port: int) -> None:
    """Until the process is ended."""
    runner = web.AppRunner(make_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
