"""What a backend is asked to do, and the pieces in which it answers."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from python_backends.preprocessing.schema import GenerationRequest

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Backend:
    """One Triton server; `url` without a trailing slash."""

    name: str
    url: str


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
