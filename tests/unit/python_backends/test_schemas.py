"""Many schemas: what is decoded under them validates by another implementation, and what cannot be kept is refused."""

import json
import random
from typing import Any

import jsonschema
import msgspec
import pytest
from llguidance import LLMatcher

from python_backends.grammar.compiler import Compiler
from python_backends.grammar.forms import byte_tokenizer, guidance_text
from python_backends.messages import Constraint, Event, Postprocessing, Tokens
from python_backends.postprocessing.closing import closing
from python_backends.postprocessing.stream import DeltaWriter
from python_backends.preprocessing.errors import RequestError
from tests.support.schemas import SCHEMAS, UNSUPPORTED

COMPILER, BYTES = Compiler(), byte_tokenizer()
WILD_BYTES = 40
ANSWERS = 10


def compiled(schema: Any) -> Constraint:
    return COMPILER.check(Constraint(json_schema=json.dumps(schema)), "schema")


def decoded(constraint: Constraint, chance: random.Random) -> str:
    """As an engine would with a model that knows nothing: any byte that is allowed, until the answer is to end."""
    matcher, written = LLMatcher(BYTES, guidance_text(constraint)), b""
    while len(written) < WILD_BYTES and not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]
        byte = chance.choice(allowed)
        assert matcher.consume_token(byte)
        written += bytes([byte])
    end = closing(matcher, written)
    assert end is not None, written
    return (written + end).decode()


def judged(constraint: Constraint, text: str) -> str:
    event = Event(
        stream=1, post=Postprocessing(grammar=constraint), finish="stop", usage=Tokens(prompt=1, completion=1)
    )
    outcome: str = json.loads(DeltaWriter().write(1, text.encode(), msgspec.json.encode(event)))["grammar"]
    return outcome


def test_there_are_many() -> None:
    assert len(SCHEMAS) >= 50


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_whole_answer_validates(name: str) -> None:
    constraint, chance = compiled(SCHEMAS[name]), random.Random(name)
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    checker = jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=formats)
    for _ in range(ANSWERS):
        text = decoded(constraint, chance)
        checker.validate(json.loads(text))
        assert judged(constraint, text) == "valid"


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_kept_is_refused_up_front(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        compiled({"type": "object", "properties": {"inner": UNSUPPORTED[name]}, "required": ["inner"]})
    assert caught.value.code in ("unsupported_schema", "grammar_too_complex")
