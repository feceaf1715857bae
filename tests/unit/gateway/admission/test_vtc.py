"""Virtual token counters: who goes next among tenants."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.vtc import VirtualCounters


def least(counters: VirtualCounters) -> str | None:
    account = counters.least()
    return account.tenant if account else None


def test_who_was_served_least_goes_next_and_equals_in_the_order_of_arrival() -> None:
    counters = VirtualCounters()
    first, second = counters.enter("b", 1.0), counters.enter("a", 1.0)
    assert least(counters) == "b"
    counters.charge(first, 10)
    assert least(counters) == "a"
    counters.charge(second, 11)
    assert least(counters) == "b"
    counters.exit(first)
    assert least(counters) == "a"
    counters.exit(second)
    assert least(counters) is None


def test_a_tenant_of_double_weight_is_served_twice_as_much() -> None:
    counters = VirtualCounters()
    accounts = {"light": counters.enter("light", 1.0), "heavy": counters.enter("heavy", 2.0)}
    turns = {"light": 0, "heavy": 0}
    for _ in range(300):
        name = least(counters)
        assert name is not None
        turns[name] += 1
        counters.charge(accounts[name], 7)
    assert turns == {"light": 100, "heavy": 200}


def test_who_returns_is_lifted_to_those_who_wait_and_saves_nothing_up() -> None:
    counters = VirtualCounters()
    busy = counters.enter("busy", 1.0)
    counters.charge(busy, 1000)
    back = counters.enter("idle", 1.0)
    assert back.counter == 1000
    counters.exit(back)
    counters.charge(back, 5000)
    assert counters.enter("idle", 1.0).counter == 6000


def test_when_nobody_waits_the_one_who_left_last_is_the_measure() -> None:
    counters = VirtualCounters()
    busy = counters.enter("busy", 1.0)
    counters.exit(busy)
    counters.charge(busy, 400)
    assert counters.pass_by("new", 1.0).counter == 400


def test_a_correction_counts_at_once() -> None:
    counters = VirtualCounters()
    a, b = counters.enter("a", 1.0), counters.enter("b", 1.0)
    counters.charge(a, 100)
    counters.charge(b, 50)
    counters.charge(a, -80)
    assert least(counters) == "a"
    assert (a.served, a.counter) == (20, 20)


def test_what_others_served_counts_here_and_is_not_published_again() -> None:
    counters = VirtualCounters()
    a, _ = counters.enter("a", 1.0), counters.enter("b", 1.0)
    counters.absorb({"a": 30.0, "elsewhere": 5.0})
    assert least(counters) == "b"
    assert (a.counter, a.served) == (30.0, 0.0)


def test_idle_accounts_are_bounded_and_the_busy_ones_stay() -> None:
    counters = VirtualCounters(most=10)
    busy = counters.enter("busy", 1.0)
    counters.charge(busy, 1e6)
    for number in range(1000):
        counters.pass_by(f"t{number}", 1.0)
    assert len(list(counters)) <= 10
    assert counters.find("busy") is busy


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["enter", "exit", "charge"]), st.integers(-50, 99)))
)
def test_the_least_is_what_looking_at_everybody_finds(steps: list[tuple[str, str, int]]) -> None:
    counters = VirtualCounters()
    for tenant, step, tokens in steps:
        account = counters.find(tenant)
        if step == "enter":
            counters.enter(tenant, 1.0)
        elif account is not None and step == "charge":
            counters.charge(account, tokens)
        elif account is not None and account.waiting:
            counters.exit(account)
        waiting = [one for one in counters if one.waiting]
        expected = min(waiting, key=lambda one: (one.counter, one.since), default=None)
        assert counters.least() is expected
        assert counters.active == len(waiting)
        assert counters.active_weight == len(waiting)
