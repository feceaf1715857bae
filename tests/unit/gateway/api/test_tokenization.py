"""POST /tokenize and /detokenize."""

from typing import Any

import pytest

from tests.unit.gateway.conftest import Gateway


async def test_a_text_is_shown_as_tokens_and_back(gateway: Gateway) -> None:
    status, answer = await gateway.ask("/tokenize", {"model": "tiny", "prompt": "héllo"})
    assert status == 200
    assert answer["count"] == len(answer["tokens"]) == 6
    assert answer["max_model_len"] == 256
    _, back = await gateway.ask("/detokenize", {"model": "tiny", "tokens": answer["tokens"]})
    assert back == {"prompt": "héllo"}


async def test_a_conversation_is_counted_as_the_model_sees_it(gateway: Gateway) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    _, answer = await gateway.ask("/tokenize", body)
    _, chat = await gateway.ask("/v1/chat/completions", body)
    assert answer["count"] == chat["usage"]["prompt_tokens"]


async def test_what_makes_no_sense_is_refused(gateway: Gateway) -> None:
    for path, body, param in (
        ("/tokenize", {"model": "tiny"}, "prompt"),
        ("/tokenize", {"model": "tiny", "prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"model": "tiny-embed", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/tokenize", {"prompt": "a"}, "model"),
        ("/tokenize", {"model": "tiny", "prompt": 1}, "prompt"),
        ("/detokenize", {"model": "tiny", "tokens": [256]}, "tokens"),
        ("/detokenize", {"model": "tiny", "tokens": [-1]}, "tokens"),
    ):
        status, answer = await gateway.ask(path, body)
        assert (status, answer["error"]["param"]) == (400, param), (path, body)


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("/tokenize", {"prompt": 1}, "prompt", "invalid_type"),
        ("/tokenize", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ("/tokenize", {"prompt": "a", "audio": {}}, "audio", "unsupported_parameter"),
        ("/tokenize", {"prompt": "a", "colour": "red"}, "colour", "unknown_parameter"),
        ("/detokenize", {}, "tokens", "missing_required_parameter"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]", "invalid_type"),
        ("/detokenize", [], None, "invalid_type"),
    ],
)
async def test_a_wrong_body_is_explained_as_a_chats_is(
    gateway: Gateway, path: str, body: Any, param: str | None, code: str
) -> None:
    status, answer = await gateway.ask(path, body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert param is None or param in answer["error"]["message"]
