"""What routers remember, for how long, and how much of it."""

import pytest

from gateway.accounting.outcome import Outcome
from gateway.choosing.memory import Conversations, Hardest, Paces
from gateway.choosing.rules import Asked, Rules
from gateway.choosing.spec import Rule
from gateway.core.call import Call, Model
from gateway.core.limit import TimeLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_conversation_is_held_until_it_has_been_silent_for_long() -> None:
    clock = Clock()
    held = Conversations(10, clock)
    held.keep(b"a", "small")
    clock.now += 9
    assert (held.model_of(b"a", 10), held.model_of(b"b", 10)) == ("small", None)
    held.keep(b"a", "small")
    clock.now += 9
    assert held.model_of(b"a", 10) == "small"
    clock.now += 1
    assert held.model_of(b"a", 10) is None


def test_so_many_conversations_are_remembered_and_the_longest_unused_goes() -> None:
    held = Conversations(2, Clock())
    for key in (b"a", b"b", b"a", b"c"):
        held.keep(key, "small")
    assert [held.model_of(key, 10) for key in (b"a", b"b", b"c")] == ["small", None, "small"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_hardest_share_is_about_that_share(share: float) -> None:
    hardest = Hardest(share, most=200)
    scores = [(number * 0.618034) % 1 for number in range(2000)]
    assert sum(map(hardest.includes, scores)) / 2000 == pytest.approx(share, abs=0.03)


def test_the_share_follows_when_requests_become_harder() -> None:
    hardest = Hardest(0.5, most=100)
    for number in range(200):
        hardest.includes(number % 100 / 1000)
    later = [hardest.includes(0.8 + number % 100 / 1000) for number in range(400)]
    assert all(later[:40])
    assert sum(later[200:]) / 200 == pytest.approx(0.5, abs=0.05)


def answered(first_token_ms: float, per_token_s: float, tokens: int) -> Call:
    call = Call(id="r", uid="u", route="/", limit=TimeLimit(9), model=Model("m", "generate", 9, 0))
    call.stages["first_token"] = first_token_ms
    call.first_token_at, call.tokens_seen = 50.0, tokens
    call.last_token_at = 50.0 + per_token_s * (tokens - 1)
    return call


def test_the_expected_time_is_the_first_token_and_a_usual_answer() -> None:
    paces = Paces(Clock())
    assert paces.expected_ms("m", None) is None
    paces.record(answered(200, 0.01, 101), Outcome(200), 1.0)
    assert paces.expected_ms("m", None) == pytest.approx(200 + 10 * 101)
    assert paces.expected_ms("m", 10) == pytest.approx(200 + 10 * 10)


def test_what_failed_or_gave_one_token_tells_no_pace_and_an_old_one_is_forgotten() -> None:
    clock = Clock()
    paces = Paces(clock)
    paces.record(answered(200, 0.01, 100), Outcome(502), 1.0)
    paces.record(answered(200, 0.01, 1), Outcome(200), 1.0)
    assert paces.expected_ms("m", None) is None
    paces.record(answered(200, 0.01, 100), Outcome(200), 1.0)
    clock.now += 601
    assert paces.expected_ms("m", None) is None


def test_the_average_moves_towards_what_is_measured() -> None:
    paces = Paces(Clock())
    paces.record(answered(100, 0.01, 11), Outcome(200), 1.0)
    before = paces.expected_ms("m", 1)
    for _ in range(60):
        paces.record(answered(500, 0.01, 11), Outcome(200), 1.0)
    assert (before, paces.expected_ms("m", 1)) == (pytest.approx(110), pytest.approx(510, abs=3))


def first(asked: Asked, *rules: Rule, seconds: float = 1.0) -> str | None:
    found = Rules(rules, seconds).first(asked)
    return None if found is None else found.name


ASKED = Asked("Prove that 2 is prime", "acme", tools=False)


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({}, True),
        ({"pattern": r"(?i)\bprove\b"}, True),
        ({"pattern": "^prove"}, False),
        ({"min_chars": 21}, True),
        ({"min_chars": 22}, False),
        ({"max_chars": 21}, True),
        ({"max_chars": 20}, False),
        ({"tenants": ("acme", "b")}, True),
        ({"tenants": ("b",)}, False),
        ({"tools": False}, True),
        ({"tools": True}, False),
        ({"pattern": "Prove", "tenants": ("b",)}, False),
    ],
)
def test_a_rule_holds_where_all_its_conditions_do(conditions: dict[str, object], holds: bool) -> None:
    rule = Rule(name="r", use="m", **conditions)  # type: ignore[arg-type]
    assert (first(ASKED, rule) == "r") == holds


def test_the_first_rule_that_holds_decides() -> None:
    rules = [Rule(name=name, use="m", pattern=pattern) for name, pattern in (("a", "x"), ("b", "2"), ("c", "prime"))]
    assert first(ASKED, *rules) == "b"


def test_a_pattern_that_searches_for_ever_does_not_match() -> None:
    rule = Rule(name="slow", use="m", pattern=r"^(\w+\s?)*$")
    asked = Asked("word " * 40 + "!", "acme", tools=False)
    assert first(asked, rule, seconds=0.02) is None
