"""Words for what callers are allowed."""

import msgspec
import pytest

from gateway.core.identity import Limits, PriorityClass, Quotas, at_most


@pytest.mark.parametrize(
    ("asked", "most", "given"),
    [
        ("interactive", "batch", "batch"),
        ("batch", "interactive", "batch"),
        ("standard", "standard", "standard"),
        ("interactive", "standard", "standard"),
    ],
)
def test_nobody_is_more_urgent_than_their_key_allows(
    asked: PriorityClass, most: PriorityClass, given: PriorityClass
) -> None:
    assert at_most(asked, most) == given


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Limits, b'{"requests_per_minute": 0}'),
        (Limits, b'{"tokens_per_minute": 1.5}'),
        (Limits, b'{"requests_per_minutes": 5}'),
        (Quotas, b'{"cost_per_day": 0}'),
        (Quotas, b'{"tokens_per_month": -1}'),
    ],
)
def test_limits_that_make_no_sense_are_refused(kind: type, body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=kind)
