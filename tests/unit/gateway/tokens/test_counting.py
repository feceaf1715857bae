"""Exact tokens, and what a request is reckoned to cost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread, main_thread

import pytest

from gateway.core.call import Call, Model
from gateway.core.limit import TimeLimit
from gateway.errors import InvalidRequest
from gateway.tokens.counting import GenerationTokens
from gateway.tokens.offload import Offload
from gateway.tokens.prediction import Predictor
from python_backends.preprocessing.parsing import parse_chat, parse_completion
from python_backends.preprocessing.prompts import PromptBuilder

MODEL = Model("tiny", "generate", 256, 0)


@pytest.fixture
def tokens(model_dir: Path) -> GenerationTokens:
    offload = Offload(ThreadPoolExecutor(1), 4096)
    return GenerationTokens({"tiny": PromptBuilder.from_dir(model_dir)}, offload, Predictor(20))


def new_call(size: int = 0) -> Call:
    return Call(id="r", uid="u", route="/", limit=TimeLimit(60), size=size)


async def test_the_default_limit_is_the_room_that_is_left(tokens: GenerationTokens) -> None:
    body = parse_completion(b'{"prompt":["abc","de"]}')
    job = await tokens.prepare(new_call(), MODEL, body)
    assert [(len(one.ids), one.max_tokens) for one in job.prompts] == [(3, 253), (2, 254)]


async def test_the_cost_is_the_prompts_and_what_answers_are_expected_to_take(tokens: GenerationTokens) -> None:
    call = new_call()
    await tokens.prepare(call, MODEL, parse_completion(b'{"prompt":["abc","de"],"n":2}'))
    assert call.cost == 3 + 2 + 4 * 20
    await tokens.prepare(call, MODEL, parse_completion(b'{"prompt":"abc","max_tokens":5}'))
    assert call.cost == 3 + 5


async def test_what_the_rules_refuse_is_refused_in_their_words(tokens: GenerationTokens) -> None:
    body = parse_chat(b'{"messages":[{"role":"user","content":"hello"}],"max_tokens":250}')
    with pytest.raises(InvalidRequest) as refused:
        await tokens.prepare(new_call(), MODEL, body)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "max_tokens")


async def test_long_work_is_done_elsewhere() -> None:
    offload = Offload(ThreadPoolExecutor(1), 10)
    assert await offload.run(9, current_thread) is main_thread()
    assert await offload.run(10, current_thread) is not main_thread()
