"""The contract of a parser of tool calls, and what the parsers share."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Text:
    """What is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class Begin:
    """A call begins."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """The next piece of its arguments (JSON)."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The call is whole."""


Piece = Text | Begin | Arguments | End


class ToolParser(Protocol):
    """Text in pieces of any size → what it holds. The pieces joined are the same however the text was cut.

    What turns out to be no call, or none of a known tool, is text as it was written. Nothing raises.
    """

    def feed(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]:
        """What was held back and became no call. A call that had begun stays without an end."""
        ...


class Machine:
    """A parser that goes character by character: `_step` is its state, a method that takes the next one."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._out: list[Piece] = []
        self._step: Callable[[str], None] = self._text
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        for char in text:
            self._step(char)
        out, self._out = self._out, []
        return out

    def finish(self) -> list[Piece]:
        self._release()
        out, self._out = self._out, []
        return out

    def _text(self, char: str) -> None:
        """From here on all is text."""
        self._out.append(Text(char))

    def _seek(self, char: str, mark: str) -> bool:
        """Text up to `mark`, of which what may be its beginning is held back. True when all of it is held."""
        self._held += char
        while self._held and not mark.startswith(self._held):
            self._out.append(Text(self._held[0]))
            self._held = self._held[1:]
        return self._held == mark

    def _give_up(self) -> None:
        """What was held back is text after all, and what comes may be anything."""
        self._release()
        self._step = self._text

    def _release(self) -> None:
        """What was held back is text after all."""
        if self._held:
            self._out.append(Text(self._held))
            self._held = ""
