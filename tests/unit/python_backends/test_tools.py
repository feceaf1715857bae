"""Tools in a request: checked, told to the model, and carried to the engine as a grammar."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from python_backends.messages import Calling, Plan, Reasoning
from python_backends.preprocessing.dialect import Dialect, Parsers
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.parsing import encode_pretokenized, parse_chat
from python_backends.preprocessing.plan import Planner
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.tool_format import detect, tool_format, writing_of
from python_backends.preprocessing.tool_grammar import MAX_CALLS, call_grammar, lazy_grammar
from python_backends.preprocessing.tools import MAX_TOOLS_BYTES

HI = [{"role": "user", "content": "hi"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or CITY, **fields}}


WEATHER = tool("weather", description="Tells the weather.")

NOBODY = {"type": "function", "function": {"name": "nobody"}}


def call(identifier: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def called(*identifiers: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [call(one) for one in identifiers]}


def result(identifier: str, content: str = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": content}


def body(**fields: Any) -> bytes:
    return json.dumps({"messages": HI, **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [WEATHER, tool("a b")]}, "tools[1].function.name"),
        ({"tools": [tool("x\n")]}, "tools[0].function.name"),
        ({"tools": [tool("x" * 65)]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [tool("x", {"type": "array"})]}, "tools[0].function.parameters.type"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": NOBODY}, "tool_choice.function.name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"messages": [*HI, result("1")]}, "messages[1].tool_call_id"),
        ({"messages": [*HI, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [{**HI[0], "tool_calls": [call("1")]}, result("1")]}, "messages[0].tool_calls"),
        ({"messages": [called("1")]}, "messages[0].tool_calls"),
        ({"messages": [called("1", "2"), result("1"), *HI]}, "messages[0].tool_calls"),
        ({"messages": [called("1"), result("1"), result("1")]}, "messages[2].tool_call_id"),
    ],
)
def test_wrong_tools_and_results_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chat(body(**fields))
    assert caught.value.param == param
    assert param.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0] in caught.value.message


def test_a_conversation_with_calls_and_results_is_accepted_as_clients_send_it() -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [call("1"), call("2")], "refusal": None}
    said |= {"annotations": [], "audio": None, "function_call": None, "reasoning_content": "hm"}
    request = parse_chat(body(messages=[*HI, said, result("2"), result("1"), *HI], tools=[WEATHER]))
    assert len(request.messages or ()) == 5


def test_what_goes_to_triton_beside_token_ids_has_no_descriptions_and_no_tools_that_are_not_offered() -> None:
    sent = json.loads(encode_pretokenized(parse_chat(body(tools=[WEATHER]))))
    assert sent["tools"] == [tool("weather")]
    none = json.loads(encode_pretokenized(parse_chat(body(tools=[WEATHER], tool_choice="none"))))
    assert none["tools"] is none["tool_choice"] is None


# Templates


QWEN = (
    "{% if tools %}TOOLS{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}:{{ c.function.arguments.city }}</tool_call>"
    "{% endfor %}{% endfor %}"
)
PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
MISTRAL = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.id }}{% endfor %}"
    "{% if m.role == 'tool' %}{{ m.tool_call_id }}{% endif %}{% endfor %}{% if tools %}{% endif %}"
)
MakeBuilder = Callable[..., PromptBuilder]


@pytest.fixture
def builder(model_dir: Path, tmp_path: Path) -> MakeBuilder:
    def make(template: str, **parsers: str) -> PromptBuilder:
        copy = tmp_path / "model"
        shutil.copytree(model_dir, copy, dirs_exist_ok=True)
        (copy / "chat_template.jinja").write_text(template)
        return PromptBuilder.from_dir(copy, parsers=Parsers(**parsers))

    return make


def prompt(builder: PromptBuilder, **fields: Any) -> str:
    (text,) = builder.source(parse_chat(body(**fields))).texts
    return text


CONVERSATION = [
    *HI,
    {"role": "assistant", "content": None, "tool_calls": [call("a", '{"city": "Rome"}'), call("b", "broken")]},
    result("a", "sun"),
    result("b", "rain"),
]


def test_a_template_that_knows_tools_gets_them_and_arguments_as_objects(builder: MakeBuilder) -> None:
    text = prompt(builder(QWEN), messages=CONVERSATION, tools=[WEATHER])
    assert text.startswith(
        'TOOLS{"type": "function", "function": {"name": "weather", "description": "Tells the weather."'
    )
    assert "<tool_call>weather:Rome</tool_call>" in text
    assert text.endswith("[tool]sun[tool]rain")


def test_a_template_without_tools_is_told_them_in_the_system_message_and_results_as_the_users(
    builder: MakeBuilder,
) -> None:
    text = prompt(builder(PLAIN), messages=CONVERSATION, tools=[WEATHER])
    assert text.startswith("[system]You can call functions.")
    assert '{"name": "weather", "description": "Tells the weather."' in text
    assert '[assistant]<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n' in text
    assert text.endswith("[user]<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>"), (
        "one message, since roles may have to alternate"
    )


def test_the_system_message_that_there_is_keeps_its_words(builder: MakeBuilder) -> None:
    text = prompt(builder(PLAIN), messages=[{"role": "system", "content": "Be brief."}, *HI], tools=[WEATHER])
    assert text.startswith("[system]Be brief.\n\nYou can call functions.")
    assert text.count("[system]") == 1


def test_tools_that_may_not_be_called_are_not_told(builder: MakeBuilder) -> None:
    for template in (PLAIN, QWEN):
        assert prompt(builder(template), tools=[WEATHER], tool_choice="none") == prompt(builder(template))


def test_mistrals_templates_get_ids_of_nine_characters_that_belong_together(builder: MakeBuilder) -> None:
    text = prompt(builder(MISTRAL), messages=CONVERSATION)
    first, second = text.removeprefix("[TOOL_CALLS]")[:9], text.split("[TOOL_CALLS]")[2][:9]
    assert text == f"[TOOL_CALLS]{first}[TOOL_CALLS]{second}{first}{second}"
    assert first.isalnum() and first != second


# Which format


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (QWEN, "hermes"),
        (PLAIN, "hermes"),
        (MISTRAL, "mistral"),
        ("<|python_tag|>", "llama3_json"),
        ("[func_name1(params_name1=params_value1)]", "pythonic"),
    ],
)
def test_the_template_shows_how_calls_are_written(template: str, form: str) -> None:
    assert detect(template) == form


def test_a_parser_that_there_is_not_is_refused_with_those_that_there_are(builder: MakeBuilder) -> None:
    with pytest.raises(ValueError, match="use one of auto, hermes, llama3_json, mistral, pythonic, json"):
        tool_format("xml", None)
    with pytest.raises(ValueError, match="use one of auto, none, think, mistral"):
        builder(PLAIN, reasoning="cot")


# The plan


def plan(builder: PromptBuilder, **fields: Any) -> Plan:
    return Planner(builder, 100_000).plan(body(**{"tools": [WEATHER, tool("time")], **fields}), None, {}).plan


NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.mark.parametrize(
    ("form", "choice", "calling", "constrained"),
    [
        ("hermes", "auto", Calling(format="hermes", names=["weather", "time"]), True),
        ("hermes", "required", Calling(format="hermes", names=["weather", "time"]), True),
        ("hermes", NAMED, Calling(format="hermes", names=["time"], parallel=False), True),
        ("json", None, Calling(format="json", names=["weather", "time"]), False),
        ("pythonic", "auto", Calling(format="pythonic", names=["weather", "time"]), False),
        ("pythonic", "required", Calling(format="json", names=["weather", "time"]), True),
        ("hermes", "none", None, False),
    ],
)
def test_a_choice_decides_who_may_be_called_and_whether_by_grammar(
    builder: MakeBuilder, form: str, choice: Any, calling: Calling | None, constrained: bool
) -> None:
    fields = {} if choice is None else {"tool_choice": choice}
    made = plan(builder(PLAIN, tool=form), **fields)
    assert made.post.calling == calling
    assert (made.constraint is not None) == constrained


def test_one_call_at_most_where_calls_are_not_parallel(builder: MakeBuilder) -> None:
    made = plan(builder(PLAIN), tool_choice="required", parallel_tool_calls=False)
    assert made.post.calling is not None and not made.post.calling.parallel
    assert made.constraint is not None and "call)" not in (made.constraint.grammar or "")


def test_thoughts_are_looked_for_where_the_template_has_them_and_may_be_open(builder: MakeBuilder) -> None:
    thinking = PLAIN + "{# </think> #}"
    assert plan(builder(PLAIN)).post.reasoning is None
    assert plan(builder(thinking)).post.reasoning == Reasoning(begin="<think>", end="</think>")
    assert plan(builder(thinking + "<think>\n")).post.reasoning == Reasoning(begin="<think>", end="</think>", open=True)
    assert plan(builder(thinking, reasoning="none")).post.reasoning is None


# Grammars


def accepts(grammar: str, text: str, model_dir: Path) -> bool:
    """Whether the whole text matches, by the engine's own compiler."""
    tokenizer = LLTokenizer((model_dir / "tokenizer.json").read_text())
    assert LLMatcher.validate_grammar(grammar, tokenizer) == ""
    matcher = LLMatcher(tokenizer, grammar)
    ids = tokenizer.tokenize_str(text)
    return bool(matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting())


