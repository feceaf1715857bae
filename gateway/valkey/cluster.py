"""The same wire for a cluster: each command goes to the node that has its slot."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from redis.crc import key_slot
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import ResponseError

from gateway.valkey.wire import Command, Wire

_REDIRECTIONS: Final = 5
_MOVED: Final = object()
_ASKING: Final[Command] = (b"ASKING",)
# EVALSHA, digest, number of keys, first key.
_FIRST_KEY: Final = 3


class ClusterWire:
    """Who has which slot is learned from the nodes' redirections. `url`: of any node; the others are reached alike.

    Scripts are loaded on all nodes that are known; whatever else has no key is asked of the first.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._first = urlsplit(url).netloc.rpartition("@")[2]
        self._wires: dict[str, Wire] = {self._first: Wire.to(url)}
        self._owners: dict[int, str] = {}

    @property
    def connected(self) -> bool:
        """To the node that is asked what has no key."""
        return self._wires[self._first].connected

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Their answers; one can be a ResponseError. Raises redis.exceptions.ConnectionError, OSError."""
        answers: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for _ in range(_REDIRECTIONS):
            found = await self._round([commands[number] for number in left])
            for number, answer in zip(left, found, strict=True):
                answers[number] = await self._without_detour(commands[number], answer)
            left = [number for number in left if answers[number] is _MOVED]
            if not left:
                return answers
        raise ConnectionFailed("the nodes of the cluster do not agree who has a slot")

    def drop(self) -> None:
        """All connections, and what was learned: the next calls begin at the first node that answers."""
        for wire in self._wires.values():
            wire.drop()
        self._owners.clear()

    async def _round(self, commands: Sequence[Command]) -> list[Any]:
        """Each command at its node, all nodes at the same time."""
        places: defaultdict[str, list[int]] = defaultdict(list)
        for number, command in enumerate(commands):
            for node in self._nodes_of(command):
                places[node].append(number)
        asked = [self._at(node, [commands[number] for number in numbers]) for node, numbers in places.items()]
        answers: list[Any] = [None] * len(commands)
        for numbers, found in zip(places.values(), await asyncio.gather(*asked), strict=True):
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer if answers[number] is None else answers[number]
        return answers

    async def _at(self, node: str, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._wires[node].ask(commands)
        except (ConnectionFailed, OSError):
            self._lost(node)
            raise

    def _nodes_of(self, command: Command) -> Sequence[str]:
        slot = _slot(command)
        if slot is None:
            return list(self._wires) if command[0] == b"SCRIPT" else [self._first]
        return [self._owners.get(slot, self._first)]

    def _lost(self, node: str) -> None:
        """Whoever takes its slots over is asked for through another node."""
        self._owners = {slot: owner for slot, owner in self._owners.items() if owner != node}
        if node == self._first and len(self._wires) > 1:
            self._wires[node] = self._wires.pop(node)
            self._first = next(iter(self._wires))

    async def _without_detour(self, command: Command, answer: Any) -> Any:
        """`_MOVED`: ask again. While a slot is on its way, its keys are asked for elsewhere, each time."""
        if not isinstance(answer, ResponseError):
            return answer
        kind, _, rest = str(answer).partition(" ")
        slot, _, node = rest.partition(" ")
        if kind == "MOVED":
            self._owners[int(slot)] = self._known(node)
            return _MOVED
        if kind == "ASK":
            _, answer = await self._at(self._known(node), [_ASKING, command])
        return answer

    def _known(self, node: str) -> str:
        host, _, port = node.rpartition(":")
        name = f"{host or self._first.rpartition(':')[0]}:{port}"
        if name not in self._wires:
            self._wires[name] = Wire.to(_at_node(self._url, name))
        return name


def _slot(command: Command) -> int | None:
    if command[0] != b"EVALSHA":
        return None
    key = command[_FIRST_KEY]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _at_node(url: str, node: str) -> str:
    """The same address, at another node; a cluster has one database."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@{node}" if login else node))
