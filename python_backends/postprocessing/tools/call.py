"""One call written as a JSON object: `{"name": …, "arguments": {…}}`."""

import json
from collections.abc import Callable, Collection

from python_backends.postprocessing.tools.parser import Arguments, Begin, End, Machine, Piece
from python_backends.postprocessing.tools.value import ValueReader

_ARGUMENTS = ("arguments", "parameters")
_SPACE = " \t\r\n"


class CallReader:
    """Character by character. `begun`: the call has been told of; `over`: nothing more belongs to the object.

    `failed`: it is no call of a known tool; as long as it has not begun, its characters are text. Members other than
    the name and the arguments mean nothing. Arguments come out as they are written, as soon as the name is known.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._step: Callable[[str], None] = self._open
        self._out: list[Piece] = []
        self._key = ""
        self._value = ValueReader()
        self._name: str | None = None
        self._arguments = ""
        self._given = self._streaming = False
        self.begun = self.over = self.failed = False

    def feed(self, char: str) -> list[Piece]:
        self._step(char)
        out, self._out = self._out, []
        return out

    def _open(self, char: str) -> None:
        if char == "{":
            self._step = self._before_key
        else:
            self._fail()

    def _before_key(self, char: str) -> None:
        if char == '"':
            self._value, self._step = ValueReader(), self._in_key
            self._value.feed(char)
        elif char == "}":
            self._close()
        elif char not in _SPACE + ",":
            self._fail()

    def _in_key(self, char: str) -> None:
        self._value.feed(char)
        if self._value.ended:
            self._key = self._value.string or ""
            self._step = self._before_value

    def _before_value(self, char: str) -> None:
        if char == ":":
            self._value, self._step = ValueReader(), self._in_value
        elif char not in _SPACE:
            self._fail()

    def _in_value(self, char: str) -> None:
        if not self._value.length and char in _SPACE:
            return
        if self._value.feed(char):
            self._take(char)
            if self._value.ended:
                self._finish_value()
            return
        # A number or a word ends with the character behind it.
        self._finish_value()
        if not self.failed:
            self._step(char)

    def _take(self, char: str) -> None:
        if self._key not in _ARGUMENTS or self._given:
            return
        if self._value.length == 1 and char == "{" and self._name is not None:
            self._begin()
            self._streaming = True
        if self._streaming:
            self._out.append(Arguments(char))

    def _finish_value(self) -> None:
        self._step = self._before_key
        if self._key == "name" and self._name is None:
            self._name = self._value.string
            if self._name not in self._names:
                self._fail()
        elif self._key in _ARGUMENTS and not self._given:
            self._finish_arguments()

    def _finish_arguments(self) -> None:
        """An object; within a string, as some models write it; or null for none."""
        self._given = True
        if self._streaming:
            self._out.append(End())
            return
        self._arguments = _object(self._value.string if self._value.string is not None else self._value.text)
        if not self._arguments:
            self._fail()
        elif self._name is not None:
            self._tell()

    def _close(self) -> None:
        """Arguments may stand before the name, or be left out."""
        self.over = True
        if self._name is None:
            self._fail()
        elif not self.begun:
            self._arguments = self._arguments or "{}"
            self._tell()

    def _tell(self) -> None:
        self._begin()
        self._out += [Arguments(self._arguments), End()]

    def _begin(self) -> None:
        self.begun = True
        self._out.append(Begin(self._name or ""))

    def _fail(self) -> None:
        self.failed = self.over = True


class CallMachine(Machine):
    """A parser of calls that are written so; what is held before one has begun is text if it is none."""

    def __init__(self, names: Collection[str], mark: str = "") -> None:
        super().__init__(names, mark)
        self._call = CallReader(self._names)

    def _begin(self, brace: str) -> None:
        """With the first character, which is held already."""
        self._call, self._step = CallReader(self._names), self._in_call
        self._read(brace)

    def _in_call(self, char: str) -> None:
        self._held += char
        self._read(char)

    def _read(self, char: str) -> None:
        self._out += self._call.feed(char)
        if self._call.begun:
            self._held = ""
        if self._call.failed and not self._call.begun:
            self._give_up()
        elif self._call.over:
            self._step = self._after

    def _after(self, char: str) -> None:
        """Behind a call."""
        raise NotImplementedError


def _object(text: str) -> str:
    """The JSON object in a text, or "" where there is none."""
    if text.strip() == "null":
        return "{}"
    try:
        return text if isinstance(json.loads(text), dict) else ""
    except (ValueError, RecursionError):
        return ""
