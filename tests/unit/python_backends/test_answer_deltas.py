"""Thoughts, content and tool calls of a chat answer become the members of OpenAI's deltas."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.messages import Calling, Event, Postprocessing, Reasoning, TokenLogprob, Tokens
from python_backends.postprocessing.stream import DeltaWriter
from python_backends.postprocessing.thoughts import ThoughtSplitter

THINK = Reasoning(begin="<think>", end="</think>")
OPEN = Reasoning(begin="<think>", end="</think>", open=True)
HERMES = Calling(format="hermes", names=["weather"])
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ROME = PARIS.replace("Paris", "Rome")


def cut(text: str, cuts: list[int]) -> list[str]:
    borders = sorted({min(one, len(text)) for one in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(borders)]


def answer(post: Postprocessing, pieces: list[str], finish: Any = "stop", index: int = 0) -> list[dict[str, Any]]:
    """The choices of one answer, one a piece; the last piece ends it."""
    writer, choices = DeltaWriter(), []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        event = Event(
            stream=1,
            index=index,
            post=post if number == 0 else None,
            finish=finish if last else None,
            usage=Tokens(prompt=1, completion=len(pieces)) if last else None,
            logprobs=[TokenLogprob(token=piece, logprob=-1.0, bytes=[])] if post.logprobs else None,
        )
        choices.append(json.loads(writer.write(1, piece.encode(), msgspec.json.encode(event)))["choice"])
    return choices


def joined(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """As a client puts them together."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in itertools.chain.from_iterable(one["delta"].get("tool_calls", ()) for one in choices):
        if "id" in piece:
            assert piece["index"] not in calls
            calls[piece["index"]] = {"id": piece["id"], "name": piece["function"]["name"], "arguments": ""}
        calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    text = "".join(one["delta"].get("content", "") for one in choices)
    thoughts = "".join(one["delta"].get("reasoning_content", "") for one in choices)
    return {"content": text, "thoughts": thoughts, "calls": [calls[index] for index in sorted(calls)]}


def test_a_call_begins_with_its_name_and_id_and_its_arguments_follow_as_they_come() -> None:
    pieces = ["<tool_", 'call>\n{"name": "weat', 'her", "arguments": {', '"city": ', '"Paris"}', "}\n</tool_call>"]
    choices = answer(Postprocessing(calling=HERMES), pieces)
    deltas = [one["delta"] for one in choices]
    assert deltas[0] == {"role": "assistant"}
    (begin,) = deltas[2]["tool_calls"]
    assert begin["id"].startswith("call_")
    assert begin == {
        "index": 0,
        "id": begin["id"],
        "type": "function",
        "function": {"name": "weather", "arguments": "{"},
    }
    assert [one["tool_calls"][0] for one in deltas[3:5]] == [
        {"index": 0, "function": {"arguments": '"city": '}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
    ]
    assert [one["finish_reason"] for one in choices] == [None] * 5 + ["tool_calls"]


@given(cuts=st.lists(st.integers(0, 300), max_size=15))
def test_thoughts_content_and_calls_are_the_same_in_any_pieces(cuts: list[int]) -> None:
    text = f"\n<think>\nHm, <tool_call> or not?\n</think>\n\nLet me look. {PARIS}\n{ROME}\n"
    choices = answer(Postprocessing(calling=HERMES, reasoning=THINK), cut(text, cuts))
    whole = joined(choices)
    assert whole["thoughts"] == "Hm, <tool_call> or not?"
    assert whole["content"] == "Let me look."
    assert [one["arguments"] for one in whole["calls"]] == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert len({one["id"] for one in whole["calls"]}) == 2
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("text", "finish", "reason", "content", "calls"),
    [
        (PARIS, "stop", "tool_calls", "", 1),
        (PARIS, "length", "length", "", 1),
        (PARIS[:50], "length", "length", "", 1),
        (PARIS[:50], "stop", "stop", "", 1),
        (PARIS[:20], "length", "length", PARIS[:20], 0),
        ("Hello. \n", "stop", "stop", "Hello. \n", 0),
        ("", "stop", "stop", "", 0),
        (f"{PARIS}\n\n", "stop", "tool_calls", "", 1),
    ],
)
def test_the_reason_says_whether_there_are_calls_that_are_whole(
    text: str, finish: str, reason: str, content: str, calls: int
) -> None:
    choices = answer(Postprocessing(calling=HERMES), [text, ""], finish)
    whole = joined(choices)
    assert (whole["content"], len(whole["calls"])) == (content, calls)
    assert choices[-1]["finish_reason"] == reason


