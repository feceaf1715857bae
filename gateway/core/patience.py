"""A bound on each of very many short waits."""

from gateway.core.alarm import Alarm


class Patience(Alarm):
    """`async with patience:` raises TimeoutError when one wait between `wait()` and `done()` lasts `seconds`.

    A timer of its own for each wait (asyncio.timeout) costs as much as the rest of handling a token; here a wait costs
    two assignments, and one lazy timer looks after them all.
    """

    __slots__ = ("_seconds", "_since")

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._since: float | None = None

    def wait(self) -> None:
        self._since = self._loop.time()

    def done(self) -> None:
        self._since = None

    def _left(self, now: float) -> float:
        return self._seconds if self._since is None else self._since + self._seconds - now
