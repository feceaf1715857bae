"""POST /tokenize and /detokenize, in vLLM's shapes."""

import msgspec
from aiohttp import web

from gateway.api.body import parser_of, read_body
from gateway.api.keys import CALL, MODELS, TEXTS, TOKENIZING, Texts
from gateway.api.responses import json_response
from gateway.api.schema import Detokenized, DetokenizeRequest, Tokenized
from gateway.core.call import Model
from gateway.core.requests import request_faults
from gateway.errors import InvalidRequest
from python_backends.preprocessing.schema import ChatRequest, Message, Tool


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /tokenize`: a text, or a conversation as the chat template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True


_tokenize = parser_of(TokenizeRequest)
_detokenize = parser_of(DetokenizeRequest)


async def tokenize(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, _tokenize)
    call = request[CALL]
    call.model = model = request.app[MODELS].find(call, body.model)
    _own_tokens(model)
    with request_faults():
        ids = await request.app[TOKENIZING].run(call.size, _ids, body, request.app[TEXTS], model.base)
    return json_response(call, Tokenized(len(ids), model.max_model_len, ids))


def _own_tokens(model: Model) -> None:
    """Raises InvalidRequest for a router, whose candidates may have different ones."""
    if model.candidates:
        raise InvalidRequest(
            f"{model.name} chooses among models, which count differently: name one of {', '.join(model.candidates)}",
            param="model",
        )


async def detokenize(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, _detokenize)
    call = request[CALL]
    call.model = model = request.app[MODELS].find(call, body.model)
    _own_tokens(model)
    tokenizer = request.app[TEXTS].tokenizers[model.base]
    if not all(0 <= token < tokenizer.vocab_size for token in body.tokens):
        raise InvalidRequest(f"token ids of {model.name} go from 0 to {tokenizer.vocab_size - 1}", param="tokens")
    text = await request.app[TOKENIZING].run(call.size, tokenizer.decode, body.tokens, skip_special_tokens=False)
    return json_response(call, Detokenized(text))


def _ids(body: TokenizeRequest, texts: Texts, model: str) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either prompt or messages", param="prompt")
    if body.prompt is not None:
        return texts.tokenizers[model].encode(body.prompt, add_special_tokens=body.add_special_tokens)
    builder = texts.builders.get(model)
    if builder is None:
        raise InvalidRequest(f"{model} has no chat template: send prompt", param="messages")
    return builder.chat(ChatRequest(messages=body.messages, tools=body.tools))