@pytest.mark.parametrize("rest", ["\n<tool", "\n<tool_call>\n{", '\n<tool_call>\n{"name": "wea'])
def test_the_beginning_of_a_further_call_that_was_cut_is_no_content(rest: str) -> None:
    choices = answer(Postprocessing(calling=HERMES), [PARIS, rest], "length")
    whole = joined(choices)
    assert (whole["content"], len(whole["calls"]), choices[-1]["finish_reason"]) == ("", 1, "length")
    assert joined(answer(Postprocessing(calling=HERMES), [PARIS, rest], "stop"))["content"] == rest


def test_a_text_that_was_cut_where_a_call_could_begin_is_kept() -> None:
    whole = joined(answer(Postprocessing(calling=HERMES), ["One < two <tool"], "length"))
    assert (whole["content"], whole["calls"]) == ("One < two <tool", [])


def test_only_the_first_call_is_told_of_where_calls_are_not_parallel() -> None:
    calling = Calling(format="hermes", names=["weather"], parallel=False)
    choices = answer(Postprocessing(calling=calling), [PARIS, ROME, ""])
    assert [one["arguments"] for one in joined(choices)["calls"]] == ['{"city": "Paris"}']
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_stop_string_within_arguments_cuts_the_call_and_the_reason_is_not_tool_calls() -> None:
    choices = answer(Postprocessing(calling=HERMES, stop=["ari"]), [PARIS[:40], PARIS[40:], ""])
    (call,) = joined(choices)["calls"]
    assert call["arguments"] == '{"city": "P'
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]


def test_logprobs_come_with_every_token_whatever_it_became() -> None:
    pieces = [PARIS[:13], PARIS[13:30], PARIS[30:], ""]
    choices = answer(Postprocessing(calling=HERMES, logprobs=True), pieces)
    assert [one["logprobs"]["content"][0]["token"] for one in choices] == pieces


def test_choices_keep_their_calls_apart() -> None:
    writer = DeltaWriter()
    found: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for number, (one, other) in enumerate(zip(PARIS, ROME.ljust(len(PARIS)), strict=True)):
        for index, char in ((0, one), (1, other)):
            post = Postprocessing(calling=HERMES) if number == index == 0 else None
            event = Event(stream=1, index=index, post=post, finish="stop" if number == len(PARIS) - 1 else None)
            found[index].append(json.loads(writer.write(1, char.encode(), msgspec.json.encode(event)))["choice"])
    calls = [joined(found[index])["calls"][0] for index in (0, 1)]
    assert [one["arguments"] for one in calls] == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert calls[0]["id"] != calls[1]["id"]
    assert {found[index][-1]["finish_reason"] for index in (0, 1)} == {"tool_calls"}


@pytest.mark.parametrize(
    ("reasoning", "text", "thoughts", "content"),
    [
        (THINK, "<think>a</think>b", "a", "b"),
        (THINK, " \n<think>\n a \n</think>\n b ", "a", "b "),
        (THINK, "<think></think>b", "", "b"),
        (THINK, "b <think>a</think>", "", "b <think>a</think>"),
        (THINK, "<think>a </thin", "a </thin", ""),
        (THINK, "<thin", "", "<thin"),
        (THINK, "  b", "", "  b"),
        (OPEN, "a</think>b", "a", "b"),
        (OPEN, "\na < b", "a < b", ""),
        (OPEN, "<think>a</think>b", "<think>a", "b"),
        (None, "<think>a</think>b", "", "<think>a</think>b"),
    ],
)
@given(cuts=st.lists(st.integers(0, 30), max_size=8))
def test_thoughts_are_parted_from_the_answer_in_any_pieces(
    reasoning: Reasoning | None, text: str, thoughts: str, content: str, cuts: list[int]
) -> None:
    splitter = ThoughtSplitter(reasoning)
    parts = [splitter.feed(piece) for piece in cut(text, cuts)] + [splitter.finish()]
    assert ("".join(one for one, _ in parts), "".join(two for _, two in parts)) == (thoughts, content)


def test_a_model_that_only_thought_says_nothing() -> None:
    choices = answer(Postprocessing(reasoning=OPEN), ["hm", " so", ""], "length")
    assert joined(choices) == {"content": "", "thoughts": "hm so", "calls": []}
    assert "content" not in choices[-1]["delta"]
