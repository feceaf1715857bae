"""The `openai` client against the whole stack with real models."""

from typing import Any

import openai
import pytest

from tests.e2e.conftest import SECOND_EMBEDDING_MODEL
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
# The model may not end its answer early, whatever it would say.
ON_AND_ON = {"ignore_eos": True}


@pytest.fixture(autouse=True, scope="module")
def read(client: openai.OpenAI, model: str) -> None:
    """The engine has the question in its cache from now on: equal requests are computed alike, to the last bit."""
    client.chat.completions.create(model=model, messages=FRANCE, max_tokens=1)


def test_a_chat_is_answered_with_its_usage(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=FRANCE, temperature=0, max_tokens=32)
    choice = answer.choices[0]
    assert "Paris" in (choice.message.content or "")
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 37
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.object == "chat.completion"


def test_a_stream_has_the_words_of_the_whole_answer_and_its_usage_last(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": FRANCE, "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**asked, extra_body=ON_AND_ON)
    chunks = list(
        client.chat.completions.create(
            **asked, extra_body=ON_AND_ON, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_two_choices_differ_when_sampled_and_are_counted_together(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me a story."}],
        n=2,
        max_tokens=12,
        temperature=2,
        seed=5,
        extra_body=ON_AND_ON,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 24


def test_a_seed_gives_the_same_answer_again(client: openai.OpenAI, model: str) -> None:
    answers = [
        client.chat.completions.create(model=model, messages=FRANCE, seed=11, temperature=1, max_tokens=12)
        for _ in range(2)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_logprobs_describe_the_tokens_of_the_text(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=FRANCE,
        temperature=0,
        max_tokens=6,
        logprobs=True,
        top_logprobs=3,
        extra_body=ON_AND_ON,
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 6
    assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
    for one in choice.logprobs.content:
        assert len(one.top_logprobs) == 3
        assert one.logprob == max(top.logprob for top in one.top_logprobs), "greedy takes the likeliest"
        assert bytes(one.bytes or []).decode() == one.token


def test_a_stop_string_ends_the_answer_and_does_not_show(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": FRANCE, "temperature": 0, "max_tokens": 16}
    text = client.chat.completions.create(**asked, extra_body=ON_AND_ON).choices[0].message.content or ""
    stop = text[10:16]
    answer = client.chat.completions.create(**asked, extra_body=ON_AND_ON, stop=stop)
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_bias_against_a_token_keeps_it_out(client: openai.OpenAI, model: str, stack: EmbeddedStack) -> None:
    tokens = client.post("/../tokenize", body={"model": model, "prompt": " Paris"}, cast_to=object)
    (paris,) = tokens["tokens"]  # type: ignore[index]
    answer = client.chat.completions.create(
        model=model, messages=FRANCE, temperature=0, max_tokens=12, logit_bias={str(paris): -100}, logprobs=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content
    assert " Paris" not in [one.token for one in logprobs.content], "in pieces it may still say it"


def test_max_tokens_cuts_and_says_so(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=FRANCE, temperature=0, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 3


def test_the_second_time_the_prompt_is_cached_and_counted_so(client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "A long and singular question about sails and oars. " * 12}]
    for _ in range(2):
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=1)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) > 64


def test_text_completions_take_texts_and_token_ids_and_echo(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model,
        prompt=["The sea is", "The sky is"],
        max_tokens=4,
        temperature=0,
        echo=True,
        logprobs=1,
        n=2,
        extra_body=ON_AND_ON,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:10] for choice in answer.choices] == ["The sea is"] * 2 + ["The sky is"] * 2
    table = answer.choices[0].logprobs
    assert table is not None and table.tokens is not None and table.token_logprobs is not None
    assert table.token_logprobs[0] is None
    assert len(table.tokens) == len(table.token_logprobs) == 7
    ids = client.post("/../tokenize", body={"model": model, "prompt": "The sea is"}, cast_to=object)
    again = client.completions.create(
        model=model,
        prompt=ids["tokens"],  # type: ignore[index]
        max_tokens=4,
        echo=True,
    )
    assert again.choices[0].text.startswith("The sea is")
    assert again.usage is not None and again.usage.prompt_tokens == 3


def test_an_echo_without_an_answer_scores_the_prompt(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="The sea is blue", max_tokens=0, echo=True, logprobs=2)
    assert answer.choices[0].text == "The sea is blue"
    assert answer.usage is not None and answer.usage.completion_tokens == 0


def test_the_models_are_listed(client: openai.OpenAI, model: str, stack: EmbeddedStack) -> None:
    ids = {one.id for one in client.models.list()}
    assert {model, stack.settings.embedding_model.name, SECOND_EMBEDDING_MODEL} <= ids
    assert client.models.retrieve(model).id == model


def test_errors_arrive_as_the_right_exceptions(client: openai.OpenAI, model: str, stack: EmbeddedStack) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-nothing", messages=FRANCE)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=model, messages=FRANCE, temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as beyond:
        client.chat.completions.create(model=model, messages=FRANCE, logit_bias={"99999999": 1}, max_tokens=1)
    assert beyond.value.param == "logit_bias", "only the engine knows its vocabulary, and its word reaches the client"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model=model, messages=FRANCE, extra_body={"tempreature": 1})
    assert (unknown.value.param, unknown.value.code) == ("tempreature", "unknown_parameter")
    with pytest.raises(openai.BadRequestError, match=r"4096.*5000") as long:
        client.chat.completions.create(model=model, messages=FRANCE, max_tokens=5000)
    assert long.value.code == "context_length_exceeded"
    with (
        openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key="trk_wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as denied,
    ):
        stranger.models.list()
    assert denied.value.code == "invalid_api_key"
