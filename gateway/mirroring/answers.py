"""Whether two answers say the same, in whatever pieces they came."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

# What comes bit by bit. All else is said once, or again and again.
_TEXTS: Final = frozenset({"content", "text", "reasoning", "reasoning_content", "refusal", "arguments"})
# What differs between answers that say the same, or is numbers that depend on the machine.
_IGNORED: Final = frozenset({"logprobs", "id"})


def same(pieces: Iterable[bytes], others: Iterable[bytes]) -> bool:
    """`pieces`: choices of a stream as JSON."""
    return _whole(pieces) == _whole(others)


def _whole(pieces: Iterable[bytes]) -> dict[Any, Any]:
    """Choices by their index."""
    return _by_index([msgspec.json.decode(piece) for piece in pieces])


def _by_index(parts: Iterable[dict[str, Any]]) -> dict[Any, Any]:
    """Elements of a list that came in parts: choices, or their calls of tools."""
    found: dict[Any, Any] = {}
    for part in parts:
        index = part.get("index", 0)
        found[index] = _joined(found.get(index, {}), part)
    return found


def _joined(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    joined = dict(before)
    for name, value in after.items():
        if value is None or name in _IGNORED:
            continue
        joined[name] = _added(name, joined.get(name), value)
    return joined


def _added(name: str, before: Any, value: Any) -> Any:
    if name in _TEXTS:
        return f"{before or ''}{value}"
    if isinstance(value, dict):
        return _joined(before or {}, value)
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return _by_index([*(before or {}).values(), *value])
    return value
