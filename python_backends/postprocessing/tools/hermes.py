"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, anywhere in the text: Hermes, Qwen, SmolLM2 and others."""

from collections.abc import Collection

from python_backends.postprocessing.tools.call import CallReader
from python_backends.postprocessing.tools.parser import Machine

BEGIN = "<tool_call>"
END = "</tool_call>"
_BETWEEN = " \t\r\n,[]"


class HermesParser(Machine):
    """Also several calls in one pair of tags, in a list or not, and a forgotten closing tag."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names, BEGIN)
        self._call = CallReader(self._names)

    def _marked(self, char: str) -> None:
        """Before a call: what is held is its tag, in case that it is none."""
        self._held += char
        if char == "{":
            self._call = CallReader(self._names)
            self._read(char)
            self._step = self._in_call
        elif char not in _BETWEEN:
            self._give_up()

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
        """Behind a call: its closing tag, another call, or text."""
        if not self._held and char in _BETWEEN:
            return
        if not self._held and char == "{":
            self._marked(char)
            return
        self._held += char
        if self._held == END:
            self._held, self._step = "", self._text
        elif self._held == BEGIN:
            self._step = self._marked
        elif not (BEGIN.startswith(self._held) or END.startswith(self._held)):
            held, self._held, self._step = self._held, "", self._text
            for one in held:
                self._step(one)
