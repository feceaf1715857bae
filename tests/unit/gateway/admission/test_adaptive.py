"""The limit that finds out how many tokens may run."""

from collections.abc import Callable

import pytest

from gateway.admission.adaptive import AdaptiveLimit, Speed
from gateway.core.call import Call
from gateway.core.limit import TimeLimit

LEAST, MOST = 1_000, 100_000


def settled(limit: AdaptiveLimit, knee: float, answers: int, load: Callable[[int], float] = float) -> list[int]:
    """An engine that is as fast up to `knee` tokens and slower in proportion beyond; `load`: tokens that run."""
    seen = []
    for _ in range(answers):
        running = load(limit.limit)
        slower = max(1.0, running / knee)
        limit.observe(Speed(0.001 * slower, 0.02 * slower), int(running))
        seen.append(limit.limit)
    return seen


def test_it_starts_with_everything_and_stays_there_while_the_engine_keeps_up() -> None:
    limit = AdaptiveLimit(LEAST, MOST)
    assert settled(limit, knee=10 * MOST, answers=500)[-1] == MOST


def test_it_shrinks_when_the_engine_slows_down_and_grows_again_with_it() -> None:
    limit = AdaptiveLimit(LEAST, MOST)
    settled(limit, knee=10 * MOST, answers=600)
    slowed = settled(limit, knee=20_000, answers=300)
    assert 20_000 <= slowed[-1] <= 40_000
    assert settled(limit, knee=10 * MOST, answers=2000)[-1] == MOST


def test_it_does_not_swing_once_it_has_settled() -> None:
    limit = AdaptiveLimit(LEAST, MOST)
    settled(limit, knee=10 * MOST, answers=600)
    seen = settled(limit, knee=20_000, answers=400)[-150:]
    assert max(seen) / min(seen) < 1.3


def test_an_idle_gateway_teaches_nothing() -> None:
    limit = AdaptiveLimit(LEAST, MOST)
    settled(limit, knee=10 * MOST, answers=600)
    assert settled(limit, knee=1_000, answers=300, load=lambda _: 30_000)[-1] == MOST


def test_it_never_leaves_its_bounds() -> None:
    limit = AdaptiveLimit(LEAST, MOST)
    settled(limit, knee=10 * MOST, answers=100)
    assert min(settled(limit, knee=1.0, answers=400)) >= LEAST


def test_an_answer_ten_times_as_long_is_not_slower() -> None:
    speeds = [Speed.of(answered(tokens), started=100.0) for tokens in (10, 100)]
    assert speeds[0].per_output_token == pytest.approx(speeds[1].per_output_token)
    assert speeds[0].per_prompt_token == pytest.approx(0.5 / 40)


def test_cached_tokens_and_answers_without_tokens_say_nothing() -> None:
    call = answered(1)
    call.usage.cached = call.usage.prompt
    assert Speed.of(call, started=100.0) == Speed(None, None)
    assert Speed.of(Call("r", "u", "/", TimeLimit(60)), started=0.0) == Speed(None, None)


def answered(tokens: int) -> Call:
    """First token half a second after its turn began, then one each 20 ms; 10 of its 50 tokens were cached."""
    call = Call("r", "u", "/", TimeLimit(60), first_token_at=100.5, tokens_seen=tokens)
    call.last_token_at = 100.5 + 0.02 * (tokens - 1)
    call.usage.add(50, tokens, 10)
    return call
