"""Tool calls are found in a text however it was cut, and what is none stays text."""

import itertools
import json
import time
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.messages import ToolFormat
from python_backends.postprocessing.tools.parser import Arguments, Begin, End, Text, ToolParser
from python_backends.postprocessing.tools.registry import PARSERS, parser_of
from python_backends.preprocessing.tool_format import writing_of

NAMES = ["weather", "time-of_day"]
names = st.sampled_from(NAMES)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), values, max_size=3)
calls = st.lists(st.tuples(names, arguments), min_size=1, max_size=3)
cuts = st.lists(st.integers(0, 400), max_size=12)
WRITTEN = ["hermes", "llama3_json", "mistral", "json"]


@dataclass
class Found:
    text: str = ""
    calls: list[list[str]] = field(default_factory=list)
    whole: int = 0


def read(parser: ToolParser, pieces: list[str]) -> Found:
    found = Found()
    for piece in [*itertools.chain.from_iterable(map(parser.feed, pieces)), *parser.finish()]:
        match piece:
            case Text(text):
                found.text += text
            case Begin(name):
                found.calls.append([name, ""])
            case Arguments(text):
                found.calls[-1][1] += text
            case End():
                found.whole += 1
    return found


def cut(text: str, cuts: list[int]) -> list[str]:
    borders = sorted({min(one, len(text)) for one in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(borders)]


def whole(form: str, text: str) -> Found:
    return read(parser_of(form, NAMES), [text])


def decoded(found: Found) -> list[tuple[str, Any]]:
    return [(name, json.loads(text)) for name, text in found.calls]


def pythonic(made: list[tuple[str, dict[str, Any]]]) -> str:
    written = [f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})" for name, given in made]
    return f"[{', '.join(written)}]"


@given(made=calls, cuts=cuts, form=st.sampled_from(WRITTEN))
def test_calls_as_a_format_writes_them_are_found_in_any_pieces(
    made: list[tuple[str, dict[str, Any]]], cuts: list[int], form: Any
) -> None:
    text = writing_of(form).calls((name, json.dumps(given)) for name, given in made)
    found = read(parser_of(form, NAMES), cut(text, cuts))
    assert decoded(found) == made
    assert (found.text.strip(), found.whole) == ("", len(made))
    assert found.calls == [[name, json.dumps(given)] for name, given in made], "arguments come as they were written"


@given(made=calls, cuts=cuts)
def test_calls_in_pythons_syntax_are_found_in_any_pieces(
    made: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    found = read(parser_of("pythonic", NAMES), cut(pythonic(made), cuts))
    assert decoded(found) == made
    assert (found.text, found.whole) == ("", len(made))


BITS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<tool", "[", "]", "{", "}", "(", ")"),
    *(
        '"name": "weather"',
        '"name": "x"',
        '"arguments": ',
        '"parameters": {"a": 1}',
        '"',
        "\\",
        ",",
        ":",
        ";",
        "=",
        " ",
    ),
    *("weather", "time-of_day(", "null", "1", "-", "\n", "a", "'", "é🛶"),
]


@given(bits=st.lists(st.sampled_from(BITS), max_size=25), cuts=cuts, form=st.sampled_from(sorted(PARSERS)))
def test_any_text_gives_the_same_in_any_pieces_and_never_fails(bits: list[str], cuts: list[int], form: str) -> None:
    text = "".join(bits)
    once, pieces = whole(form, text), read(parser_of(form, NAMES), cut(text, cuts))
    assert once == pieces
    assert once.whole <= len(once.calls) <= once.whole + 1
    assert {name for name, _ in once.calls} <= set(NAMES)


@given(text=st.text(alphabet="abc<{[ \n", max_size=60), form=st.sampled_from(sorted(PARSERS)))
def test_a_text_without_calls_is_passed_on_whole(text: str, form: str) -> None:
    assert whole(form, text) == Found(text)


@pytest.mark.parametrize("form", sorted(PARSERS))
def test_text_is_not_held_back_longer_than_it_may_be_a_call(form: str) -> None:
    parser = parser_of(form, NAMES)
    parser.feed("I ")
    assert parser.feed("think") == [Text("think")]