FUNCTIONS = {"weather": json.dumps(CITY), "ping": '{"type": "object", "additionalProperties": false}'}
PARIS, PING = ("weather", '{"city": "Paris"}'), ("ping", "{}")


@pytest.mark.parametrize("form", ["hermes", "llama3_json", "mistral", "json"])
def test_a_grammar_takes_what_the_format_writes_and_nothing_else(form: Any, model_dir: Path) -> None:
    writing = writing_of(form)
    many = call_grammar(FUNCTIONS, writing, parallel=True, special={})
    one = call_grammar(FUNCTIONS, writing, parallel=False, special={})
    assert accepts(one, writing.calls([PARIS]), model_dir)
    assert accepts(many, writing.calls([PARIS, PING]), model_dir)
    assert not accepts(one, writing.calls([PARIS, PING]), model_dir)
    assert accepts(many, writing.calls([PING] * MAX_CALLS), model_dir)
    assert not accepts(many, writing.calls([PING] * (MAX_CALLS + 1)), model_dir)
    for wrong in (("weather", "{}"), ("weather", '{"city": 1}'), ("ping", '{"a": 1}'), ("nobody", "{}")):
        assert not accepts(many, writing.calls([wrong]), model_dir)
    assert not accepts(many, "", model_dir)
    assert not accepts(many, "hello", model_dir)


