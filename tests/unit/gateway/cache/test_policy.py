"""Which requests are answered from the cache, and how long their answers are kept."""

import pytest

from gateway.cache.policy import Terms, deterministic, mode_of, terms_of
from gateway.cache.settings import CacheSettings
from gateway.core.call import Caller
from gateway.core.freshness import ANY_AGE, Freshness
from gateway.core.identity import SERVERS_CACHE, CacheMode, CachePolicy
from python_backends.preprocessing.schema import ChatRequest

GREEDY = ChatRequest(temperature=0.0)
SAMPLED = ChatRequest()


def caller(key: CachePolicy = SERVERS_CACHE, tenant: CachePolicy = SERVERS_CACHE) -> Caller:
    return Caller("k", "acme", frozenset(), cache=key, tenant_cache=tenant)


def ttl(freshness: Freshness = ANY_AGE, who: Caller | None = None, share: float = 0.5) -> float:
    settings = CacheSettings(ttl_s=100, max_ttl_s=1000)
    terms = terms_of(settings, who or caller(), freshness, GREEDY, lambda: share)
    assert isinstance(terms, Terms)
    return terms.ttl_s


@pytest.mark.parametrize(
    ("server", "tenant", "key", "expected"),
    [
        ("exact", None, None, "exact"),
        ("off", None, None, "off"),
        ("off", "exact", None, "exact"),
        ("off", None, "exact", "exact"),
        ("exact", "off", None, "off"),
        ("exact", "off", "exact", "off"),
        ("exact", "exact", "off", "off"),
        ("exact", "semantic", None, "semantic"),
        ("exact", "semantic", "exact", "exact"),
        ("exact", "exact", "semantic", "exact"),
        ("exact", None, "semantic", "semantic"),
    ],
)
def test_a_key_gets_no_more_than_its_tenant(
    server: CacheMode, tenant: CacheMode | None, key: CacheMode | None, expected: CacheMode
) -> None:
    who = caller(CachePolicy(mode=key), CachePolicy(mode=tenant))
    assert mode_of(CacheSettings(mode=server), who) == expected


@pytest.mark.parametrize(
    ("body", "certain"),
    [
        (ChatRequest(temperature=0.0), True),
        (ChatRequest(temperature=0.7, seed=0), True),
        (ChatRequest(temperature=0.7), False),
        (ChatRequest(), False),
        (ChatRequest(top_k=1), False),
    ],
)
def test_only_greedy_and_seeded_requests_are_certain(body: ChatRequest, certain: bool) -> None:
    assert deterministic(body) == certain


@pytest.mark.parametrize(
    ("key", "tenant", "allowed"),
    [(None, None, False), (True, None, True), (None, True, True), (True, False, False), (False, True, False)],
)
def test_sampled_answers_are_kept_only_where_that_is_allowed(
    key: bool | None, tenant: bool | None, allowed: bool
) -> None:
    who = caller(CachePolicy(sampled=key), CachePolicy(sampled=tenant))
    terms = terms_of(CacheSettings(), who, ANY_AGE, SAMPLED, lambda: 0.5)
    assert terms == "sampled" if not allowed else isinstance(terms, Terms) and not terms.shared


@pytest.mark.parametrize("name", ["turns", "tools"])
@pytest.mark.parametrize(
    ("key", "tenant", "allowed"),
    [(None, None, False), (True, None, True), (None, True, True), (True, False, False), (False, True, False)],
)
def test_conversations_and_tools_in_other_words_are_for_those_who_chose_them(
    name: str, key: bool | None, tenant: bool | None, allowed: bool
) -> None:
    who = caller(CachePolicy(mode="semantic", **{name: key}), CachePolicy(**{name: tenant}))
    terms = terms_of(CacheSettings(), who, ANY_AGE, GREEDY, lambda: 0.5)
    assert isinstance(terms, Terms)
    assert terms.semantic
    assert {"turns": terms.turns, "tools": terms.tools} == {"turns": False, "tools": False, name: allowed}


@pytest.mark.parametrize(
    "said", [(Freshness(keep=False), GREEDY), (ANY_AGE, ChatRequest(temperature=0.0, store=False))]
)
def test_what_must_not_be_stored_is_neither_looked_up(said: tuple[Freshness, ChatRequest]) -> None:
    freshness, body = said
    assert terms_of(CacheSettings(), caller(), freshness, body, lambda: 0.5) == "no_store"


def test_a_new_answer_that_was_asked_for_is_not_shared() -> None:
    terms = terms_of(CacheSettings(), caller(), Freshness(read=False), GREEDY, lambda: 0.5)
    assert isinstance(terms, Terms)
    assert not terms.shared


def test_what_was_stored_together_expires_apart() -> None:
    assert [ttl(share=share) for share in (0, 0.5, 1)] == pytest.approx([90, 100, 110])


@pytest.mark.parametrize(
    ("asked", "key", "tenant", "expected"),
    [(None, None, None, 100), (500, None, None, 500), (5000, None, None, 1000), (500, None, 60, 60), (500, 30, 60, 30)],
)
def test_clients_choose_within_bounds(
    asked: float | None, key: int | None, tenant: int | None, expected: float
) -> None:
    who = caller(CachePolicy(max_ttl_s=key), CachePolicy(max_ttl_s=tenant))
    assert ttl(Freshness(ttl_s=asked), who) == expected
