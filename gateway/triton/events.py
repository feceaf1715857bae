"""Triton's server-sent events: each is `data: <JSON>` and an empty line."""

from gateway.errors import BackendFailed

_END = b"\n\n"
_DATA = b"data:"


class EventSplitter:
    """Bytes as they come → the payloads that are complete, whatever the boundaries of the pieces."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises BackendFailed for an event that is longer than the limit (bytes)."""
        parts = (self._rest + data if self._rest else data).split(_END)
        self._rest = parts.pop()
        if len(self._rest) > self._limit:
            raise BackendFailed("the backend sent an event of more than the allowed size", code="event_too_large")
        return [part[len(_DATA) :] for part in parts if part.startswith(_DATA)]
