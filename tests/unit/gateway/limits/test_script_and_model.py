"""The script in a real Valkey and the plain Python do the same, whatever happens in whatever order.

Both are given the same time: the script takes it as an argument and asks the server only when there is none.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from gateway.limits.buckets import Buckets, Reservation, State
from gateway.limits.terms import MINUTE_MS, Ask, Scope, Settlement, Verdict
from tests.unit.gateway.limits.terms import BEFORE_MONTH_END, TTL_MS, ScriptedBuckets, ask, scope

KEY = scope(
    "key",
    requests_per_minute=7,
    request_burst=3,
    tokens_per_minute=1000,
    token_burst=400,
    concurrent_requests=2,
    tokens_per_day=3000,
    cost_per_month=9000,
)
TENANT = scope(
    "tenant",
    requests_per_minute=11,
    tokens_per_minute=1300,
    concurrent_requests=4,
    tokens_per_month=5000,
    cost_per_day=700,
)
SCOPES = st.sampled_from([(KEY, TENANT), (KEY,), (TENANT,)])
JUMPS_MS = st.sampled_from([1, 17, 999, 8571, 8572, TTL_MS - 1, TTL_MS, 60_000, 3_600_000, 86_400_000, 31 * 86_400_000])


class ScriptAndModel(RuleBasedStateMachine):
    valkey: Redis

    def __init__(self) -> None:
        super().__init__()
        self.valkey.flushdb()
        self.script = ScriptedBuckets(self.valkey)
        self.model = Buckets()
        self.now = BEFORE_MONTH_END
        self.held: list[Ask] = []
        self.ended: list[Settlement] = []
        self.refused_before: tuple[Any, ...] = ()

    @rule(jump=JUMPS_MS)
    def time_passes(self, jump: int) -> None:
        self.now += jump

    @rule(scopes=SCOPES, tokens=st.integers(1, 450), cost=st.integers(0, 750))
    def reserve(self, scopes: tuple[Scope, ...], tokens: int, cost: int) -> None:
        asked = ask(*scopes, tokens=tokens, cost=cost)
        verdict = self._reserve(asked)
        if verdict.refusal is None:
            self.held.append(asked)
            self._grants_stay_within_the_bounds(asked)
        else:
            self._a_refusal_takes_nothing(asked)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def ask_again_for_the_same_reservation(self, data: st.DataObject) -> None:
        self._reserve(data.draw(st.sampled_from(self.held)))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), tokens=st.integers(0, 900), cost=st.integers(0, 900), refund=st.booleans())
    def settle(self, data: st.DataObject, tokens: int, cost: int, *, refund: bool) -> None:
        done = Settlement(self._end_one(data), tokens, cost, refund)
        self.script.settle(done, self.now)
        self.model.settle(done, self.now)
        self.ended.append(done)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        before = self._stored(KEY), self._stored(TENANT)
        self.script.settle(data.draw(st.sampled_from(self.ended)), self.now)
        assert (self._stored(KEY), self._stored(TENANT)) == before

    @precondition(lambda self: self.held)
    @rule(data=st.data(), scopes=SCOPES, tokens=st.integers(0, 900), asked=st.integers(1, 400))
    def settle_on_the_way_to_reserving(
        self, data: st.DataObject, scopes: tuple[Scope, ...], tokens: int, asked: int
    ) -> None:
        done, new = Settlement(self._end_one(data), tokens, tokens), ask(*scopes, tokens=asked)
        by_script = self.script.reserve(new, self.now, settled=(done,))
        self.model.settle(done, self.now)
        by_model = self.model.reserve(new, self.now, TTL_MS)
        assert by_script == by_model
        if by_model.refusal is None:
            self.held.append(new)

    @invariant()
    def both_hold_the_same(self) -> None:
        for one in (KEY, TENANT):
            stored, wanted = self._stored(one), self.model.state(one)
            assert stored.reserved == wanted.reserved
            assert stored.active == wanted.active
            assert stored.reserved.keys() == stored.active.keys()
            for state in (stored, wanted):
                state.advance(one, self.now)
            assert stored == wanted

    def _reserve(self, asked: Ask) -> Verdict:
        by_script = self.script.reserve(asked, self.now)
        by_model = self.model.reserve(asked, self.now, TTL_MS)
        assert by_script == by_model
        return by_script

    def _grants_stay_within_the_bounds(self, asked: Ask) -> None:
        for one in asked.scopes:
            stored = self._stored(one)
            assert len(stored.active) <= one.concurrent_requests
            assert 0 <= (stored.requests or 0) <= one.request_burst * MINUTE_MS
            assert 0 <= (stored.tokens or 0) <= one.token_burst * MINUTE_MS
            assert all(not bound or stored.used[name] <= bound for name, bound in one.quotas.items())

    def _a_refusal_takes_nothing(self, asked: Ask) -> None:
        """Asked again at the same moment the answer is the same, and nothing is held for it."""
        again = self.script.reserve(asked, self.now)
        assert again == self.model.reserve(asked, self.now, TTL_MS)
        assert again.refusal is not None
        assert all(asked.uid not in self._stored(one).reserved for one in asked.scopes)

    def _end_one(self, data: st.DataObject) -> Ask:
        ended = data.draw(st.sampled_from(self.held))
        self.held.remove(ended)
        return ended

    def _stored(self, one: Scope) -> State:
        """What Valkey holds for a scope, in the model's words."""
        state, active, reserved = one.keys
        line = self.valkey.get(state)
        numbers = [None if one == b"-" else int(one) for one in line.split()] if line else []
        leases = {uid.decode(): int(until) for uid, until in self.valkey.zrange(active, 0, -1, withscores=True)}
        held = {
            uid.decode(): Reservation(*map(int, text.split())) for uid, text in self.valkey.hgetall(reserved).items()
        }
        return State(*numbers, active=leases, reserved=held)


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(valkey_url) as client:
        yield client


def test_the_script_does_what_the_model_does(valkey: Redis) -> None:
    machine = type("Machine", (ScriptAndModel,), {"valkey": valkey})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
