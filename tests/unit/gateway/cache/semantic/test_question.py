"""Which questions may have the same answer, and what is stored of them."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.policy import Terms
from gateway.cache.semantic.question import Question, decode_question, encode_question, owner_tag, question_in, unit
from gateway.cache.settings import CacheSettings
from gateway.core.call import Caller, Model
from gateway.core.freshness import ANY_AGE
from gateway.core.job import GenerationJob, Prompt, Vectors
from python_backends.preprocessing.schema import ChatRequest

ASKED = Question("Why?", "p")
DIMENSIONS = 384
Said = dict[str, Any]


def stored(vector: Vectors) -> list[bytes | None]:
    """As Valkey gives it to whoever reads what was asked."""
    given = encode_question("acme", ASKED, vector, 7.0)
    fields = dict(zip(given[::2], given[1::2], strict=True))
    values = [fields[name] for name in ("partition", "vector", "text", "until")]
    return [value if isinstance(value, bytes) else str(value).encode() for value in values]


def test_a_question_is_read_as_it_was_stored() -> None:
    vector = unit(np.random.default_rng(1).standard_normal(DIMENSIONS).astype(np.float32))
    question, again, until = decode_question(stored(vector))
    assert (question, until) == (ASKED, 7.0)
    assert vector @ again == pytest.approx(1)
    assert len(stored(vector)[1] or b"") == 4 * DIMENSIONS


def test_a_tenant_is_named_by_letters_and_digits_alone() -> None:
    tags = {owner_tag(owner) for owner in ("acme", "acme}|{", "@*", "")}
    assert len(tags) == 4
    assert all(tag.isascii() and tag.isalnum() and tag[0].isalpha() for tag in tags)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_without_a_direction_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="without a direction"):
        decode_question(stored(np.full(3, value, dtype=np.float32)))


TURN = st.tuples(
    st.sampled_from(["system", "user", "assistant", "tool"]), st.sampled_from(["a", "b", "ab", None, ["a"]])
)
TOOL = st.sampled_from(["weather", "clock"])
BODIES = st.fixed_dictionaries(
    {"turns": st.lists(TURN, max_size=3), "text": st.sampled_from(["Why?", "How?"])},
    optional={
        "tools": st.lists(TOOL, min_size=1, max_size=2),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "parallel_tool_calls": st.booleans(),
        "temperature": st.sampled_from([0.0, 0.5]),
        "seed": st.integers(0, 1),
        "max_tokens": st.integers(1, 2),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "user": st.sampled_from(["x", "y"]),
    },
)
# It changes no answer.
SAME = ("text", "user")


@settings(max_examples=200)
@given(BODIES, BODIES, st.booleans())
def test_nothing_but_the_words_of_the_last_turn_may_differ(one: Said, other: Said, alike: bool) -> None:
    """`alike`: so that it is not only compared what differs anyhow."""
    other = {**one, **{name: other[name] for name in SAME if name in other}} if alike else other
    rest, others = ({name: value for name, value in said.items() if name not in SAME} for said in (one, other))
    left, right = asked(one), asked(other)
    assert (left.partition == right.partition) == (rest == others)
    assert (left.text, right.text) == (one["text"], other["text"])


def asked(said: Said) -> Question:
    *turns, last = [*said["turns"], ("user", said["text"])]
    messages = [
        {"role": role, "content": [{"type": "text", "text": part} for part in text] if isinstance(text, list) else text}
        for role, text in (*turns, last)
    ]
    tools = [{"type": "function", "function": {"name": name}} for name in said.get("tools", ())]
    body = {name: value for name, value in said.items() if name not in ("turns", "text", "tools")}
    request = msgspec.convert({**body, "messages": messages, "tools": tools or None}, ChatRequest)
    job = GenerationJob(request, [Prompt([1], 8)])
    terms = Terms(ANY_AGE, 1.0, shared=True, semantic=True, turns=True, tools=True)
    caller, model = Caller("k", "acme", frozenset()), Model("tiny", "generate", 256, 0)
    found = question_in(job, caller, model, "1", settings=CacheSettings(), terms=terms, encoder="e", day="d")
    assert isinstance(found, Question)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        [b"p", b"\x00" * 7, b"Why?", b"7"],
        [b"p", b"\x00\x00\x80?", b"\xff", b"7"],
        [b"p", b"\x00\x00\x80?", b"Why?", b"soon"],
        [b"p", None, b"Why?", b"7"],
    ],
    ids=["vector", "text", "until", "missing"],
)
def test_what_is_no_question_is_refused(fields: list[bytes | None]) -> None:
    with pytest.raises(ValueError):
        decode_question(fields)