@pytest.mark.parametrize("form", ["hermes", "mistral"])
def test_a_lazy_grammar_leaves_text_alone_until_a_call_begins(form: Any, model_dir: Path) -> None:
    writing = writing_of(form)
    lazy = lazy_grammar(FUNCTIONS, writing, parallel=True, special={})
    assert accepts(lazy, "", model_dir)
    assert accepts(lazy, 'Any {"text": 1} <tool_cal', model_dir)
    assert accepts(lazy, f"Let me see. {writing.calls([PARIS, PING])}", model_dir)
    assert not accepts(lazy, f"Let me see. {writing.calls([PARIS])} More.", model_dir)
    assert not accepts(lazy, f"Let me see. {writing.trigger} nothing", model_dir)


def test_thoughts_may_stand_before_calls_and_must_end_where_the_prompt_began_them(model_dir: Path) -> None:
    writing = writing_of("hermes")
    calls = writing.calls([PARIS])
    free = call_grammar(
        FUNCTIONS, writing, parallel=True, special={}, reasoning=Reasoning(begin="<think>", end="</think>")
    )
    assert accepts(free, f"<think>Hm < well.</think>\n\n{calls}", model_dir)
    assert accepts(free, calls, model_dir)
    begun = Reasoning(begin="<think>", end="</think>", open=True)
    opened = call_grammar(FUNCTIONS, writing, parallel=True, special={}, reasoning=begun)
    assert accepts(opened, f"Hm.</think>\n{calls}", model_dir)
    assert not accepts(opened, calls, model_dir)


def test_special_tokens_stand_in_grammars_by_their_ids() -> None:
    special = {"[TOOL_CALLS]": 5}
    writing = writing_of("mistral")
    assert call_grammar(FUNCTIONS, writing, parallel=True, special=special).startswith('start: <[5]> "[{')
    assert "head: TEXT <[5]>" in lazy_grammar(FUNCTIONS, writing, parallel=True, special=special)


