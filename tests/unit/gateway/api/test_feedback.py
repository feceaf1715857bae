"""`POST /v1/feedback` of a whole gateway."""

from typing import Any

import pytest

from gateway.api.keys import METRICS
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from tests.unit.gateway.conftest import Gateway

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


async def chat(gateway: Gateway, request_id: str) -> None:
    status, _ = await gateway.ask("/v1/chat/completions", CHAT, x_request_id=request_id)
    assert status == 200


async def test_an_answer_is_rated_as_soon_as_it_has_come(gateway: Gateway) -> None:
    await chat(gateway, "one")
    status, answer = await gateway.ask("/v1/feedback", {"request_id": "one", "label": "good", "comment": "aye"})
    assert (status, answer) == (
        200,
        {"object": "feedback", "request_id": "one", "model": "tiny", "score": 1.0, "outcome": "new"},
    )
    seen = gateway.app[METRICS].registry.get_sample_value
    assert seen("trireme_feedback_total", {"model": "tiny", "arm": "stable"}) == 1.0


async def test_another_tenant_learns_nothing_of_a_request(
    gateway: Gateway, store: KeyStore, tenants: TenantStore
) -> None:
    await chat(gateway, "one")
    await tenants.create("ajax")
    _, key = await store.create(tenant="ajax", name="web", scopes=frozenset({"inference"}))
    foreign, unknown = [
        await gateway.ask("/v1/feedback", {"request_id": name, "score": 1}, authorization=f"Bearer {key}")
        for name in ("one", "two")
    ]
    assert foreign[0] == unknown[0] == 404
    assert str(foreign[1]).replace("'one'", "'two'") == str(unknown[1])


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"score": 1}, "request_id", "required"),
        ({"request_id": "one"}, "score", "send one of score"),
        ({"request_id": "one", "score": 1, "label": "bad"}, "score", "send one of score"),
        ({"request_id": "one", "score": 1.5}, "score", "1"),
        ({"request_id": "one", "score": True}, "score", ""),
        ({"request_id": "one", "label": "superb"}, "label", "superb"),
        ({"request_id": "o/ne", "score": 1}, "request_id", ""),
        ({"request_id": "one", "score": 1, "comment": "x" * 2001}, "comment", "2000"),
        ({"request_id": "one", "score": 1, "stars": 5}, "stars", "stars"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_wrong_feedback_is_refused_by_name(gateway: Gateway, body: Any, param: str, says: str) -> None:
    status, answer = await gateway.ask("/v1/feedback", body)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert says in answer["error"]["message"]


async def test_comments_are_not_logged(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    await chat(gateway, "one")
    with caplog.at_level("DEBUG"):
        await gateway.ask("/v1/feedback", {"request_id": "one", "score": 1, "comment": "my secret opinion"})
    assert "secret opinion" not in caplog.text
    assert "secret opinion" not in "".join(str(vars(record)) for record in caplog.records)
