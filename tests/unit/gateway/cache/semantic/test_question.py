"""What is stored of a question."""

import msgspec
import numpy as np
import pytest

from gateway.cache.semantic.question import Question, decode_question, encode_question, unit

ASKED = Question("Why?", "p")
DIMENSIONS = 384


def test_half_the_bytes_change_similarities_by_little() -> None:
    vectors = [unit(row) for row in np.random.default_rng(1).standard_normal((40, DIMENSIONS)).astype(np.float32)]
    near = [unit(one + 0.3 * other) for one, other in zip(vectors, vectors[1:] + vectors[:1], strict=True)]
    for one, other in zip(vectors, near, strict=True):
        stored = encode_question(ASKED, other, 7.0)
        question, again, until = decode_question(stored)
        assert (question, until) == (ASKED, 7.0)
        assert one @ again == pytest.approx(float(one @ other), abs=0.0003)
        assert len(stored) < 2 * DIMENSIONS + 40


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_without_a_direction_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="without a direction"):
        decode_question(encode_question(ASKED, np.full(3, value, dtype=np.float32), 7.0))


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_question(b"nonsense")