def test_special_tokens_of_calls_are_shown_by_the_engine(builder: MakeBuilder) -> None:
    plain = builder(PLAIN)
    assert plan(plain).sampling.skip_special_tokens
    marked = PromptBuilder(plain.tokenizer, None, Dialect("mistral", special={"[TOOL_CALLS]": 5}))
    ids = Planner(marked, 100).plan(body(tools=[WEATHER]), [1, 2], {}).plan
    assert not ids.sampling.skip_special_tokens
    assert "<[5]>" in ((ids.constraint and ids.constraint.grammar) or "")
    assert Planner(marked, 100).plan(body(), [1, 2], {}).plan.sampling.skip_special_tokens


ODD = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}


def test_keywords_that_no_grammar_can_keep_are_left_out_unless_the_tool_is_strict(builder: MakeBuilder) -> None:
    for strict in (None, False):
        made = plan(builder(PLAIN), tools=[tool("odd", ODD, strict=strict)], tool_choice="required")
        assert made.constraint is not None and "uniqueItems" not in (made.constraint.grammar or "")
    with pytest.raises(
        RequestError, match=r"tools\[1\].function.parameters: .*uniqueItems.* /properties/a/uniqueItems"
    ):
        plan(builder(PLAIN), tools=[WEATHER, tool("odd", ODD, strict=True)])


def test_only_the_chosen_functions_schema_is_compiled(builder: MakeBuilder) -> None:
    odd = tool("odd", {"type": "object", "properties": {"a": {"pattern": "("}}})
    with pytest.raises(RequestError) as caught:
        plan(builder(PLAIN), tools=[odd, tool("time")])
    assert caught.value.param == "tools[0].function.parameters"
    assert plan(builder(PLAIN), tools=[odd, tool("time")], tool_choice=NAMED).constraint


def test_parameters_that_are_too_many_are_refused_before_they_are_compiled() -> None:
    long = tool("long", {"type": "object", "description": "x" * MAX_TOOLS_BYTES})
    with pytest.raises(RequestError, match="more than 262144 bytes"):
        parse_chat(body(tools=[long]))


FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {}}}}}


def test_a_form_applies_where_no_tool_is_called(builder: MakeBuilder, model_dir: Path) -> None:
    made = plan(builder(PLAIN), response_format=FORM)
    grammar = (made.constraint and made.constraint.grammar) or ""
    assert accepts(grammar, '{"a": 1}', model_dir)
    assert accepts(grammar, writing_of("hermes").calls([PARIS]), model_dir)
    assert not accepts(grammar, "text", model_dir)
    assert made.post.grammar == made.constraint
    assert plan(builder(PLAIN), response_format=FORM, tool_choice="none").constraint != made.constraint
    assert "form" not in str(plan(builder(PLAIN), response_format=FORM, tool_choice="required").constraint)


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        ("json", {"response_format": FORM}),
        ("hermes", {"structured_outputs": {"regex": "a+"}}),
    ],
)
def test_a_form_that_cannot_be_told_from_a_call_is_refused(builder: MakeBuilder, form: str, fields: Any) -> None:
    with pytest.raises(RequestError, match="leave one of them out") as caught:
        plan(builder(PLAIN, tool=form), **fields)
    assert caught.value.param in fields


@pytest.mark.parametrize("fields", [{"min_tokens": 5}, {"ignore_eos": True}])
def test_nothing_may_follow_calls_that_are_forced(builder: MakeBuilder, fields: Any) -> None:
    with pytest.raises(RequestError, match="leave it out"):
        plan(builder(PLAIN), tool_choice="required", **fields)
    assert plan(builder(PLAIN), **fields)


def test_forced_calls_are_checked_against_their_grammar_and_free_ones_are_not(builder: MakeBuilder) -> None:
    forced = plan(builder(PLAIN), tool_choice="required")
    assert forced.post.grammar == forced.constraint
    assert plan(builder(PLAIN)).post.grammar is None


def test_an_answer_of_a_form_has_no_thoughts(builder: MakeBuilder) -> None:
    thinking = builder(PLAIN + "{# </think> #}<think>")
    assert plan(thinking).post.reasoning is not None
    assert plan(thinking, tool_choice="required").post.reasoning is not None
    assert plan(thinking, response_format=FORM, tool_choice="none").post.reasoning is None
