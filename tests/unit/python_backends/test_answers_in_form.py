"""Answers that must match a form, in `postprocess`: checked as they come, validated at the end, closed when cut."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backends.grammar.compiler import Compiler
from python_backends.messages import Constraint, Event, FinishReason, Postprocessing, Tokens
from python_backends.postprocessing.errors import StreamError
from python_backends.postprocessing.stream import DeltaWriter

COMPILER = Compiler()
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3},
        "mail": {"type": "string", "format": "email"},
        "born": {"type": "string", "format": "date-time"},
        "age": {"type": "integer", "minimum": 18, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1},
        "id": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+x$"},
        "note": {"anyOf": [{"type": "null"}, {"type": "number"}]},
    },
    "required": ["name", "mail", "born", "age", "tags", "id", "note"],
}
ANSWER = (
    '{"name": "Zoë \\"Z\\" 🛶", "mail": "a@b.de","born":"2020-02-03T10:00:00Z","age": 42,'
    '"tags":["red", "green"],"id":"ABC-12x","note":-1.5e10}'
)


def form(**constraint: Any) -> Constraint:
    return COMPILER.check(Constraint(**constraint), "form")


def schema(**keywords: Any) -> Constraint:
    return form(json_schema=json.dumps(keywords))


class Stream:
    """One stream of a writer, whose choices are written piece by piece."""

    def __init__(self, grammar: Constraint, writer: DeltaWriter | None = None, number: int = 1, **post: Any) -> None:
        self._writer = writer or DeltaWriter()
        self._post: Postprocessing | None = Postprocessing(grammar=grammar, **post)
        self._number = number
        self.text = ""

    def write(self, text: str, finish: FinishReason | None = None, *, index: int = 0, last: bool = True) -> Any:
        usage = Tokens(prompt=1, completion=1) if finish and last else None
        event = Event(stream=self._number, index=index, post=self._post, finish=finish, usage=usage)
        self._post = None
        delta = json.loads(self._writer.write(1, text.encode(), msgspec.json.encode(event)))
        self.text += delta["choice"]["delta"].get("content", "")
        return delta


def violation(stream: Stream, text: str, finish: FinishReason | None = None) -> str:
    with pytest.raises(StreamError) as caught:
        stream.write(text, finish)
    assert (caught.value.body.type, caught.value.body.code) == ("server_error", "grammar_violation")
    return caught.value.body.message


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, len(ANSWER)), max_size=20))
def test_an_answer_of_the_form_passes_unchanged_however_it_comes(cuts: list[int]) -> None:
    stream = Stream(schema(**PERSON))
    borders = sorted({*cuts, 0, len(ANSWER)})
    for start, end in itertools.pairwise(borders):
        assert "grammar" not in stream.write(ANSWER[start:end])
    assert stream.write("", "stop")["grammar"] == "valid"
    assert stream.text == ANSWER


@pytest.mark.parametrize(
    ("grammar", "pieces"),
    [
        (schema(type="object", properties={"a": {"type": "integer"}}), ['{"a"', ": 1", "x"]),
        (schema(type="object", properties={"a": {"type": "integer"}}), ['{"b"']),
        (schema(type="object", properties={"a": {"type": "integer"}}), ["{}", " and more"]),
        (schema(type="object"), ["{", "\n"]),
        (schema(type="object"), ["Sure! Here is your JSON: {}"]),
        (form(regex=r"\d{3}-\d{4}"), ["123-", "45a"]),
        (form(choice=["yes", "no"]), ["maybe"]),
        (form(grammar='start: "a" "b"'), ["ac"]),
    ],
)
def test_text_that_leaves_the_form_is_not_sent_and_ends_the_stream(grammar: Constraint, pieces: list[str]) -> None:
    writer = DeltaWriter()
    stream = Stream(grammar, writer)
    for piece in pieces[:-1]:
        stream.write(piece)
    assert "leaves the form" in violation(stream, pieces[-1])
    assert stream.text == "".join(pieces[:-1])
    # The engine does not know of it and goes on: nothing of that may pass, and nothing is kept for ever.
    assert "leaves the form" in violation(stream, "{}")
    assert "leaves the form" in violation(stream, "", "stop")
    assert len(writer) == 0


def test_one_stream_that_fails_leaves_the_others_alone() -> None:
    writer = DeltaWriter()
    bad, good = Stream(form(regex="a+"), writer, 1), Stream(form(regex="a+"), writer, 2)
    good.write("a")
    violation(bad, "b")
    assert good.write("a", "stop")["grammar"] == "valid"


@pytest.mark.parametrize("text", ["", '{"name"'])
def test_an_answer_that_the_model_ends_too_early_is_a_violation(text: str) -> None:
    stream = Stream(schema(**PERSON))
    stream.write("")
    assert "before it is whole" in violation(stream, text, "stop")


def test_what_the_grammar_allows_and_the_schema_does_not_is_a_violation() -> None:
    """The compiler's own idea of a date, which `check` makes exact."""
    days = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    stream = Stream(Constraint(json_schema=json.dumps(days)))
    stream.write('{"day": "2023-02-29"}')
    assert "breaks its schema at /day" in violation(stream, "", "stop")


def test_each_choice_is_checked_on_its_own() -> None:
    stream = Stream(form(choice=["yes", "no"]))
    stream.write("ye", index=0)
    stream.write("n", index=1)
    assert stream.write("s", "stop", index=0, last=False)["grammar"] == "valid"
    assert stream.write("o", "length", index=1)["grammar"] == "valid"


def test_a_stop_string_cuts_where_it_stands() -> None:
    stream = Stream(schema(type="object", properties={"a": {"type": "string"}}), stop=["STOP"])
    stream.write('{"a": "x ST')
    delta = stream.write("OP and")
    assert (delta["grammar"], delta["choice"]["finish_reason"]) == ("truncated", "stop")
    assert stream.write(' more"}', "stop")["choice"]["finish_reason"] is None
    assert stream.text == '{"a": "x '


def test_an_answer_that_is_cut_stays_cut_unless_asked_otherwise() -> None:
    stream = Stream(schema(**PERSON))
    delta = stream.write('{"name": "Zo', "length")
    assert (delta["grammar"], delta["choice"]["finish_reason"]) == ("truncated", "length")
    assert stream.text == '{"name": "Zo'


@pytest.mark.parametrize("cut", range(len(ANSWER)))
def test_an_answer_that_is_cut_anywhere_can_be_closed_to_its_schema(cut: int) -> None:
    stream = Stream(schema(**PERSON), close=True)
    delta = stream.write(ANSWER[:cut], "length")
    assert (delta["grammar"], delta["choice"]["finish_reason"]) == ("closed", "length")
    assert stream.text.startswith(ANSWER[:cut])
    closed = json.loads(stream.text)
    # A writer of its own judges it as whatever the model had ended itself.
    assert Stream(schema(**PERSON)).write(stream.text, "stop")["grammar"] == "valid"
    assert closed.keys() == PERSON["properties"].keys()


def test_where_the_schema_has_no_end_the_answer_is_closed_as_json() -> None:
    again = {"type": "object", "properties": {"k": {"$ref": "#/$defs/n"}}, "required": ["k"]}
    stream = Stream(schema(**{"$defs": {"n": again}, "$ref": "#/$defs/n"}), close=True)
    delta = stream.write('{"k": {"k": ', "length")
    assert delta["grammar"] == "closed"
    assert json.loads(stream.text) == {"k": {"k": ""}}


def test_an_answer_that_is_aborted_has_no_outcome() -> None:
    stream = Stream(form(regex="a+"))
    stream.write("a")
    assert "grammar" not in stream.write("", "abort")
