"""What a server that searches is asked, and what it answers. Pure.

Only what RediSearch (2.4, Redis 8) and valkey-search (1.0) have in common: hashes under one prefix, TAG and VECTOR
fields, `(filter)=>[KNN …]` in dialect 2. Filters name nothing but digests, so there is nothing to escape; results are
sorted here, since servers differ in that.
"""

import logging
from typing import Any, Final

from gateway.cache.keys import QUESTIONS, questions_of
from gateway.cache.semantic.nearest import NEAREST, Entry, Near
from gateway.cache.semantic.question import Question, owner_tag
from gateway.core.job import Vectors
from gateway.valkey.wire import Command

log = logging.getLogger(__name__)

# Another schema: another index.
SCHEMA: Final = 1
# Servers reckon in single precision, too.
TOLERANCE: Final = 1e-3
OFFERED: Final[Command] = (b"COMMAND", b"INFO", b"FT.SEARCH")
_KEY_AT: Final = 3
_TOLD: Final = ("distance", "owner", "partition", "text", "until")


def index_name(dimensions: int) -> str:
    """Without braces: it is of the whole cluster. Rights that name keys may count it as one."""
    return f"trireme:questions:{SCHEMA}:{dimensions}"


def create_command(dimensions: int) -> Command:
    """FLAT: what it finds is exact, as here; filters leave it little to compare. It takes in what was stored before."""
    scope = ("ON", "HASH", "PREFIX", 1, QUESTIONS)
    vector = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", dimensions, "DISTANCE_METRIC", "COSINE")
    return (
        b"FT.CREATE",
        index_name(dimensions),
        *scope,
        *("SCHEMA", "owner", "TAG", "partition", "TAG", "vector", *vector),
    )


def search_command(owner: str, question: Question, vector: Vectors, timeout_ms: int) -> Command:
    """Raises ValueError for a partition that would have to be escaped."""
    if not (question.partition.isascii() and question.partition.isalnum()):
        raise ValueError(f"{question.partition!r} is no name of a partition")
    own = f"(@owner:{{{owner_tag(owner)}}} @partition:{{{question.partition}}})"
    return (
        b"FT.SEARCH",
        index_name(len(vector)),
        f"{own}=>[KNN {NEAREST} @vector $asked AS distance]",
        *("PARAMS", 2, "asked", vector.astype("<f4").tobytes()),
        *("RETURN", len(_TOLD), *_TOLD),
        *("LIMIT", 0, NEAREST, "TIMEOUT", timeout_ms, "DIALECT", 2),
    )


def is_offered(answer: Any, *, cluster: bool) -> bool:
    """To OFFERED: name, arity, flags, place of the first key and more. In a cluster, a search that takes the name of
    its index for a key looks at one node only.
    """
    if not (isinstance(answer, list) and answer and isinstance(answer[0], list) and len(answer[0]) > _KEY_AT):
        return False
    return not cluster or answer[0][_KEY_AT] == 0


def nearest_in(answer: Any, owner: str, question: Question, floor: float) -> list[Near]:
    """In the answer to a search: number of hits, then key and fields of each, none for what has gone meanwhile. What
    makes no sense, or is not of this owner and partition, is left out, whatever the filter was.
    """
    hits = zip(answer[1::2], answer[2::2], strict=False) if isinstance(answer, list) else ()
    there = [_near(key, fields, owner, question) for key, fields in hits if fields is not None]
    found = [near for near in there if near is not None and near.similarity >= floor]
    return sorted(found, key=lambda near: -near.similarity)


def _near(key: Any, fields: Any, owner: str, question: Question) -> Near | None:
    try:
        told = dict(zip(fields[::2], fields[1::2], strict=True))
        prefix, place = questions_of(owner), (told[b"owner"].decode(), told[b"partition"].decode())
        if not key.decode().startswith(prefix) or place != (owner_tag(owner), question.partition):
            log.warning("the server gave a question of another partition: it is left out")
            return None
        similarity, until = 1 - float(told[b"distance"]), float(told[b"until"])
        entry = Entry(owner, key.decode().removeprefix(prefix), Question(told[b"text"].decode(), place[1]), until)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("what the server found makes no sense and is left out: %r", error)
        return None
    return Near(min(1.0, similarity), entry) if similarity <= 1 + TOLERANCE else None
