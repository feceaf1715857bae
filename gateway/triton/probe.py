"""Questions that tell whether a Triton server can do its work."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.job import ENGINE, Backend, Condition, EngineLoad, engine_path
from gateway.errors import BackendFailed, BackendLost, GatewayError
from gateway.triton.client import TritonClient
from gateway.triton.queues import Queues

# The version that Triton's own clients get, and that must work.
_DEFAULT = "chat"
_GENERATE_PATH = f"/v2/models/{_DEFAULT}/generate_stream"
# Before everybody who waits: a full engine must not look like a dead one.
_ONE_TOKEN = b'{"id":"probe","priority":0,"request":"{\\"prompt\\":\\"Hi\\",\\"max_tokens\\":1}"}'
_INDEX_PATH = "/v2/repository/index"
_READY_ONLY = b'{"ready":true}'
# Triton calls a model ready whose process has died, and one whose engine has; only a request tells.
_STATE = b'{"plan":"{\\"control\\":\\"stats\\"}"}'
# A server that does not tell its versions is asked again: it may have been set up anew, or only failed that once.
SECRET_S: Final = 60.0

Versions = Mapping[str, Sequence[str]]


class _Entry(msgspec.Struct):
    name: str
    version: str = ""
    state: str = ""


class _Answer(msgspec.Struct):
    """`event`: the engine's state, as JSON."""

    event: str


_INDEX = msgspec.json.Decoder(list[_Entry])
_ANSWER = msgspec.json.Decoder(_Answer)
_LOAD = msgspec.json.Decoder(EngineLoad)


class TritonProbe:
    """`models`: those that must be ready. Times in seconds. `clock`: monotonic."""

    def __init__(
        self,
        client: TritonClient,
        models: Sequence[str],
        ready_timeout_s: float,
        generate_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        # Not whether Triton itself is ready: it is not while any version is being loaded, or failed to.
        self._paths = ["/v2/health/live", *(f"/v2/models/{model}/ready" for model in models)]
        self._ready_timeout_s = ready_timeout_s
        self._generate_timeout_s = generate_timeout_s
        self._clock = clock
        self._queues = Queues(client, ready_timeout_s, clock)
        self._secret_until: dict[str, float] = {}

    async def ready(self, backend: Backend) -> Condition:
        """The engine of the version that clients of Triton get must answer; another one that does not is left out."""
        for path in self._paths:
            await self._client.get(backend, path, timeout_s=self._ready_timeout_s)
        versions = await self._versions(backend)
        default = max(versions.get(_DEFAULT, ()), key=int, default=None)
        loads = [await self._load(backend, default)]
        for version in versions.get(ENGINE, ()):
            if version == default:
                continue
            try:
                loads.append(await self._load(backend, version))
            except GatewayError:
                versions = _without(versions, version)
        return Condition(_with_queue(_busiest(loads), await self._queues.waiting(backend)), versions)

    async def generate(self, backend: Backend) -> None:
        """One token, through every step of the ensemble."""
        answer, _ = await self._client.post(backend, _GENERATE_PATH, _ONE_TOKEN, timeout_s=self._generate_timeout_s)
        if b'"delta"' not in answer:
            raise BackendFailed(f"backend {backend.name} generated nothing: {answer[:200].decode(errors='replace')}")

    async def _versions(self, backend: Backend) -> Versions:
        """Of each model, the ready ones. Empty where Triton was told not to tell; then nobody asks for a while."""
        if self._clock() < self._secret_until.get(backend.name, 0.0):
            return {}
        try:
            answer, _ = await self._client.post(backend, _INDEX_PATH, _READY_ONLY, timeout_s=self._ready_timeout_s)
            entries = _INDEX.decode(answer)
        except BackendLost:
            raise
        except (BackendFailed, msgspec.DecodeError):
            self._secret_until[backend.name] = self._clock() + SECRET_S
            return {}
        versions: dict[str, list[str]] = {}
        for entry in entries:
            if entry.state == "READY" and entry.version.isdecimal():
                versions.setdefault(entry.name, []).append(entry.version)
        return versions

    async def _load(self, backend: Backend, version: str | None) -> EngineLoad | None:
        """What an engine says of its load, if it does."""
        answer, _ = await self._client.post(backend, engine_path(version), _STATE, timeout_s=self._ready_timeout_s)
        try:
            return _LOAD.decode(_ANSWER.decode(answer).event)
        except msgspec.DecodeError:
            return None


def _busiest(loads: Sequence[EngineLoad | None]) -> EngineLoad | None:
    """With the adapters of the first: orders about adapters go to that engine."""
    first, told = loads[0], [load for load in loads if load is not None]
    busiest = max(told, key=lambda load: (load.saturation, load.kv_tokens), default=None)
    return busiest if busiest is None or first is None else msgspec.structs.replace(busiest, shelf=first.shelf)


def _with_queue(load: EngineLoad | None, queued: int | None) -> EngineLoad | None:
    """A server whose engine says nothing of itself may still say what waits."""
    return load if queued is None else msgspec.structs.replace(load or EngineLoad(), queued=queued)


def _without(versions: Versions, dead: str) -> Versions:
    """An ensemble has the version of its engine."""
    return {
        model: [one for one in ready if one != dead] if model.startswith((ENGINE, _DEFAULT)) else ready
        for model, ready in versions.items()
    }
