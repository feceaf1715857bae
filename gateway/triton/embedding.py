"""Embeddings: all inputs of a request in one engine batch, as binary tensors."""

from gateway.core.call import Call
from gateway.core.job import Backend, EmbeddingJob, Vectors
from gateway.core.ports import Reply
from gateway.errors import BackendFailed
from gateway.triton.client import TritonClient
from gateway.triton.codec import embed_answer, embed_request


class Embedding:
    """`timeout_s`: for the whole answer."""

    def __init__(self, client: TritonClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def run(self, call: Call, job: EmbeddingJob, backend: Backend, reply: Reply[Vectors]) -> None:
        """Sends float32 [inputs, dimensions] in one piece. Raises GatewayError."""
        body, headers = embed_request(job)
        data, answered = await self._client.post(
            backend, backend.path("infer"), body, headers, timeout_s=self._timeout_s
        )
        result = embed_answer(data, answered)
        if len(result.vectors) != len(job.inputs):
            raise BackendFailed(f"the embedding model gave {len(result.vectors)} vectors for {len(job.inputs)} inputs")
        call.model_version = result.model_version
        call.usage.add(result.prompt_tokens, 0, 0)
        call.mark("embedding")
        await reply.send(result.vectors)
