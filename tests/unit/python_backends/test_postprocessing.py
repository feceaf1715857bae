"""Engine events become OpenAI deltas: text whole, stop strings cut, logprobs shaped, usage last."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.messages import ErrorBody, Event, Postprocessing, TokenLogprob, Tokens, TopLogprob
from python_backends.postprocessing.errors import StreamError
from python_backends.postprocessing.stops import StopCutter
from python_backends.postprocessing.stream import IDLE_SECONDS, SWEEP_EVERY, DeltaWriter


def write(writer: DeltaWriter, text: bytes, event: Event, tokens: int = 1) -> dict[str, Any]:
    delta: dict[str, Any] = json.loads(writer.write(tokens, text, msgspec.json.encode(event)))
    return delta


def entry(token: str) -> TokenLogprob:
    top = [TopLogprob(token=token, logprob=-1.0, bytes=[1]), TopLogprob(token="z", logprob=-2.0, bytes=[2])]
    return TokenLogprob(token=token, logprob=-1.0, bytes=[1], top=top)


def pieces(text: str, cuts: list[int]) -> list[str]:
    borders = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(borders)]


@given(
    text=st.text(alphabet="ab ", max_size=40),
    stops=st.lists(st.text(alphabet="ab ", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=10),
)
def test_text_ends_before_the_first_stop_string_wherever_the_chunks_are_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    cutter = StopCutter(stops)
    seen = "".join(cutter.feed(piece) for piece in pieces(text, cuts))
    seen += cutter.finish()
    found = [text.find(stop) for stop in stops if stop in text]
    assert cutter.stopped == bool(found)
    if not found:
        assert seen == text
    else:
        # Chunk by chunk, the stop string that completes first wins; none may show.
        assert text.startswith(seen)
        assert not any(stop in seen for stop in stops)


@given(text=st.text(max_size=30), cuts=st.lists(st.integers(0, 120), max_size=12))
def test_characters_are_never_split_however_the_bytes_are(text: str, cuts: list[int]) -> None:
    writer, data = DeltaWriter(), text.encode()
    borders = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    contents = []
    for start, end in itertools.pairwise(borders):
        event = Event(stream=1, post=Postprocessing() if start == 0 else None)
        contents.append(write(writer, data[start:end], event)["choice"]["delta"]["content"])
    last = write(writer, b"", Event(stream=1, finish="stop", usage=Tokens(prompt=1, completion=1)))
    assert "".join(contents) + last["choice"]["delta"].get("content", "") == text
    assert "�" not in "".join(contents) or "�" in text


def test_the_role_comes_once_and_the_usage_last() -> None:
    writer = DeltaWriter()
    first = write(writer, b"Hello", Event(stream=7, post=Postprocessing()))
    assert first == {
        "choice": {
            "index": 0,
            "delta": {"role": "assistant", "content": "Hello"},
            "logprobs": None,
            "finish_reason": None,
        },
        "tokens": 1,
    }
    last = write(writer, b"", Event(stream=7, finish="stop", usage=Tokens(prompt=3, completion=2, cached=1)))
    assert last["choice"]["finish_reason"] == "stop"
    assert last["usage"] == {"prompt": 3, "completion": 2, "cached": 1}
    assert len(writer) == 0


def test_interleaved_streams_and_choices_keep_apart() -> None:
    writer = DeltaWriter()
    for stream in (1, 2):
        write(writer, b"a", Event(stream=stream, post=Postprocessing(stop=["END"] if stream == 1 else [])))
    cut = write(writer, b"xEND more", Event(stream=1))
    whole = write(writer, b"xEND more", Event(stream=2))
    other = write(writer, b"xE", Event(stream=1, index=1))
    assert (cut["choice"]["delta"]["content"], cut["choice"]["finish_reason"]) == ("x", "stop")
    assert whole["choice"]["delta"]["content"] == "xEND more"
    assert (other["choice"]["index"], other["choice"]["delta"]["content"]) == (1, "x")


def test_after_a_stop_string_nothing_more_is_shown_and_the_reason_is_said_once() -> None:
    writer = DeltaWriter()
    write(writer, b"a|b", Event(stream=1, post=Postprocessing(stop=["|"])))
    late = write(writer, b"c", Event(stream=1))
    last = write(writer, b"d", Event(stream=1, finish="length", usage=Tokens(prompt=1, completion=3)))
    assert [one["choice"]["delta"].get("content", "") for one in (late, last)] == ["", ""]
    assert [one["choice"]["finish_reason"] for one in (late, last)] == [None, None]
    assert last["usage"]["completion"] == 3


def test_stop_strings_do_not_count_below_min_tokens() -> None:
    writer = DeltaWriter()
    early = write(writer, b"a|", Event(stream=1, post=Postprocessing(stop=["|"], min_tokens=1)))
    late = write(writer, b"b|c", Event(stream=1))
    assert early["choice"]["delta"]["content"] == "a|"
    assert (late["choice"]["delta"]["content"], late["choice"]["finish_reason"]) == ("b", "stop")


def test_what_was_held_back_for_a_stop_string_comes_out_at_the_end() -> None:
    writer = DeltaWriter()
    held = write(writer, b"so EN", Event(stream=1, post=Postprocessing(stop=["END"])))
    last = write(writer, b"", Event(stream=1, finish="length", usage=Tokens(prompt=1, completion=2)))
    assert held["choice"]["delta"]["content"] == "so "
    assert last["choice"]["delta"]["content"] == "EN"


def test_chat_logprobs_have_openais_shape_and_as_many_as_were_asked_for() -> None:
    post = Postprocessing(logprobs=True, top_logprobs=1)
    delta = write(DeltaWriter(), b"x", Event(stream=1, post=post, logprobs=[entry("x")]))
    assert delta["choice"]["logprobs"] == {
        "content": [
            {
                "token": "x",
                "logprob": -1.0,
                "bytes": [1],
                "top_logprobs": [{"token": "x", "logprob": -1.0, "bytes": [1]}],
            }
        ]
    }


def test_an_echo_stands_before_the_text_with_the_prompts_logprobs() -> None:
    post = Postprocessing(kind="completion", logprobs=True, top_logprobs=2, echo="Once upon", echo_first="Once")
    writer = DeltaWriter()
    event = Event(stream=1, post=post, prompt_logprobs=[None, entry(" upon")], logprobs=[entry(" a")])
    first = write(writer, b" a", event)["choice"]
    second = write(writer, b" time", Event(stream=1, logprobs=[entry(" time")]))["choice"]
    assert first["text"] == "Once upon a"
    assert first["logprobs"]["tokens"] == ["Once", " upon", " a"]
    assert first["logprobs"]["token_logprobs"] == [None, -1.0, -1.0]
    assert first["logprobs"]["text_offset"] == [0, 4, 9]
    assert second["logprobs"]["text_offset"] == [11]
    assert second["logprobs"]["top_logprobs"] == [{" time": -1.0, "z": -2.0}]


def test_an_echo_without_an_answer_is_not_billed_for_one() -> None:
    post = Postprocessing(kind="completion", echo="hi", echo_only=True)
    event = Event(stream=1, post=post, finish="length", usage=Tokens(prompt=1, completion=1))
    delta = write(DeltaWriter(), b" there", event)
    assert delta["choice"]["text"] == "hi"
    assert (delta["usage"]["prompt"], delta["usage"]["completion"]) == (1, 0)


def test_a_stream_that_never_ended_is_forgotten() -> None:
    now = [0.0]
    writer = DeltaWriter(clock=lambda: now[0])
    write(writer, b"x", Event(stream=1, post=Postprocessing()))
    now[0] = IDLE_SECONDS + 1
    for _ in range(SWEEP_EVERY):
        write(writer, b"y", Event(stream=2, post=Postprocessing()))
    assert len(writer) == 1


def test_an_error_event_ends_its_stream() -> None:
    writer = DeltaWriter()
    write(writer, b"x", Event(stream=1, post=Postprocessing()))
    body = ErrorBody(message="boom", type="server_error", code="engine_error")
    with pytest.raises(StreamError) as caught:
        write(writer, b"", Event(stream=1, error=body))
    assert caught.value.body == body
    assert len(writer) == 0


@pytest.mark.parametrize("finish", ["stop", "length", "abort"])
def test_the_engines_finish_reason_is_passed_on(finish: Any) -> None:
    event = Event(stream=1, post=Postprocessing(), finish=finish, usage=Tokens(prompt=1, completion=0))
    assert write(DeltaWriter(), b"", event)["choice"]["finish_reason"] == finish
