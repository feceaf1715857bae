"""POST /v1/embeddings."""

import base64

import msgspec
import numpy as np
from aiohttp import web

from gateway.api.body import read_body
from gateway.api.keys import CALL, EMBEDDING, OFFLOAD
from gateway.api.priority import choose_priority
from gateway.api.responses import json_bytes
from gateway.api.schema import EmbeddingObject, EmbeddingUsage, Vector
from gateway.core.call import Call
from gateway.core.job import Vectors
from python_backends.preprocessing.parsing import parse_embedding
from python_backends.preprocessing.schema import EmbeddingRequest


class VectorReply:
    """Holds the one piece in which vectors come."""

    def __init__(self) -> None:
        self.vectors: Vectors = np.empty((0, 0), dtype=np.float32)

    async def send(self, piece: Vectors) -> None:
        self.vectors = piece

    async def finish(self) -> None:
        """The handler encodes and sends them."""


async def create(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, parse_embedding)
    call = request[CALL]
    call.user = body.user
    choose_priority(request, body.priority)
    reply = VectorReply()
    await request.app[EMBEDDING].run(call, body, reply)
    encoded = await request.app[OFFLOAD].run(reply.vectors.nbytes, _encode, call, body, reply.vectors)
    return json_bytes(call, encoded)


def _encode(call: Call, body: EmbeddingRequest, vectors: Vectors) -> bytes:
    """Row by row, so that other threads get their turn in between."""
    as_text = body.encoding_format == "base64"
    rows = []
    for number, row in enumerate(vectors):
        vector: Vector = base64.b64encode(row.tobytes()).decode() if as_text else row.tolist()
        rows.append(msgspec.Raw(msgspec.json.encode(EmbeddingObject("embedding", number, vector))))
    usage = EmbeddingUsage(call.usage.prompt, call.usage.prompt)
    return msgspec.json.encode({"object": "list", "data": rows, "model": body.model, "usage": usage})
