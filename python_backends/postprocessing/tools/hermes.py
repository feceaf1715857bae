"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, anywhere in the text: Hermes, Qwen, SmolLM2 and others."""

from collections.abc import Collection

from python_backends.postprocessing.tools.call import CallMachine

BEGIN = "<tool_call>"
END = "</tool_call>"
_BETWEEN = " \t\r\n,[]"


class HermesParser(CallMachine):
    """Also several calls in one pair of tags, in a list or not, and a forgotten closing tag."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names, BEGIN)

    def _marked(self, char: str) -> None:
        """Before a call: what is held is its tag, in case that it is none."""
        self._held += char
        if char == "{":
            self._begin(char)
        elif char not in _BETWEEN:
            self._give_up()

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
