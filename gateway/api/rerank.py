"""POST /v1/rerank: documents in the order of their likeness to a query."""

from typing import Annotated

import msgspec
import numpy as np
from aiohttp import web

from gateway.api.body import read_body
from gateway.api.embeddings import VectorReply
from gateway.api.keys import CALL, EMBEDDING, OFFLOAD
from gateway.api.priority import choose_priority
from gateway.api.responses import json_bytes
from gateway.api.schema import RerankDocument, RerankList, RerankResult, RerankUsage
from gateway.core.call import Call
from gateway.core.job import Vectors
from python_backends.messages import Truncation
from python_backends.preprocessing.parsing import decode_body
from python_backends.preprocessing.schema import MAX_INPUTS, EmbeddingRequest, Positive, Priority

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class RerankText(msgspec.Struct, forbid_unknown_fields=True):
    text: NonEmpty


class RerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/rerank`."""

    query: NonEmpty
    documents: Annotated[list[NonEmpty | RerankText], msgspec.Meta(min_length=1, max_length=MAX_INPUTS - 1)]
    model: str | None = None
    top_n: Positive | None = None
    return_documents: bool | None = None
    truncate: Truncation | None = None
    user: str | None = None
    priority: Priority | None = None

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


_DECODER = msgspec.json.Decoder(RerankRequest)


def parse_rerank(body: bytes | str) -> RerankRequest:
    """Raises RequestError."""
    return decode_body(_DECODER, body, RerankRequest)


async def create(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, parse_rerank)
    call = request[CALL]
    call.user = body.user
    choose_priority(request, body.priority)
    texts = body.texts
    asked = EmbeddingRequest(input=[body.query, *texts], model=body.model, truncate=body.truncate, normalize=True)
    reply = VectorReply()
    await request.app[EMBEDDING].run(call, asked, reply)
    encoded = await request.app[OFFLOAD].run(reply.vectors.nbytes, _encode, call, body, texts, reply.vectors)
    return json_bytes(call, encoded)


def ranked(vectors: Vectors, most: int | None) -> list[tuple[int, float]]:
    """Places of the documents and their cosine with the query, which is the first vector; the most alike first."""
    scores = vectors[1:] @ vectors[0]
    order = np.argsort(-scores, kind="stable")[:most]
    return [(int(place), float(scores[place])) for place in order]


def _encode(call: Call, body: RerankRequest, texts: list[str], vectors: Vectors) -> bytes:
    results = [
        RerankResult(place, score, RerankDocument(texts[place]) if body.return_documents else None)
        for place, score in ranked(vectors, body.top_n)
    ]
    usage = RerankUsage(call.usage.prompt, call.usage.prompt)
    return msgspec.json.encode(RerankList(f"rerank-{call.uid}", body.model or "", results, usage))
