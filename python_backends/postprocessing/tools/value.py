"""The extent of one JSON value in a text that comes character by character."""

import json

_ENDS = ",}] \t\r\n"
_OPEN, _CLOSE = "{[", "}]"


class ValueReader:
    """Finds where a value ends; whether it is right inside is for others to say.

    A number or a word ends only when the next character says so: `feed` then takes that one not.
    """

    def __init__(self) -> None:
        self._chars: list[str] = []
        self.ended = False
        self._depth = 0
        self._in_string = self._escaped = False

    @property
    def length(self) -> int:
        return len(self._chars)

    @property
    def text(self) -> str:
        """What belongs to the value. Costs its length: for when it has ended."""
        return "".join(self._chars)

    @property
    def string(self) -> str | None:
        """The value, where it is a string."""
        if not self.ended or self._chars[0] != '"':
            return None
        try:
            value = json.loads(self.text, strict=False)
        except ValueError:
            return None
        return str(value)

    def feed(self, char: str) -> bool:
        """Whether the character belongs to the value."""
        if self._chars and not self._in_string and self._depth == 0 and char in _ENDS:
            self.ended = True
            return False
        self._chars.append(char)
        if self._in_string:
            self._quoted(char)
        elif char == '"':
            self._in_string = True
        elif char in _OPEN:
            self._depth += 1
        elif char in _CLOSE:
            self._depth -= 1
            self.ended = self._depth <= 0
        return True

    def _quoted(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            self.ended = self._depth == 0
