"""Which text of a request is judged."""

import pytest

from python_backends.preprocessing.parsing import parse_chat, parse_completion
from python_backends.preprocessing.question import MOST_CHARACTERS, question_of


def test_it_is_the_last_turn_of_the_user() -> None:
    body = b"""{"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"}, {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
        {"role": "assistant", "content": "2, or"}]}"""
    assert question_of(parse_chat(body)) == "Two?"


@pytest.mark.parametrize(
    ("prompt", "question"), [('"Tell"', "Tell"), ('["Tell", "me"]', "Tell"), ("[1, 2]", ""), ("[[1, 2]]", "")]
)
def test_of_a_completion_it_is_the_first_prompt_if_that_is_a_text(prompt: str, question: str) -> None:
    assert question_of(parse_completion(f'{{"prompt": {prompt}}}')) == question


def test_a_chat_without_a_user_asks_nothing() -> None:
    assert question_of(parse_chat(b'{"messages": [{"role": "system", "content": "Be brief"}]}')) == ""


def test_a_long_text_is_bounded() -> None:
    assert len(question_of(parse_completion(f'{{"prompt": "{"long " * 10_000}"}}'))) == MOST_CHARACTERS
