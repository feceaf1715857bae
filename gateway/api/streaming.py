"""Requests that are answered by a stream."""

from aiohttp import web

from gateway.api.idempotency import RECORDING
from gateway.api.keys import CALL, GENERATION, HTTP
from gateway.api.middleware import as_gateway_error
from gateway.api.sse import RecordedReply, StreamedReply, StreamShape
from python_backends.preprocessing.schema import GenerationRequest


async def stream_answer(request: web.Request, body: GenerationRequest, shape: StreamShape) -> web.StreamResponse:
    """Raises GatewayError as long as nothing has been sent."""
    call = request[CALL]
    call.stream = True
    reply = _reply(request, shape)
    call.heartbeat = reply.heartbeat
    try:
        await request.app[GENERATION].run(call, body, reply)
    except Exception as error:  # boundary: once the stream has begun, only an event in it can tell the client
        if not reply.started:
            raise
        await reply.fail(as_gateway_error(error, call))
    return reply.response


def _reply(request: web.Request, shape: StreamShape) -> StreamedReply:
    call, patience_s, recording = request[CALL], request.app[HTTP].write_timeout_s, request.get(RECORDING)
    if recording is None:
        return StreamedReply(request, call, shape, patience_s)
    return RecordedReply(request, call, shape, patience_s, recording)
