"""Gateway and `preprocess` count the same tokens, and both count what transformers counts.

The gateway tokenizes with `PromptBuilder` and `preprocess` with `Planner`, over the same model files.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.parsing import encode_pretokenized, parse_chat, parse_completion
from python_backends.preprocessing.plan import Planner
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.template import ChatTemplate
from python_backends.preprocessing.tool_format import writing_of

CONTEXT = 1_000_000
texts = st.text(max_size=60) | st.sampled_from(["<|im_start|>", "<|im_end|>", "naïve 🛶 \u200d\u200b", "\n\n\t x"])
roles = st.sampled_from(["system", "user", "assistant", "developer"])
conversations = st.lists(st.fixed_dictionaries({"role": roles, "content": texts}), min_size=1, max_size=6)
repeated = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def prompts(generation_model: Path) -> PromptBuilder:
    return PromptBuilder.from_dir(generation_model)


@pytest.fixture(scope="session")
def reference(generation_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(generation_model, local_files_only=True)


@repeated
@given(messages=conversations)
def test_a_conversation_has_the_ids_that_transformers_gives_it(
    prompts: PromptBuilder, reference: Any, messages: list[dict[str, str]]
) -> None:
    ids = prompts.chat(parse_chat(json.dumps({"messages": messages})))
    known = [{**one, "role": "system" if one["role"] == "developer" else one["role"]} for one in messages]
    expected = reference.apply_chat_template(known, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids == expected


@repeated
@given(messages=conversations)
def test_gateway_and_preprocess_give_a_conversation_the_same_ids(
    prompts: PromptBuilder, messages: list[dict[str, str]]
) -> None:
    body = json.dumps({"messages": messages}).encode()
    request = parse_chat(body)
    in_gateway = prompts.chat(request)
    planner = Planner(prompts, CONTEXT)
    assert planner.plan(body, None, {}).input_ids == in_gateway
    assert planner.plan(encode_pretokenized(request), in_gateway, {}).input_ids == in_gateway


@repeated
@given(prompt=st.text(min_size=1, max_size=100))
def test_a_plain_prompt_has_the_ids_that_transformers_gives_it(
    prompts: PromptBuilder, reference: Any, prompt: str
) -> None:
    expected = reference.encode(prompt)
    request = parse_completion(json.dumps({"prompt": prompt}))
    if expected:
        assert prompts.build(request) == [expected]
    else:
        with pytest.raises(RequestError, match="no tokens"):
            prompts.build(request)


@repeated
@given(messages=conversations, limit=st.integers(1, 50), temperature=st.floats(0, 2), n=st.integers(1, 5))
def test_a_pretokenized_body_is_planned_like_the_whole_one(
    prompts: PromptBuilder, messages: list[dict[str, str]], limit: int, temperature: float, n: int
) -> None:
    fields = {"messages": messages, "max_tokens": limit, "temperature": temperature, "n": n, "stop": ["x"]}
    body = json.dumps(fields).encode()
    planner = Planner(prompts, CONTEXT)
    whole = planner.plan(body, None, {"priority": 2})
    assert planner.plan(encode_pretokenized(parse_chat(body)), whole.input_ids, {"priority": 2}) == whole


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Köln"}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sun 🛶"}
FUNCTION = {
    "name": "f",
    "description": "d",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("choice", ["auto", "none", "required", NAMED])
@pytest.mark.parametrize("parallel", [True, False])
def test_tools_are_planned_alike_from_a_whole_and_from_a_pretokenized_body(
    prompts: PromptBuilder, choice: Any, parallel: bool
) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [CALL]}, RESULT]
    fields = {"messages": messages, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel}
    body = json.dumps(fields).encode()
    request, planner = parse_chat(body), Planner(prompts, CONTEXT)
    ids = prompts.chat(request)
    whole = planner.plan(body, None, {})
    assert whole.input_ids == ids
    assert planner.plan(encode_pretokenized(request), ids, {}) == whole


def test_a_template_that_knows_tools_is_rendered_as_transformers_renders_it() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}{{ c.function.arguments | tojson }}"
        "{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    said = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    request = parse_chat(json.dumps({"messages": [said, RESULT], "tools": TOOLS}))
    ours = ChatTemplate(source, {}).render(request.messages or [], tools=request.offered, writing=writing_of("hermes"))
    called = {**CALL, "function": {"name": "f", "arguments": {"city": "Köln"}}}
    texts, _ = render_jinja_template(
        [[{**said, "tool_calls": [called]}, RESULT]], tools=TOOLS, chat_template=source, add_generation_prompt=True
    )
    assert ours == texts[0]
