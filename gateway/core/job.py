"""What a backend is asked to do, and the pieces in which it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.schema import GenerationRequest

Vectors = NDArray[np.float32]
# The Triton model that holds the engine.
ENGINE: Final = "vllm"
_USUAL: Final = EmbeddingOptions()


@dataclass(frozen=True, slots=True)
class Backend:
    """One Triton server, and what to call there; `url` without a trailing slash. `version`: None for the newest.

    `engine_version`: of the engine behind it, where control requests go. `metrics_url`: of Triton's own page, if known.
    """

    name: str
    url: str
    triton_model: str = "chat"
    version: str | None = None
    engine_version: str | None = None
    metrics_url: str | None = None

    def path(self, action: str) -> str:
        """Of the model: `generate_stream`, `infer`."""
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"/v2/models/{self.triton_model}{version}/{action}"

    @property
    def control_path(self) -> str:
        return engine_path(self.engine_version)


def engine_path(version: str | None) -> str:
    """For control requests to an engine. None: the newest."""
    return f"/v2/models/{ENGINE}{'' if version is None else f'/versions/{version}'}/generate"


_FULL_CACHE: Final = 0.9
_FEW_WAITING: Final = 5
_OVERLOAD: Final = 4


class Shelf(msgspec.Struct, frozen=True):
    """Adapters in an engine's memory, by their checksums. `places`: how many fit, 0: it serves none."""

    places: int = 0
    loaded: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()


_NO_ADAPTERS: Final = Shelf()


class EngineLoad(msgspec.Struct, frozen=True):
    """What an engine says of itself. `kv_tokens`: what its cache holds, `kv_usage`: the share of it that is in use.

    `queued`: what Triton says waits before it.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_tokens: int = 0
    queued: int = 0
    shelf: Shelf = _NO_ADAPTERS

    @property
    def saturation(self) -> float:
        """0: idle, 1: its cache is nearly full, or as many wait, in it or before it, as run (a few may always do)."""
        waiting = self.waiting + self.queued
        return min(1.0, max(self.kv_usage / _FULL_CACHE, waiting / max(_FEW_WAITING, self.running)))

    @property
    def overload(self) -> float:
        """0 to 1. An engine that is merely full, with its next batch at hand, has none: so many wait that others than
        this gateway must have sent them.
        """
        return min(1.0, self.waiting / (_OVERLOAD * max(_FEW_WAITING, self.running)))


@dataclass(frozen=True, slots=True)
class Condition:
    """What a backend says of itself. `load`: of the busiest of its engines, None if they do not tell.

    `versions`: of each Triton model, those that are ready; empty if it does not tell.
    """

    load: EngineLoad | None = None
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`max_tokens` is resolved: what the client asked for, or the room left in the context."""

    ids: list[int]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationJob:
    body: GenerationRequest
    prompts: list[Prompt]


@dataclass(frozen=True, slots=True)
class EmbeddingJob:
    inputs: list[list[int]]
    options: EmbeddingOptions = _USUAL


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What the ensemble `plan` says of a text. `score`: how hard it is, 0 to 1; `parts`: what moved it most, in logits.

    `embedding`: FP32[dimensions], of its first `tokens` tokens.
    """

    score: float
    parts: Mapping[str, float]
    scorer: str
    embedding: Vectors
    tokens: int


class Chunk(NamedTuple):
    """`choice` is JSON: one element of `choices` in OpenAI's stream, ready to be sent."""

    choice: bytes
    tokens: int
