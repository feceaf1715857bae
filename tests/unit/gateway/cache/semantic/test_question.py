"""What is stored of a question."""

import numpy as np
import pytest

from gateway.cache.semantic.question import Question, decode_question, encode_question, owner_tag, unit
from gateway.core.job import Vectors

ASKED = Question("Why?", "p")
DIMENSIONS = 384


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
