"""`Idempotency-Key` around a handler: answered before, answered now, or kept for the next time."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.api.body import read_raw
from gateway.api.keys import CALL, IDEMPOTENCY, OFFLOAD
from gateway.api.responses import standard_headers
from gateway.api.sse import STREAM_HEADERS
from gateway.cache.idempotency import HEADER, Answer, Claim, Idempotency, fingerprint
from gateway.core.call import Call
from gateway.errors import InvalidKey, InvalidRequest

STATUS_HEADER = "idempotency-status"
REPLAYED_HEADER = "idempotent-replayed"

_KEY = re.compile(r"[ -~]{1,255}")
_SUCCESS = range(200, 300)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recording:
    """What a stream writes, as long as it is not too much to be kept."""

    def __init__(self, idempotency: Idempotency, claim: Claim) -> None:
        self._idempotency = idempotency
        self._claim = claim
        self._parts: list[bytes] = []
        self._room = idempotency.max_answer_bytes

    def add(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room >= 0:
            self._parts.append(data)
        else:
            self._parts.clear()

    async def complete(self, last: bytes) -> None:
        """`last` is about to go out: whoever has read it may ask again, and must find the answer."""
        self.add(last)
        if self._room < 0:
            await self._idempotency.refuse(self._claim)
            return
        answer = Answer(200, STREAM_HEADERS["content-type"], b"".join(self._parts))
        await self._idempotency.store(self._claim, answer)

    async def give_up(self) -> None:
        """The stream is about to end with an error: whoever has read that may try again."""
        await self._idempotency.release(self._claim)


RECORDING = web.RequestKey("RECORDING", Recording)


def repeatable(handler: Handler) -> Handler:
    """`handler` for requests with and without an `Idempotency-Key`; its caller must be known."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if HEADER not in request.headers:
            return await handler(request)
        return await _once(request, handler)

    return handle


async def _once(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Raises IdempotencyMismatch, InProgress, and what `handler` raises."""
    call, idempotency = request[CALL], request.app[IDEMPOTENCY]
    key = _key(request)
    raw = await read_raw(request)
    digest = await request.app[OFFLOAD].run(len(raw), fingerprint, call.route, raw)
    if call.caller is None:
        raise InvalidKey(f"{HEADER} needs an API key", param=HEADER)
    found = await idempotency.claim(call.caller, key, digest)
    call.mark("idempotency")
    match found:
        case Answer():
            return _replay(call, found)
        case Claim():
            return await _claimed(request, handler, idempotency, found)
        case None:
            call.headers[STATUS_HEADER] = "unavailable"
            return await handler(request)


async def _claimed(
    request: web.Request, handler: Handler, idempotency: Idempotency, claim: Claim
) -> web.StreamResponse:
    request[RECORDING] = Recording(idempotency, claim)
    try:
        response = await handler(request)
    except Exception:  # boundary: whatever failed goes on its way, with the key free before the client hears of it
        await idempotency.release(claim)
        raise
    else:
        if isinstance(response, web.Response) and response.status in _SUCCESS:
            await _keep(response, idempotency, claim)
        return response
    finally:
        idempotency.abandon(claim)


async def _keep(response: web.Response, idempotency: Idempotency, claim: Claim) -> None:
    """A whole answer. A stream has stored itself, before its last bytes went out."""
    body = response.body if isinstance(response.body, bytes) else b""
    answer = Answer(response.status, response.headers["content-type"], body)
    if not await idempotency.store(claim, answer) and len(body) <= idempotency.max_answer_bytes:
        response.headers[STATUS_HEADER] = "unavailable"


def _replay(call: Call, answer: Answer) -> web.Response:
    """The same bytes, under the id and with the timings of this request."""
    call.replayed = True
    headers = STREAM_HEADERS if answer.content_type == STREAM_HEADERS["content-type"] else {}
    call.headers[REPLAYED_HEADER] = "true"
    return web.Response(
        body=answer.body,
        status=answer.status,
        headers={**headers, **standard_headers(call), "content-type": answer.content_type},
    )


def _key(request: web.Request) -> str:
    """Raises InvalidRequest."""
    sent = request.headers.getall(HEADER)
    if len(sent) > 1 or not _KEY.fullmatch(sent[0]):
        raise InvalidRequest(f"{HEADER} must be given once, as 1 to 255 printable ASCII characters", param=HEADER)
    return sent[0]
