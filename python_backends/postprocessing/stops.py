"""Stop strings across chunks."""

from collections.abc import Sequence


class StopCutter:
    """Lets text through up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.stopped = False

    def feed(self, text: str, *, watching: bool = True) -> str:
        """The text that may go out now. While not `watching` (below `min_tokens`), stop strings are plain text."""
        if self.stopped:
            return ""
        if not self._stops or not watching:
            out, self._held = self._held + text, ""
            return out
        seen = self._held + text
        found = [at for stop in self._stops if (at := seen.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return seen[: min(found)]
        keep = self._possible_beginning(seen)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        out, self._held = self._held, ""
        return out

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which some stop string begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            ending = text[-length:]
            if any(stop.startswith(ending) for stop in self._stops):
                return length
        return 0