@pytest.mark.parametrize(
    ("form", "begin"),
    [
        ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Pa'),
        ("llama3_json", '{"name": "weather", "parameters": {"city": "Pa'),
        ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Pa'),
        ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Pa'),
        ("json", '[{"name": "weather", "arguments": {"city": "Pa'),
    ],
)
def test_arguments_come_while_they_are_written_and_a_call_that_was_cut_has_no_end(form: str, begin: str) -> None:
    parser = parser_of(form, NAMES)
    pieces = parser.feed(begin)
    assert pieces[0] == Begin("weather")
    assert "".join(one.text for one in pieces if isinstance(one, Arguments)) == '{"city": "Pa'
    assert parser.feed("r") == [Arguments("r")]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "wea'),
        ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call>weather(1)</tool_call>"),
        ("hermes", "a <tool_ca"),
        ("json", '{"name": "Ann", "age": 3}'),
        ("json", '{"name": "weather", "arguments": 3}'),
        ("json", "[1, 2]"),
        ("json", " [ "),
        ("llama3_json", '<|python_tag|>print("hi")'),
        ("mistral", "[TOOL_CALLS] nothing"),
        ("mistral", '[TOOL_CALLS][{"x": 1}]'),
        ("mistral", 'so [TOOL_CALLS]unknown[ARGS]{"x": 1}'),
        ("pythonic", "[unknown(a=1)]"),
        ("pythonic", "[weather(a=b + 1)]"),
        ("pythonic", "[weather(1)]"),
        ("pythonic", "[1] is a citation"),
        ("pythonic", "[]"),
        ("pythonic", "[weather(city='Pa"),
    ],
)
def test_what_is_no_call_of_a_known_tool_is_text_as_it_was_written(form: str, text: str) -> None:
    assert whole(form, text) == Found(text)


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        ("hermes", 'Ok.<tool_call>{"arguments": {"a": 1}, "name": "weather"}</tool_call>', [("weather", {"a": 1})]),
        ("hermes", '<tool_call>{"name": "weather"}</tool_call>', [("weather", {})]),
        ("hermes", '<tool_call>{"name": "weather", "arguments": null}</tool_call>', [("weather", {})]),
        ("hermes", '<tool_call>{"name": "weather", "arguments": "{\\"a\\": 2}"}</tool_call>', [("weather", {"a": 2})]),
        (
            "hermes",
            '<tool_call>{"type": "function", "name": "weather", "x": [1, "}"], "arguments": {}}',
            [("weather", {})],
        ),
        ("hermes", '<tool_call>[{"name": "weather"}, {"name": "weather"}]</tool_call>', [("weather", {})] * 2),
        ("hermes", '<tool_call>{"name": "weather"}<tool_call>{"name": "weather"}', [("weather", {})] * 2),
        (
            "llama3_json",
            '<|python_tag|>{"name": "weather", "parameters": {}}; {"name": "weather"}',
            [("weather", {})] * 2,
        ),
        (
            "mistral",
            'x[TOOL_CALLS]weather{"a": 1}[TOOL_CALLS]weather[CALL_ID]abc[ARGS]{}',
            [("weather", {"a": 1}), ("weather", {})],
        ),
        ("json", ' [ {"name": "weather"} ]', [("weather", {})]),
        (
            "pythonic",
            "[weather(a=true, b=null, c=-1.5, d=('x', [1]), e={'k': \"v,)\"})]",
            [("weather", {"a": True, "b": None, "c": -1.5, "d": ["x", [1]], "e": {"k": "v,)"}})],
        ),
        ("pythonic", "[weather(), weather(a='it\\'s')]", [("weather", {}), ("weather", {"a": "it's"})]),
        ("pythonic", "[weather(a=1, b=2 + 3)]", [("weather", {"a": 1, "b": "2 + 3"})]),
    ],
)
def test_calls_are_found_as_models_write_them(form: str, text: str, found: list[tuple[str, Any]]) -> None:
    read = whole(form, text)
    assert decoded(read) == found
    assert read.whole == len(found)
    assert read.text in ("", "Ok.", "x")


def test_text_around_calls_stays() -> None:
    found = whole("hermes", 'Well, <tool_call>{"name": "weather"}</tool_call> and so on')
    assert (found.text, found.calls) == ("Well,  and so on", [["weather", "{}"]])


def test_every_format_has_a_parser_and_an_unknown_one_is_told_which_there_are() -> None:
    assert set(PARSERS) == set(get_args(ToolFormat))
    with pytest.raises(ValueError, match="'xml': use one of hermes, llama3_json, mistral, pythonic, json"):
        parser_of("xml", NAMES)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("mistral", "[TOOL_CALLS]" + " " * 4000 + "x y{"),
        ("mistral", "[TOOL_CALLS]x" + " " * 4000 + "y{"),
        ("pythonic", "[" + "a" * 100_000),
        ("pythonic", f"[weather(city='{'a' * 100_000}')]"),
        ("hermes", '<tool_call>{"arguments": {"city": "' + "a" * 100_000),
        ("json", " " * 100_000 + "x"),
        ("llama3_json", '{"parameters": {"city": "' + "a" * 100_000),
    ],
)
def test_no_answer_keeps_the_others_waiting(form: str, text: str) -> None:
    """One process reads the answers of all requests."""
    began = time.process_time()
    whole(form, text)
    assert time.process_time() - began < 5
