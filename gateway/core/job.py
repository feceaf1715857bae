"""What a backend is asked to do, and the pieces in which it answers."""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from python_backends.preprocessing.schema import GenerationRequest

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Backend:
    """One Triton server, and what to call there; `url` without a trailing slash. `version`: None for the newest."""

    name: str
    url: str
    triton_model: str = "chat"
    version: str | None = None

    def path(self, action: str) -> str:
        """Of the model: `generate_stream`, `infer`."""
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"/v2/models/{self.triton_model}{version}/{action}"


class EngineLoad(msgspec.Struct, frozen=True):
    """What an engine says of itself. `kv_tokens`: what its cache holds, `kv_usage`: the share of it that is in use."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_tokens: int = 0

    @property
    def saturation(self) -> float:
        """0: idle, 1: its cache is full, or as many wait as run."""
        return min(1.0, max(self.kv_usage, self.waiting / max(1, self.running)))


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


class Chunk(NamedTuple):
    """`choice` is JSON: one element of `choices` in OpenAI's stream, ready to be sent."""

    choice: bytes
    tokens: int
