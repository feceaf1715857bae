"""May the answer to other words be given to this request, and which questions are asked of the same thing? Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

import msgspec
import numpy as np

from gateway.cache.keys import head_of
from gateway.cache.policy import Terms
from gateway.cache.settings import CacheSettings
from gateway.core.call import Caller, Model
from gateway.core.job import GenerationJob, Vectors
from gateway.valkey.wire import Argument
from python_backends.preprocessing.schema import ChatRequest, Message

# `form`: no chat that ends with what a user says. `turns`, `tools`: it was not chosen; what was said before may change
# what is meant, and a call does more than an answer.
Unfit = Literal["form", "turns", "tools", "long", "empty"]
# Another encoding: what was stored before is not found.
FORMAT: Final = 1
# Fields and values in turn.
Stored = tuple[Argument, ...]
_LEADING: Final = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Question:
    """`partition`: names all that must be the same but `text`, the tenant and the model's version too; letters and
    digits, a letter first.
    """

    text: str
    partition: str


def question_in(
    job: GenerationJob,
    caller: Caller,
    model: Model,
    identity: str,
    *,
    settings: CacheSettings,
    terms: Terms,
    encoder: str,
    day: str,
) -> Question | Unfit:
    """`identity`: of what would answer. `encoder`: whose vectors are compared. `day`: templates may name it.

    By exclusion, as in the exact key: a parameter that is new tells questions apart by itself. So do the messages
    before the last one, and the tools, as they were sent.
    """
    body = job.body
    if not isinstance(body, ChatRequest) or not body.messages:
        return "form"
    *before, last = body.messages
    problem = _problem(body, before, last, terms, settings.semantic_max_characters)
    if problem is not None:
        return problem
    rest = msgspec.json.encode([*before, msgspec.structs.replace(last, content=None)])
    head = head_of(job, caller, model, identity, scope=settings.scope, epoch=settings.epoch)
    encoded = msgspec.msgpack.encode((FORMAT, *head, body.token_limit, rest, encoder, day))
    return Question(last.text, f"p{sha256(encoded).hexdigest()[:32]}")


def _problem(body: ChatRequest, before: Sequence[Message], last: Message, terms: Terms, most: int) -> Unfit | None:
    if last.role != "user":
        return "form"
    if not terms.turns and any(message.role not in _LEADING for message in before):
        return "turns"
    if not terms.tools and body.tools is not None:
        return "tools"
    if not last.text.strip():
        return "empty"
    return "long" if len(last.text) > most else None


def owner_tag(owner: str) -> str:
    """Names a tenant where only letters and digits may stand."""
    return f"o{sha256(owner.encode()).hexdigest()[:32]}"


def encode_question(owner: str, question: Question, vector: Vectors, until: float) -> Stored:
    """Fields of a hash and their values. The vector is FP32[dimensions], as servers that search want it; `until`: Unix
    seconds, when its answer goes.
    """
    place = ("owner", owner_tag(owner), "partition", question.partition)
    return (*place, "vector", vector.astype("<f4").tobytes(), "text", question.text, "until", f"{until:.3f}")


def decode_question(stored: Sequence[bytes | None]) -> tuple[Question, Vectors, float]:
    """`stored`: partition, vector, text and until. With its vector, at length 1, and when its answer goes.

    Raises ValueError for what makes no sense.
    """
    if None in stored:
        raise ValueError("a part of it is missing")
    partition, vector, text, until = (value or b"" for value in stored)
    return Question(text.decode(), partition.decode()), unit(np.frombuffer(vector, dtype="<f4")), float(until)


def unit(vector: Vectors) -> Vectors:
    """FP32[n], at length 1. Raises ValueError for one without a direction."""
    long = vector.astype(np.float32)
    length = float(np.linalg.norm(long))
    if not 0 < length < np.inf:
        raise ValueError("a vector without a direction")
    return long / np.float32(length)
