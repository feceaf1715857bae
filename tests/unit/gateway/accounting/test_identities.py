"""Labels of tenants and keys are few, and no count is ever lost or falls."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.accounting.identities import OTHER, Identities, Series, Tallies
from gateway.accounting.outcome import Outcome
from gateway.core.call import Usage
from tests.unit.gateway.accounting.making import new_call

NAMES = st.sampled_from([OTHER, *(f"tenant-{number}" for number in range(12))])
EVENTS = st.lists(st.tuples(NAMES, st.sampled_from(["prompt", "completion"]), st.integers(0, 1000)), max_size=200)


def names(tallies: Tallies) -> set[str]:
    return {name for name, _, _ in tallies.items()}


@given(st.integers(1, 5), EVENTS)
def test_labels_are_bounded_sums_are_exact_and_other_never_falls(most: int, events: list[tuple[str, str, int]]) -> None:
    tallies, totals, other = Tallies(most), Counter[Series](), Counter[Series]()
    for name, kind, amount in events:
        series = ("tokens", kind)
        tallies.add(name, {series: amount})
        totals[series] += amount
        found, others = Counter[Series](), Counter[Series]()
        for whose, what, count in tallies.items():
            found[what] += count
            others[what] += count if whose == OTHER else 0
        assert len(names(tallies)) <= most + 1
        assert found == totals
        assert all(others[what] >= count for what, count in other.items())
        other = others


@given(st.integers(2, 6), st.lists(st.integers(0, 30), max_size=300))
def test_who_makes_more_than_its_share_of_the_requests_has_a_label(most: int, crowd: list[int]) -> None:
    """Space-saving's promise: more than one in `most`."""
    tallies = Tallies(most)
    for one in crowd:
        tallies.add(f"tenant-{one}", {("requests", "ok"): 1})
    busy = {f"tenant-{one}" for one, count in Counter(crowd).items() if count * most > len(crowd)}
    assert busy <= names(tallies)


def test_a_tenant_that_leaves_its_label_moves_to_other_with_all_it_had() -> None:
    tallies = Tallies(1)
    tallies.add("first", {("requests", "ok"): 1, ("tokens", "prompt"): 9})
    tallies.add("second", {("requests", "ok"): 1})
    assert set(tallies.items()) == {
        (OTHER, ("requests", "ok"), 1),
        (OTHER, ("tokens", "prompt"), 9),
        ("second", ("requests", "ok"), 1),
    }


def test_what_prometheus_reads() -> None:
    registry, identities = CollectorRegistry(), Identities(10)
    registry.register(identities)
    usage = Usage(prompt=10, cached=4, completion=3)
    identities.record(new_call(usage=usage, price=2_500_000_000), Outcome(200), 0.1)
    identities.record(new_call(key_id="key_2"), Outcome(429), 0.1)
    value = registry.get_sample_value
    assert value("trireme_tenant_requests_total", {"tenant": "acme", "outcome": "ok"}) == 1
    assert value("trireme_tenant_requests_total", {"tenant": "acme", "outcome": "refused"}) == 1
    assert value("trireme_tenant_tokens_total", {"tenant": "acme", "kind": "cached"}) == 4
    assert value("trireme_tenant_price_total", {"tenant": "acme"}) == 2.5
    assert value("trireme_key_requests_total", {"key": "key_2", "outcome": "refused"}) == 1
    assert value("trireme_key_tokens_total", {"key": "key_1", "kind": "completion"}) == 3


def test_strangers_and_other_addresses_have_no_label() -> None:
    identities = Identities(10)
    identities.record(new_call(caller=None), Outcome(401), 0.1)
    identities.record(new_call(route="/tokenize"), Outcome(200), 0.1)
    assert [sample for family in identities.collect() for sample in family.samples] == []
