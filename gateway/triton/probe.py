"""Questions that tell whether a Triton server can do its work."""

from collections.abc import Sequence

from gateway.core.job import Backend
from gateway.errors import BackendFailed
from gateway.triton.client import TritonClient
from gateway.triton.generation import PATH as GENERATE_PATH

_ONE_TOKEN = b'{"id":"probe","request":"{\\"prompt\\":\\"Hi\\",\\"max_tokens\\":1}"}'


# Triton calls a model ready whose process has died, and one whose engine has; only a request tells.
_STATE_PATH = "/v2/models/vllm/generate"
_STATE = b'{"plan":"{\\"control\\":\\"stats\\"}"}'


class TritonProbe:
    """`models`: those that must be ready. Times in seconds."""

    def __init__(
        self, client: TritonClient, models: Sequence[str], ready_timeout_s: float, generate_timeout_s: float
    ) -> None:
        self._client = client
        self._paths = ["/v2/health/ready", *(f"/v2/models/{model}/ready" for model in models)]
        self._ready_timeout_s = ready_timeout_s
        self._generate_timeout_s = generate_timeout_s

    async def ready(self, backend: Backend) -> None:
        for path in self._paths:
            await self._client.get(backend, path, timeout_s=self._ready_timeout_s)
        await self._client.post(backend, _STATE_PATH, _STATE, timeout_s=self._ready_timeout_s)

    async def generate(self, backend: Backend) -> None:
        """One token, through every step of the ensemble."""
        answer, _ = await self._client.post(backend, GENERATE_PATH, _ONE_TOKEN, timeout_s=self._generate_timeout_s)
        if b'"delta"' not in answer:
            raise BackendFailed(f"backend {backend.name} generated nothing: {answer[:200].decode(errors='replace')}")
