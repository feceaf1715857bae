"""The text of one chat answer → the members of OpenAI's delta: content, reasoning_content, tool_calls."""

import secrets
from collections.abc import Callable, Iterable
from typing import Any

from python_backends.messages import Postprocessing
from python_backends.postprocessing.thoughts import ThoughtSplitter
from python_backends.postprocessing.tools.parser import Arguments, Begin, End, Piece, Text
from python_backends.postprocessing.tools.registry import parser_of


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class AnswerSplitter:
    """`called`: calls were made, and all of them are whole.

    Where tools are offered, white space that ends the text is held back: what stands between a text and its calls is
    no content.
    """

    def __init__(self, post: Postprocessing, new_id: Callable[[], str] = new_call_id) -> None:
        calling = post.calling
        self._thoughts = ThoughtSplitter(post.reasoning)
        self._parser = None if calling is None else parser_of(calling.format, calling.names)
        self._most = 1 if calling is not None and not calling.parallel else None
        self._new_id = new_id
        self._begun = self._ended = 0
        self._space = ""

    @property
    def called(self) -> bool:
        return self._begun > 0 and self._begun == self._ended

    def feed(self, text: str, *, last: bool, cut: bool = False) -> dict[str, Any]:
        """With the last text comes what was held back; white space alone is content only where no call was made.

        `cut`: the answer ends in the middle. What may be the beginning of a further call is no content then.
        """
        thought, answer = self._thoughts.feed(text)
        if last:
            rest = self._thoughts.finish()
            thought, answer = thought + rest[0], answer + rest[1]
        delta = self._delta(thought, self._pieces(answer, last, cut))
        if last and self._space and not self._begun:
            delta["content"] = delta.get("content", "") + self._space
        return delta

    def _pieces(self, answer: str, last: bool, cut: bool) -> list[Piece]:
        if self._parser is None:
            return [Text(answer)] if answer else []
        found = self._parser.feed(answer)
        held = self._parser.finish() if last else []
        if cut and (self._begun or any(isinstance(one, Begin) for one in found)):
            held = [one for one in held if not isinstance(one, Text)]
        return [*found, *held]

    def _delta(self, thought: str, pieces: Iterable[Piece]) -> dict[str, Any]:
        delta: dict[str, Any] = {"reasoning_content": thought} if thought else {}
        content = ""
        calls: dict[int, dict[str, Any]] = {}
        for piece in pieces:
            if isinstance(piece, Text):
                content += self._content(piece.text)
            else:
                self._call(piece, calls)
        if content:
            delta["content"] = content
        if calls:
            delta["tool_calls"] = list(calls.values())
        return delta

    def _content(self, text: str) -> str:
        if self._parser is None:
            return text
        whole = self._space + text
        out = whole.rstrip()
        self._space = whole[len(out) :]
        return out

    def _call(self, piece: Begin | Arguments | End, calls: dict[int, dict[str, Any]]) -> None:
        if isinstance(piece, Begin):
            self._begun += 1
            self._space = ""
        index = self._begun - 1
        if isinstance(piece, End):
            self._ended += 1
        elif self._most is not None and index >= self._most:
            return
        elif isinstance(piece, Begin):
            function = {"name": piece.name, "arguments": ""}
            calls[index] = {"index": index, "id": self._new_id(), "type": "function", "function": function}
        else:
            entry = calls.setdefault(index, {"index": index, "function": {"arguments": ""}})
            entry["function"]["arguments"] += piece.text
