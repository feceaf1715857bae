"""Each class of the error tree has a status, a type and a code of its own, and one rendering."""

import json
from collections.abc import Iterator

import pytest

from gateway import errors
from gateway.api.responses import error_response
from gateway.core.call import Call
from gateway.core.limit import TimeLimit
from gateway.errors import GatewayError


def tree(root: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_renders_all_four_members(kind: type[GatewayError]) -> None:
    call = Call(id="r-1", uid="u", route="/", limit=TimeLimit(1))
    response = error_response(call, kind("why", param="field"))
    assert response.status == kind.status
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {
        "error": {"message": "why", "type": kind.type, "param": "field", "code": kind.code}
    }
    assert response.headers["x-request-id"] == "r-1"
    assert ("x-should-retry" in response.headers) == (not kind.retryable)


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in tree()]
    assert len(codes) == len(set(codes))


def test_the_drawing_names_every_class_with_its_status_and_code() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line or "GatewayError " in line]
    assert len(drawn) == len(list(tree()))
    for kind in tree():
        (line,) = [line for line in drawn if f" {kind.__name__} " in line]
        assert str(kind.status) in line
        assert kind.code in line


def test_retry_after_is_rounded_up_to_seconds_and_exact_in_milliseconds() -> None:
    call = Call(id="r-1", uid="u", route="/", limit=TimeLimit(1))
    response = error_response(call, errors.Overloaded("busy", retry_after=0.25))
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("1", "250")
