"""What makes two requests the same."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.keys import NOT_IN_KEY, Place, place_of
from gateway.cache.settings import Scope
from gateway.core.call import AdapterRef, Caller, Model
from gateway.core.job import GenerationJob, Prompt
from python_backends.preprocessing.schema import ChatRequest, CompletionRequest

TINY = Model("tiny", "generate", 256, 0)
# Every parameter stands here or in NOT_IN_KEY. A new one changes answers unless somebody is sure that it does not.
IN_KEY = {
    "chat_template_kwargs",
    "documents",
    "echo",
    "frequency_penalty",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "min_p",
    "min_tokens",
    "n",
    "on_length",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "regex",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "structured_outputs",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
}


def place(
    *prompts: Prompt,
    tenant: str = "acme",
    key_id: str = "k1",
    model: Model = TINY,
    identity: str = "1",
    scope: Scope = "tenant",
    epoch: str = "",
    kind: type[ChatRequest] | type[CompletionRequest] = ChatRequest,
    **body: Any,
) -> Place:
    caller = Caller(key_id, tenant, frozenset())
    job = GenerationJob(kind(**body), list(prompts) or [Prompt([1, 2], 9)])
    return place_of(job, caller, model, identity, scope=scope, epoch=epoch)


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_every_parameter_is_classified(kind: type[msgspec.Struct]) -> None:
    """If this fails, a parameter is new: add it to IN_KEY above, unless no answer ever depends on it."""
    assert set(kind.__struct_fields__) - IN_KEY - NOT_IN_KEY == set()


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "other"},
        {"identity": "2"},
        {"epoch": "new weights"},
        {"model": Model("large", "generate", 256, 0)},
        {"model": Model("tiny", "generate", 256, 0, adapter=AdapterRef("tiny", "1", "base", "/", "abc"))},
        {"model": Model("tiny", "generate", 256, 0, adapter=AdapterRef("tiny", "1", "base", "/", "abd"))},
        {"kind": CompletionRequest},
        {"temperature": 0.0},
        {"temperature": 0.5},
        {"seed": 1},
        {"stop": "x"},
        {"stop": ["x", "y"]},
        {"metadata": {"script_fail_at": "1"}},
    ],
    ids=str,
)
def test_whatever_can_change_an_answer_changes_its_key(other: dict[str, Any]) -> None:
    assert place(**other).name != place().name


def test_what_cannot_change_an_answer_leaves_its_key() -> None:
    said: dict[str, Any] = {"user": "u", "priority": "batch", "stream": True, "metadata": {"a": "b"}}
    assert place(**said) == place()


def test_a_limit_of_tokens_counts_as_what_it_comes_to() -> None:
    assert place(Prompt([1, 2], 5), max_tokens=5) == place(Prompt([1, 2], 5), max_completion_tokens=5)
    assert place(Prompt([1, 2], 5)) != place(Prompt([1, 2], 6))


def test_scopes_say_who_shares_answers() -> None:
    assert place(key_id="k1") == place(key_id="k2")
    assert place(key_id="k1", scope="key") != place(key_id="k2", scope="key")
    assert place(tenant="a", scope="shared") == place(tenant="b", scope="shared")
    assert place(scope="shared") != place(scope="tenant")


PROMPTS = st.lists(
    st.builds(Prompt, st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(1, 2)), min_size=1, max_size=3
)
ASKED = st.tuples(
    st.sampled_from(["a", "b", "a\nk", "ab"]),
    st.sampled_from(["k", "k\nk", "1"]),
    st.sampled_from(["1", "2", "1/x"]),
    st.sampled_from(["", "1"]),
    PROMPTS,
)


@given(st.lists(ASKED, min_size=2, max_size=8), st.sampled_from(["tenant", "key"]))
def test_no_two_different_requests_share_a_key(asked: list[Any], scope: Scope) -> None:
    """Nor two tenants, or with the scope `key` two keys."""
    seen: dict[Place, Any] = {}
    for tenant, key_id, identity, epoch, prompts in asked:
        found = place(*prompts, tenant=tenant, key_id=key_id, identity=identity, epoch=epoch, scope=scope)
        what = (tenant, key_id if scope == "key" else None, identity, epoch, prompts)
        assert seen.setdefault(found, what) == what
