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
    """A parser that goes character by character: `_step` is its state, a method that takes the next one.

    `mark`: what ends the state of plain text, if anything does.
    """

    def __init__(self, names: Collection[str], mark: str = "") -> None:
        self._names = frozenset(names)
        self._mark = mark
        self._out: list[Piece] = []
        self._step: Callable[[str], None] = self._text
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        at = 0
        while (at := self._plain(text, at)) < len(text):
            self._step(text[at])
            at += 1
        out, self._out = self._out, []
        return out

    def finish(self) -> list[Piece]:
        self._release()
        out, self._out = self._out, []
        return out

    def _plain(self, text: str, start: int) -> int:
        """Where the state of plain text needs a closer look; what stands before that goes out whole."""
        if self._held or self._step != self._text:
            return start
        found = text.find(self._mark[0], start) if self._mark else -1
        end = found if found >= 0 else len(text)
        if end > start:
            self._out.append(Text(text[start:end]))
        return end

    def _text(self, char: str) -> None:
        """Up to the mark, of which what may be its beginning is held back."""
        self._held += char
        while self._held and not self._mark.startswith(self._held):
            self._out.append(Text(self._held[0]))
            self._held = self._held[1:]
        if self._held and self._held == self._mark:
            self._step = self._marked

    def _marked(self, char: str) -> None:
        """The first character behind the mark, which is held."""
        self._give_up()
        self._step(char)

    def _give_up(self) -> None:
        """What was held back is text after all, and what comes may be anything."""
        self._release()
        self._step = self._text

    def _release(self) -> None:
        """What was held back is text after all."""
        if self._held:
            self._out.append(Text(self._held))
            self._held = ""
