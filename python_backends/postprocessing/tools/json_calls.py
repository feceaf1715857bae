"""The whole answer is one call as JSON, a list of them, or several in a row."""

from collections.abc import Collection

from python_backends.postprocessing.tools.call import CallReader
from python_backends.postprocessing.tools.parser import Machine

_SPACE = " \t\r\n"
_BETWEEN = _SPACE + ",;[]"


class JsonParser(Machine):
    """An answer that does not begin like a call is text to its end, and so is what follows the last call.

    `before`: a word that may stand before the first call.
    """

    def __init__(self, names: Collection[str], before: str = "") -> None:
        super().__init__(names)
        self._before = before
        self._call = CallReader(self._names)
        self._step = self._start

    def _start(self, char: str) -> None:
        self._held += char
        seen = self._held.lstrip().removeprefix(self._before).lstrip()
        if seen in ("", "[") or (self._before and self._before.startswith(seen)):
            return
        self._first(char)

    def _first(self, char: str) -> None:
        if char == "{":
            self._begin(char)
        elif char not in _SPACE or "[" not in self._held:
            self._give_up()

    def _begin(self, char: str) -> None:
        self._call = CallReader(self._names)
        self._step = self._in_call
        self._read(char)

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
        """Behind a call: another one, or text."""
        self._held += char
        if char == "{":
            self._begin(char)
        elif char not in _BETWEEN:
            self._give_up()

    def _release(self) -> None:
        """The end of a list is no text."""
        if self._step == self._after and not self._held.strip(_BETWEEN):
            self._held = ""
        super()._release()
