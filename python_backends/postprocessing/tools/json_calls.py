"""The whole answer is one call as JSON, a list of them, or several in a row."""

from collections.abc import Collection

from python_backends.postprocessing.tools.call import CallMachine

_SPACE = " \t\r\n"
_BETWEEN = _SPACE + ",;[]"


class JsonParser(CallMachine):
    """An answer that does not begin like a call is text to its end, and so is what follows the last call.

    `before`: a word that may stand before the first call.
    """

    def __init__(self, names: Collection[str], before: str = "") -> None:
        super().__init__(names)
        self._before = before
        self._step = self._start

    def _start(self, char: str) -> None:
        self._held += char
        if char in _SPACE:
            return
        seen = self._held.lstrip().removeprefix(self._before).lstrip()
        if char == "{":
            self._begin(char)
        elif seen not in ("", "[") and not (self._before and self._before.startswith(seen)):
            self._give_up()

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
