"""Bodies are accepted whole or refused with the field's name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.parsing import (
    UNSUPPORTED,
    encode_pretokenized,
    parse_chat,
    parse_completion,
    parse_embedding,
    parse_generation,
)
from python_backends.preprocessing.schema import ChatRequest, CompletionRequest

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": MESSAGES, **fields}).encode()


def refused(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_chat(body)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 1000}, "n", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]", "invalid_value"),
        ({"store": True}, "store", "invalid_value"),
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "y": 1}]}, "messages[0].y", "unknown_parameter"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(chat(**fields))
    assert (error.param, error.code) == (param, code)
    assert param.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0] in error.message


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_parameter_that_is_not_served_is_refused_and_not_dropped(name: str) -> None:
    error = refused(chat(**{name: 1}))
    assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"messages": "\\ud800"}'])
def test_what_is_not_json_is_refused_as_such(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body).code == "invalid_type"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_the_parser_fail_otherwise(body: bytes) -> None:
    try:
        parse_chat(body)
    except RequestError as error:
        assert error.message


@pytest.mark.parametrize("content", ["text", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], None])
def test_content_may_be_a_text_or_text_parts(content: Any) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    result = {"role": "tool", "tool_call_id": "1", "content": "ok"}
    request = parse_chat(json.dumps({"messages": [message, result]}))
    assert request.messages is not None
    assert request.messages[0].text == {"text": "text"}.get(str(content), "a\nb" if content else "")


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_prompt_has_four_forms(prompt: Any) -> None:
    assert parse_completion(json.dumps({"prompt": prompt})).prompt == prompt


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[1], "a"], [-1], [2**31], 5, [[2**40]]])
def test_a_prompt_in_no_form_is_refused(prompt: Any) -> None:
    with pytest.raises(RequestError) as caught:
        parse_completion(json.dumps({"prompt": prompt}))
    assert (caught.value.param or "").startswith("prompt")


def test_too_many_inputs_are_refused_with_the_bound() -> None:
    with pytest.raises(RequestError, match="at most 2048"):
        parse_embedding(json.dumps({"input": ["x"] * 2049}))


def test_no_answer_is_allowed_only_with_an_echo() -> None:
    assert parse_completion(b'{"prompt": "x", "max_tokens": 0, "echo": true}').max_tokens == 0
    with pytest.raises(RequestError, match="echo"):
        parse_completion(b'{"prompt": "x", "max_tokens": 0}')


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (ChatRequest(messages=[], temperature=0.5, n=2), "chat"),
        (CompletionRequest(prompt="x", echo=True), "completion"),
    ],
)
def test_a_pretokenized_body_keeps_everything_but_the_text(
    request_: ChatRequest | CompletionRequest, kind: str
) -> None:
    body = encode_pretokenized(request_)
    assert json.loads(body)["kind"] == kind
    parsed = parse_generation(body, pretokenized=True)
    before = msgspec.to_builtins(request_)
    assert {**before, "messages": None, "prompt": None} == {"messages": None, "prompt": None} | msgspec.to_builtins(
        parsed
    )


def test_text_is_required_where_no_token_ids_come() -> None:
    for body in (b"{}", b'{"kind": "completion"}'):
        with pytest.raises(RequestError) as caught:
            parse_generation(body, pretokenized=False)
        assert caught.value.code == "missing_required_parameter"


def test_a_direct_body_says_its_kind_by_its_fields() -> None:
    assert isinstance(parse_generation(b'{"prompt": "x"}', pretokenized=False), CompletionRequest)
    assert isinstance(parse_generation(chat(), pretokenized=False), ChatRequest)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priority": "urgent"}, "known: interactive, standard, batch"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "known: system, developer, user, assistant, tool"),
    ],
)
def test_a_word_that_is_none_of_several_is_told_which_there_are(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_chat(json.dumps({"messages": [{"role": "user", "content": "hi"}]} | fields))
