"""What a model thought, and what it answered."""

from python_backends.messages import Reasoning

_SPACE = " \t\r\n"


class ThoughtSplitter:
    """Thoughts stand at the beginning, between two tags; the second one may never come. White space around them is
    dropped.
    """

    def __init__(self, reasoning: Reasoning | None) -> None:
        self._begin, self._end = (reasoning.begin, reasoning.end) if reasoning else ("", "")
        self._held = ""
        self._state = "before" if reasoning else "answer"
        self._bare = False
        if reasoning and reasoning.open:
            self._think()

    def feed(self, text: str) -> tuple[str, str]:
        """What of the thoughts and of the answer may go out."""
        self._held += text
        if self._state == "before":
            self._look()
        thought = self._thought() if self._state == "thoughts" else ""
        return thought, self._answer() if self._state == "answer" else ""

    def finish(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return (held.rstrip(), "") if self._state == "thoughts" else ("", held)

    def _look(self) -> None:
        seen = self._held.lstrip()
        if seen.startswith(self._begin):
            self._held = seen[len(self._begin) :]
            self._think()
        elif not self._begin.startswith(seen):
            self._state = "answer"

    def _think(self) -> None:
        self._state, self._bare = "thoughts", True

    def _thought(self) -> str:
        if self._bare:
            self._held = self._held.lstrip()
            self._bare = not self._held
        thought, found, rest = self._held.partition(self._end)
        if found:
            self._state, self._held, self._bare = "answer", rest, True
            return thought.rstrip()
        keep = self._kept()
        thought, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return thought

    def _kept(self) -> int:
        """Length of what may be white space before the tag, and the beginning of it."""
        text, end = self._held, self._end
        tag = next((n for n in range(min(len(end) - 1, len(text)), 0, -1) if end.startswith(text[-n:])), 0)
        body = text[: len(text) - tag]
        return tag + len(body) - len(body.rstrip())

    def _answer(self) -> str:
        if self._bare:
            self._held = self._held.lstrip()
            self._bare = not self._held
        out, self._held = self._held, ""
        return out
