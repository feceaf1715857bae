"""Questions that tell whether a Triton server can do its work."""

from collections.abc import Sequence

import msgspec

from gateway.core.job import Backend, EngineLoad
from gateway.errors import BackendFailed
from gateway.triton.client import TritonClient

_GENERATE_PATH = "/v2/models/chat/generate_stream"
# Before everybody who waits: a full engine must not look like a dead one.
_ONE_TOKEN = b'{"id":"probe","priority":0,"request":"{\\"prompt\\":\\"Hi\\",\\"max_tokens\\":1}"}'


# Triton calls a model ready whose process has died, and one whose engine has; only a request tells.
_STATE_PATH = "/v2/models/vllm/generate"
_STATE = b'{"plan":"{\\"control\\":\\"stats\\"}"}'


class _Answer(msgspec.Struct):
    """`event`: the engine's state, as JSON."""

    event: str


_ANSWER = msgspec.json.Decoder(_Answer)
_LOAD = msgspec.json.Decoder(EngineLoad)


class TritonProbe:
    """`models`: those that must be ready. Times in seconds."""

    def __init__(
        self, client: TritonClient, models: Sequence[str], ready_timeout_s: float, generate_timeout_s: float
    ) -> None:
        self._client = client
        self._paths = ["/v2/health/ready", *(f"/v2/models/{model}/ready" for model in models)]
        self._ready_timeout_s = ready_timeout_s
        self._generate_timeout_s = generate_timeout_s

    async def ready(self, backend: Backend) -> EngineLoad | None:
        """What the engine says of its load, if it does."""
        for path in self._paths:
            await self._client.get(backend, path, timeout_s=self._ready_timeout_s)
        answer, _ = await self._client.post(backend, _STATE_PATH, _STATE, timeout_s=self._ready_timeout_s)
        try:
            return _LOAD.decode(_ANSWER.decode(answer).event)
        except msgspec.DecodeError:
            return None

    async def generate(self, backend: Backend) -> None:
        """One token, through every step of the ensemble."""
        answer, _ = await self._client.post(backend, _GENERATE_PATH, _ONE_TOKEN, timeout_s=self._generate_timeout_s)
        if b'"delta"' not in answer:
            raise BackendFailed(f"backend {backend.name} generated nothing: {answer[:200].decode(errors='replace')}")
