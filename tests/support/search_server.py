"""A Valkey that offers vector search, as RediSearch and valkey-search do: the commands of their common subset are
answered here, strictly and exactly, from the hashes of the real Valkey behind; everything else goes on to that.

It stands in for a server that cannot be had everywhere. What it accepts is written from the documented grammar:
FT.CREATE and FT.SEARCH of valkey-search 1.0 to 1.2 and of RediSearch 2.4 and later.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final

import hiredis
import numpy as np
from redis import Redis

from tests.support.threaded import ThreadedServer

K_MOST: Final = 10_000
DIMENSIONS_MOST: Final = 32_768
TIMEOUT_MOST_MS: Final = 60_000
_HASH_TAG: Final = re.compile(rb"\{[^}]+\}")
_QUERY: Final = re.compile(
    r"(?P<filter>\*|\(.*\))=>\[KNN (?P<k>\d+) @(?P<field>\w+) \$(?P<vector>\w+) AS (?P<as>\w+)\]"
)
_TAG: Final = re.compile(r"@(\w+):\{(\w+)\}")


class Refused(Exception):  # noqa: N818 - the server does
    """The error that the server gives."""


@dataclass(frozen=True)
class Schema:
    prefixes: tuple[bytes, ...]
    tags: frozenset[str]
    vector: str
    dimensions: int


class Arguments:
    """Of one command, read from left to right."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = list(words)

    def __bool__(self) -> bool:
        return bool(self._words)

    def next(self) -> bytes:
        if not self._words:
            raise Refused("wrong number of arguments")
        return self._words.pop(0)

    def word(self) -> str:
        return self.next().decode()

    def number(self, most: int) -> int:
        text = self.word()
        if not text.isdecimal() or int(text) > most:
            raise Refused(f"`{text}` is no number up to {most}")
        return int(text)

    def expect(self, *words: str) -> None:
        for word in words:
            if (found := self.word()).upper() != word:
                raise Refused(f"Unexpected parameter `{found}`, expecting `{word}`")


def parse_create(arguments: Arguments) -> tuple[str, Schema]:
    name = arguments.next()
    if _HASH_TAG.search(name):
        raise Refused("Index name must not contain a hash tag")
    arguments.expect("ON", "HASH", "PREFIX")
    prefixes = tuple(arguments.next() for _ in range(arguments.number(8)))
    if any(_HASH_TAG.search(prefix) for prefix in prefixes):
        raise Refused("PREFIX argument(s) must not contain a hash tag")
    arguments.expect("SCHEMA")
    tags, vectors = set[str](), dict[str, int]()
    while arguments:
        field, kind = arguments.word(), arguments.word().upper()
        if field in tags or field in vectors or kind not in ("TAG", "VECTOR"):
            raise Refused(f"Invalid field type for field `{field}`: `{kind}`")
        if kind == "TAG":
            tags.add(field)
        else:
            vectors[field] = _dimensions(arguments)
    if len(vectors) != 1:
        raise Refused("At least one attribute must be indexed as a vector")
    ((vector, dimensions),) = vectors.items()
    return name.decode(), Schema(prefixes, frozenset(tags), vector, dimensions)


