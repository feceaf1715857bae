"""POST /v1/chat/completions."""

from aiohttp import web

from gateway.api.body import read_body
from gateway.api.collect import CollectedReply
from gateway.api.freshness import read_freshness
from gateway.api.keys import CALL, GENERATION
from gateway.api.priority import choose_priority
from gateway.api.responses import answering, json_response
from gateway.api.schema import ChatCompletion, UsageBody
from gateway.api.sse import StreamShape
from gateway.api.streaming import stream_answer
from python_backends.preprocessing.parsing import parse_chat


async def create(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, parse_chat)
    call = request[CALL]
    call.session, call.user = call.session or body.user, body.user
    choose_priority(request, body.priority)
    call.freshness = read_freshness(request)
    answer_id = f"chatcmpl-{call.uid}"
    if body.stream:
        return await stream_answer(request, body, StreamShape(answer_id, "chat.completion.chunk", body.include_usage))
    reply = CollectedReply()
    await request.app[GENERATION].run(call, body, reply)
    return json_response(
        call,
        ChatCompletion(
            id=answer_id,
            object="chat.completion",
            created=call.created,
            model=answering(call, body),
            choices=reply.chat_choices(),
            usage=UsageBody.of(call.told_usage),
        ),
    )
