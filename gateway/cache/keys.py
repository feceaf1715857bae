"""What makes two requests the same, for the cache.

Everything counts but what is known not to change an answer: a parameter that is new is part of the key by itself.
"""

import struct
from array import array
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec

from gateway.cache.settings import Scope
from gateway.core.call import Caller, Model
from gateway.core.job import GenerationJob
from python_backends.preprocessing.schema import GenerationRequest

# Another encoding of keys or of answers: nothing that was stored before is found.
FORMAT: Final = 1
# Before what is asked in other words; a prefix of its own, for servers that search.
QUESTIONS: Final = "trireme:question:"
# Shares a tenant's rules for names, so that no tenant can be called so.
EVERYBODY: Final = "*"
# Orders to the scripted engine (python_backends/messages.py) come as metadata, which means nothing else.
ORDERS: Final = "script_"

# The prompt counts as token ids, the model by its name and version, limits of tokens as what they come to; whether it
# is streamed, by whom it was asked and how urgent it was is not part of an answer.
NOT_IN_KEY: Final = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "priority",
        "prompt",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer lies: `owner` shares one slot of Valkey, and `name` is found in nobody else's."""

    owner: str
    name: str

    @property
    def prefix(self) -> str:
        """Of all keys of this owner."""
        return prefix_of(self.owner)


def prefix_of(owner: str) -> str:
    return f"trireme:{{cache:{owner}}}:"


def questions_of(owner: str) -> str:
    """In the same slot."""
    return f"{QUESTIONS}{{cache:{owner}}}:"


def place_of(job: GenerationJob, caller: Caller, model: Model, identity: str, *, scope: Scope, epoch: str) -> Place:
    """`identity`: whatever tells apart what may answer under the model's name."""
    lengths = [(len(prompt.ids), prompt.max_tokens) for prompt in job.prompts]
    encoded = _ENCODER.encode((*head_of(job, caller, model, identity, scope=scope, epoch=epoch), lengths))
    digest = sha256(struct.pack("<Q", len(encoded)) + encoded)
    for prompt in job.prompts:
        digest.update(array("I", prompt.ids).tobytes())
    owner = EVERYBODY if scope == "shared" else caller.tenant
    return Place(owner, f"{model.name}@{identity}:{digest.hexdigest()}")


def head_of(
    job: GenerationJob, caller: Caller, model: Model, identity: str, *, scope: Scope, epoch: str
) -> tuple[object, ...]:
    """Everything that counts but the prompts and the limits of tokens."""
    who = {"tenant": caller.tenant, "key": f"{caller.tenant}\n{caller.key_id}", "shared": EVERYBODY}[scope]
    adapter = None if model.adapter is None else model.adapter.checksum
    return FORMAT, epoch, scope, who, model.name, identity, adapter, type(job.body).__name__, _said(job.body)


def _said(body: GenerationRequest) -> bytes:
    """The parameters that count, as they were sent: the order of a schema's properties matters to a grammar."""
    blank: dict[str, Any] = {name: None for name in NOT_IN_KEY if name in body.__struct_fields__}
    orders = {name: value for name, value in (body.metadata or {}).items() if name.startswith(ORDERS)}
    blank["metadata"] = orders or None
    return msgspec.json.encode(msgspec.structs.replace(body, **blank))


_ENCODER: Final = msgspec.msgpack.Encoder()
