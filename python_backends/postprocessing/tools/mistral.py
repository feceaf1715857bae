"""`[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]name[ARGS]{…}` as newer ones write: Mistral."""

import re
from collections.abc import Collection

from python_backends.postprocessing.tools.json_calls import JsonParser
from python_backends.postprocessing.tools.parser import Arguments, Begin, End, Machine, Piece
from python_backends.postprocessing.tools.value import ValueReader

BEGIN = "[TOOL_CALLS]"
_NAMED = re.compile(r"(?P<name>[^\s\[]+)\s*(\[CALL_ID\][^\[]*)?(\[ARGS\])?\Z")
_SPACE = " \t\r\n"


class MistralParser(Machine):
    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names, BEGIN)
        self._list = JsonParser(self._names)
        self._value = ValueReader()

    def _marked(self, char: str) -> None:
        """A list of calls, or the name of one."""
        if char in "[{":
            self._list, self._step = JsonParser(self._names), self._in_list
            self._in_list(char)
        elif char in _SPACE:
            self._held += char
        else:
            self._step = self._name
            self._name(char)

    def _in_list(self, char: str) -> None:
        self._relay(self._list.feed(char))

    def _relay(self, pieces: list[Piece]) -> None:
        """What is no list of calls is text, its mark with it."""
        for piece in pieces:
            if isinstance(piece, Begin):
                self._held = ""
            self._release()
            self._out.append(piece)

    def _name(self, char: str) -> None:
        if char != "{":
            self._held += char
            return
        named = _NAMED.match(self._held.removeprefix(BEGIN).strip())
        if named is None or named["name"] not in self._names:
            self._held += char
            self._give_up()
            return
        self._held, self._value, self._step = "", ValueReader(), self._in_arguments
        self._out.append(Begin(named["name"]))
        self._in_arguments(char)

    def _in_arguments(self, char: str) -> None:
        self._value.feed(char)
        self._out.append(Arguments(char))
        if self._value.ended:
            self._out.append(End())
            self._step = self._text

    def finish(self) -> list[Piece]:
        if self._step == self._in_list:
            self._relay(self._list.finish())
        return super().finish()
