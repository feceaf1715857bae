"""When two answers say the same."""

import json
from typing import Any

import pytest

from gateway.mirroring.answers import same


def chat(*contents: str, finish: str = "stop", index: int = 0, **more: Any) -> list[bytes]:
    """A chat's choice in so many pieces."""
    pieces: list[dict[str, Any]] = [{"index": index, "delta": {"content": one}} for one in contents]
    pieces[0]["delta"] |= {"role": "assistant"}
    pieces[-1] |= {"finish_reason": finish, **more}
    return [json.dumps(piece).encode() for piece in pieces]


def call(*arguments: str, index: int = 0, identifier: str = "call_1") -> list[bytes]:
    """A call of a tool whose arguments come bit by bit."""
    first = {"index": index, "id": identifier, "type": "function", "function": {"name": "sail", "arguments": ""}}
    rest = [{"index": index, "function": {"arguments": part}} for part in arguments]
    return [json.dumps({"index": 0, "delta": {"tool_calls": [one]}}).encode() for one in (first, *rest)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat("Hel", "lo"), chat("H", "ello")),
        (chat("a", index=0) + chat("b", index=1), chat("b", index=1) + chat("a", index=0)),
        (chat("a", logprobs={"content": []}), chat("a", logprobs=None)),
        (call('{"to": ', '"sea"}'), call('{"to": "s', 'ea"}', identifier="call_2")),
        ([], []),
    ],
    ids=["other pieces", "other order of choices", "logprobs", "tool calls", "nothing"],
)
def test_the_same_in_other_words_of_the_stream(one: list[bytes], other: list[bytes]) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat("Hello"), chat("Hello ")),
        (chat("a"), chat("a", finish="length")),
        (chat("a") + chat("b", index=1), chat("a")),
        (call('{"to": "sea"}'), call('{"to": "shore"}')),
        (call("{}") + call("{}", index=1), call("{}")),
        (chat("a"), []),
    ],
    ids=["text", "end", "number of choices", "arguments", "number of calls", "nothing"],
)
def test_what_is_not_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert not same(one, other)
