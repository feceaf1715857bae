"""An end for JSON that was cut: byte by byte what the grammar allows, and of that what is over soonest."""

from collections import Counter

from llguidance import LLMatcher

MAX_BYTES = 1024
# Outside of strings: whatever ends something, then the values that are over soonest.
_OUTSIDE = b'}],"0123456789.eE+-ntf:[{ '
_IN_STRING = b'"a0-@./: '
_QUOTE, _BACKSLASH = b'"\\'
_LAST = 256
# Within a string, a byte that came so often waits for the others: what a pattern needs comes in the end.
_OFTEN = 8


class JsonText:
    """Where in its JSON a text is: within a string or not, and whether the next character is escaped."""

    def __init__(self) -> None:
        self.in_string = False
        self._escaped = False

    def feed(self, data: bytes) -> None:
        for byte in data:
            if self._escaped:
                self._escaped = False
            elif self.in_string and byte == _BACKSLASH:
                self._escaped = True
            elif byte == _QUOTE:
                self.in_string = not self.in_string


def closing(matcher: LLMatcher, written: bytes) -> bytes | None:
    """What makes `written` whole, None if that is not found. `matcher` works on bytes, has read it, and is used up."""
    place, added = JsonText(), bytearray()
    place.feed(written)
    used: Counter[int] = Counter()
    while not matcher.is_accepting():
        step = matcher.compute_ff_bytes() or _next_byte(matcher, place, used)
        if not step or len(added) > MAX_BYTES or not matcher.consume_tokens(list(step)):
            return None
        added += step
        place.feed(step)
        if place.in_string:
            used.update(step)
        else:
            used.clear()
    return bytes(added)


def _next_byte(matcher: LLMatcher, place: JsonText, used: Counter[int]) -> bytes:
    mask = matcher.compute_bitmask()
    order = _IN_STRING if place.in_string else _OUTSIDE
    ranks = {byte: number for number, byte in enumerate(order)}
    allowed = [byte for byte in range(_LAST) if mask[byte // 8] >> (byte % 8) & 1]

    def rank(byte: int) -> tuple[int, int]:
        return (0 if byte == _QUOTE else used[byte] // _OFTEN, ranks.get(byte, _LAST + byte))

    return bytes([min(allowed, key=rank)]) if allowed else b""