def _dimensions(arguments: Arguments) -> int:
    if arguments.word().upper() not in ("FLAT", "HNSW"):
        raise Refused("Unknown vector algorithm")
    given = {arguments.word().upper(): arguments.word() for _ in range(arguments.number(6) // 2)}
    if given.pop("TYPE", "") != "FLOAT32" or given.pop("DISTANCE_METRIC", "") != "COSINE":
        raise Refused("Bad vector type or metric")
    dimensions = given.pop("DIM", "")
    if given or not dimensions.isdecimal() or not 0 < int(dimensions) <= DIMENSIONS_MOST:
        raise Refused(f"Bad vector attributes {given or dimensions}")
    return int(dimensions)


@dataclass(frozen=True)
class Search:
    tags: tuple[tuple[str, str], ...]
    k: int
    vector: np.ndarray[Any, np.dtype[np.float32]]
    distance: str
    returned: tuple[str, ...]
    limit: int


def parse_search(arguments: Arguments, schemas: dict[str, Schema]) -> tuple[Schema, Search]:
    name = arguments.word()
    if name not in schemas:
        raise Refused(f"Index with name '{name}' not found in database 0")
    schema, query = schemas[name], arguments.word()
    found = _QUERY.fullmatch(query)
    if found is None or found["field"] != schema.vector or not 0 < int(found["k"]) <= K_MOST:
        raise Refused(f"Invalid query `{query}`")
    tags = _filter(found["filter"], schema)
    params, returned, limit = _options(arguments)
    blob = params.pop(found["vector"], None)
    if blob is None or params:
        raise Refused(f"Parameter `{found['vector']}` not found, or others not used: {sorted(params)}")
    if len(blob) != 4 * schema.dimensions:
        raise Refused(
            f"query vector blob size ({len(blob)}) does not match index's expected size ({4 * schema.dimensions})"
        )
    vector = np.frombuffer(blob, dtype="<f4")
    return schema, Search(tags, int(found["k"]), vector, found["as"], returned, limit)


def _filter(text: str, schema: Schema) -> tuple[tuple[str, str], ...]:
    """A space is AND; no character of a tag may need a backslash."""
    if text == "*":
        return ()
    terms = [_TAG.fullmatch(term) for term in text[1:-1].split(" ")]
    if any(term is None or term[1] not in schema.tags for term in terms):
        raise Refused(f"Syntax error in the filter `{text}`")
    return tuple((term[1], term[2].lower()) for term in terms if term is not None)


def _options(arguments: Arguments) -> tuple[dict[str, bytes], tuple[str, ...], int]:
    params: dict[str, bytes] = {}
    returned: tuple[str, ...] = ()
    limit, dialect = 10, 1
    while arguments:
        match option := arguments.word().upper():
            case "PARAMS":
                params = {arguments.word(): arguments.next() for _ in range(arguments.number(16) // 2)}
            case "RETURN":
                returned = tuple(arguments.word() for _ in range(arguments.number(16)))
            case "LIMIT":
                arguments.expect("0")
                limit = arguments.number(K_MOST)
            case "TIMEOUT":
                if not arguments.number(TIMEOUT_MOST_MS):
                    raise Refused("TIMEOUT must be a positive integer")
            case "DIALECT":
                dialect = arguments.number(4)
            case _:
                raise Refused(f"Unexpected argument `{option}`")
    if dialect != 2:
        raise Refused("Syntax error: a KNN query needs DIALECT 2")
    return params, returned, limit


class SearchServer(ThreadedServer):
    """`url`: of the real Valkey. May be set at any time:

    `offers`: whether the module is loaded. `broken`: whether every search fails, `hangs`: is never answered,
    `careless`: forgets what it should filter. `asked`: the commands of the module.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis = Redis.from_url(url)
        given = self._redis.connection_pool.connection_kwargs
        self._target = (given["host"], given["port"])
        self.schemas: dict[str, Schema] = {}
        self.asked: list[list[bytes]] = []
        self.offers = True
        self.broken = self.hangs = self.careless = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._redis.close()

    def begin(self) -> None:
        """As new."""
        self.offers, self.broken, self.hangs, self.careless = True, False, False, False
        self.schemas.clear()
        self.asked.clear()

    def hang_up(self) -> None:
        """On everybody."""
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in self._clients])

    def commands(self, name: str) -> list[list[bytes]]:
        return [words for words in self.asked if words[0] == name.encode()]

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        commands = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                commands.feed(data)
                answers: list[bytes] = []  # what comes together is answered together, as servers do
                while (words := commands.gets()) is not False:
                    if self.hangs and words[0] == b"FT.SEARCH":
                        await asyncio.Event().wait()
                    answers.append(self._own(words) or await _passed_on(words, upstream_reader, upstream))
                writer.write(b"".join(answers))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side left, or the server ends
        finally:
            self._clients.discard(writer)
            upstream.close()
            writer.close()

    def _own(self, words: list[bytes]) -> bytes | None:
        """None: for the real Valkey."""
        name = words[0].upper()
        if name in (b"FLUSHDB", b"FLUSHALL"):
            self.schemas.clear()
        told = name.startswith(b"FT.") or [word.upper() for word in words] == [b"COMMAND", b"INFO", b"FT.SEARCH"]
        if not told:
            return None
        self.asked.append(words)
        if not self.offers:
            return None
        try:
            return _encoded(self._answer(name, Arguments(words[1:])))
        except Refused as refused:
            return b"-ERR " + str(refused).encode() + b"\r\n"

    def _answer(self, name: bytes, arguments: Arguments) -> Any:
        if name == b"COMMAND":
            return [[b"ft.search", -3, [b"readonly"], 0, 0, 0]]
        if name == b"FT._LIST":
            return [name.encode() for name in self.schemas]
        if name == b"FT.CREATE":
            index, schema = parse_create(arguments)
            if index in self.schemas:
                raise Refused("Index already exists")
            self.schemas[index] = schema
            return "OK"
        if name == b"FT.SEARCH":
            schema, search = parse_search(arguments, self.schemas)
            if self.broken:
                raise Refused("out of order")
            return self._search(schema, replace(search, tags=()) if self.careless else search)
        raise Refused(f"unknown command '{name.decode()}'")

    def _search(self, schema: Schema, search: Search) -> list[Any]:
        hits: list[tuple[float, bytes, dict[bytes, bytes]]] = []
        for prefix in schema.prefixes:
            for key in self._redis.scan_iter(match=prefix + b"*", count=1000, _type="hash"):
                fields = self._redis.hgetall(key)
                distance = _distance(fields, schema, search)
                if distance is not None:
                    hits.append((distance, key, fields))
        hits = sorted(hits, key=lambda hit: hit[0])[: search.k]
        # By no order that anybody may rely on: RediSearch does not sort by distance unless told to.
        shown = sorted(hits[: search.limit], key=lambda hit: hit[1])
        answer: list[Any] = [len(hits)]
        for distance, key, fields in shown:
            told = {search.distance.encode(): b"%.12g" % distance, **fields}
            wanted = [name.encode() for name in search.returned] or list(told)
            answer += [key, [part for name in wanted if name in told for part in (name, told[name])]]
        return answer


def _distance(fields: dict[bytes, bytes], schema: Schema, search: Search) -> float | None:
    """None: it does not match, or is not in the index."""
    blob = fields.get(schema.vector.encode(), b"")
    if len(blob) != 4 * schema.dimensions:
        return None
    for name, wanted in search.tags:
        if wanted not in fields.get(name.encode(), b"").decode().lower().split(","):
            return None
    vector = np.frombuffer(blob, dtype="<f4")
    return 1 - float(vector @ search.vector / (np.linalg.norm(vector) * np.linalg.norm(search.vector)))


async def _passed_on(words: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(hiredis.pack_command(tuple(words)))
    return await _reply(reader)


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """One, as it came. RESP3 has more kinds, of which clients here need few."""
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    if kind in (b"$", b"=", b"!") and rest != b"-1":
        return line + await reader.readexactly(int(rest) + 2)
    if kind in (b"*", b"%", b"~", b">") and rest != b"-1":
        parts = int(rest) * (2 if kind == b"%" else 1)
        return line + b"".join([await _reply(reader) for _ in range(parts)])
    return line


def _encoded(value: Any) -> bytes:
    if value is None:
        return b"*-1\r\n"
    if isinstance(value, str):
        return b"+" + value.encode() + b"\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(_encoded, value))
