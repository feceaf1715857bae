"""Gateway, `preprocess`, the engine and `postprocess` mean the same by a form of answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from python_backends.grammar.checker import GrammarChecker
from python_backends.llm.vllm_engine import prepare_process, sampling_params
from python_backends.messages import Constraint, Plan, Sampling
from python_backends.preprocessing.constraints import wanted_constraint
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.parsing import encode_pretokenized, parse_chat
from python_backends.preprocessing.plan import Planner
from python_backends.preprocessing.prompts import PromptBuilder
from tests.support.schemas import SCHEMAS, UNSUPPORTED

CONTEXT = 4096
MESSAGES = [{"role": "user", "content": "hi"}]
OTHERS: dict[str, dict[str, Any]] = {
    "regex": {"regex": r"\d{3}-\d{4}"},
    "choice": {"choice": ["yes", "naïve 🛶", 'a "b"']},
    "lark": {"grammar": 'start: "a" /[0-9]+/'},
    "gbnf": {"grammar": 'root ::= "a" [0-9]+'},
    "any object": {"json_object": True},
}
BODIES: dict[str, dict[str, Any]] = {
    **{name: {"structured_outputs": {"json": schema}} for name, schema in (SCHEMAS | UNSUPPORTED).items()},
    **{name: {"structured_outputs": given} for name, given in OTHERS.items()},
    "a broken regex": {"structured_outputs": {"regex": "("}},
    "a broken grammar": {"structured_outputs": {"grammar": "start: nowhere"}},
    "not strict": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": UNSUPPORTED["contains"]}}
    },
}


@pytest.fixture(scope="module")
def prompts(generation_model: Path) -> PromptBuilder:
    return PromptBuilder.from_dir(generation_model)


@pytest.fixture(scope="module")
def checker(generation_model: Path) -> Iterator[GrammarChecker]:
    checker = GrammarChecker(generation_model)
    yield checker
    checker.stop()


@pytest.mark.parametrize("name", BODIES)
def test_gateway_and_preprocess_agree(prompts: PromptBuilder, checker: GrammarChecker, name: str) -> None:
    """The gateway checks what the client wrote, `preprocess` what the gateway sends."""
    request = parse_chat(json.dumps({"messages": MESSAGES, **BODIES[name]}))
    wanted = wanted_constraint(request)
    assert wanted is not None
    in_gateway = verdict(lambda: checker.check(wanted.constraint, wanted.param))
    planner = Planner(prompts, CONTEXT, checker)
    in_triton = verdict(lambda: planner.plan(encode_pretokenized(request), [1], {}).plan.constraint)
    assert in_gateway == in_triton
    assert isinstance(in_gateway, tuple) == (name in UNSUPPORTED or name.startswith("a broken"))


def verdict(ask: Any) -> Any:
    try:
        return ask()
    except RequestError as error:
        return error.message, error.param, error.code


@pytest.fixture(scope="module")
def engine_check(generation_model: Path) -> Any:
    """What vLLM does with a request's form before it starts, and the compiler that it uses then."""
    prepare_process(eager=True)
    from transformers import AutoTokenizer
    from vllm.config.structured_outputs import StructuredOutputsConfig
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend, validate_guidance_grammar

    tokenizer: Any = AutoTokenizer.from_pretrained(generation_model, local_files_only=True)
    repository = Path(__file__).parents[2] / "model_repository" / "vllm" / "1" / "engine.json"
    declared = json.loads(repository.read_text("utf-8"))["args"]["structured_outputs_config"]
    config = StructuredOutputsConfig(**declared)
    assert config.backend == "guidance"
    ours = type("Config", (), {"structured_outputs_config": config})()
    backend = GuidanceBackend(ours, tokenizer=tokenizer, vocab_size=len(tokenizer))

    def check(constraint: Constraint) -> Any:
        from vllm.v1.structured_output.request import get_structured_output_key

        params = sampling_params(Plan(sampling=Sampling(max_tokens=1), constraint=constraint))
        validate_guidance_grammar(params)
        kind, text = get_structured_output_key(params.structured_outputs)
        return backend.compile_grammar(kind, text), tokenizer

    return check


@pytest.mark.parametrize("name", [*SCHEMAS, *OTHERS])
def test_the_engine_compiles_what_was_let_through(checker: GrammarChecker, engine_check: Any, name: str) -> None:
    request = parse_chat(json.dumps({"messages": MESSAGES, **BODIES[name]}))
    wanted = wanted_constraint(request)
    assert wanted is not None
    grammar, _ = engine_check(checker.check(wanted.constraint, wanted.param))
    assert grammar.ll_matcher.get_error() == ""


def test_the_engine_writes_blanks_only_where_one_may_be(checker: GrammarChecker, engine_check: Any) -> None:
    ready = checker.check(Constraint(json_object=True), "response_format")
    for text, good in (('{"a": 1, "b": [1, 2]}', True), ('{"a":  1', False), ("{\n", False), ("{ ", False)):
        grammar, tokenizer = engine_check(ready)
        ids = tokenizer.encode(text)
        assert (grammar.ll_matcher.try_consume_tokens(ids) == len(ids)) == good, text
