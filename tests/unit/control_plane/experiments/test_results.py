"""What the table says, and when it says nothing yet."""

import json
from random import Random

import msgspec
import pytest

from control_plane.experiments.evidence import Copied, Evidence, Observed, Pairs, Run, Scored, Spread, bucket_of
from control_plane.experiments.ledger import read_event
from control_plane.experiments.results import Row, paired, results
from tests.unit.control_plane.experiments.making import copied, evidence, experiment, mirroring, observed
from tests.unit.control_plane.making import entry


def row(found: Evidence, measure: str, arm: str = "b") -> Row:
    (one,) = [one for one in results(experiment(), found).rows if (one.measure, one.arm) == (measure, arm)]
    return one


def test_a_slower_arm_is_found_and_its_interval_has_the_truth() -> None:
    one = row(evidence(1500, slower=1.3), "time_to_first_token")
    assert one.difference_interval is not None
    assert one.difference_interval.low < 1.3 < one.difference_interval.high
    assert one.difference_interval.low > 1
    assert (one.kind, (one.p_value or 1) < 0.05) == ("times", True)
    assert (one.median or 0) == pytest.approx(130, rel=0.08)


def test_equal_arms_are_not_told_apart() -> None:
    for measure in ("errors", "time_to_first_token"):
        one = row(evidence(1500), measure)
        assert one.difference_interval is not None
        low, high = one.difference_interval
        assert low <= (1 if one.kind == "times" else 0) <= high
        assert (one.p_value or 0) > 0.05


def test_an_arm_that_fails_more_is_found() -> None:
    one = row(evidence(1500, errors=0.08), "errors")
    assert one.kind == "points"
    assert one.difference_interval is not None
    assert 0 < one.difference_interval.low < 0.08 < one.difference_interval.high


def test_too_little_is_said_to_be_too_little() -> None:
    few = row(evidence(40), "errors")
    assert (few.missing, few.difference_interval, few.p_value) == ("40 of 100 observations", None, None)
    same = Evidence()
    for name in ("a", "b"):
        for number in range(300):
            same.arm(name).add(observed(name, f"{name}{number % 5}"))
    one = row(same, "errors")
    assert (one.missing, one.interval) == ("too few tenants, users or sessions", None)


def test_more_arms_share_the_probability_to_be_wrong() -> None:
    found = evidence(600)
    for number in range(600):
        found.arm("c").add(observed("c", f"c{number}", first_token_ms=100.0 + number % 7))
    two, three = (
        next(
            one.difference_interval
            for one in results(experiment(arms=arms), found).rows
            if one.measure == "time_to_first_token" and one.arm == "b"
        )
        for arms in ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1})
    )
    assert two is not None and three is not None
    assert three.high > two.high


def test_requests_that_go_astray_are_noticed() -> None:
    found = evidence(1500)
    assert results(experiment(), found).warnings == ()
    dice = Random(1)
    for number in range(1500):
        if dice.random() < 0.4:
            found.arm("a").add(observed("a", f"more{number}"))
    first, *_ = results(experiment(), found).warnings
    assert first.startswith("a got 5") and "should be 50.0%" in first


def test_a_score_that_is_replaced_counts_once() -> None:
    found = Evidence()
    for number in range(200):
        found.arm("a").rate(Scored(experiment="ex_1", arm="a", unit=f"u{number}", score=1.0, before=None))
    found.arm("a").rate(Scored(experiment="ex_1", arm="a", unit="u1", score=0.0, before=1.0))
    one = row(found, "score", "a")
    assert (one.count, one.value) == (200, 0.995)


def test_quantiles_are_right_within_a_percent() -> None:
    spread = Spread()
    for number in range(1, 1001):
        spread.add(float(number))
    assert spread.quantile(0.5) == pytest.approx(500, rel=0.011)
    assert spread.quantile(0.95) == pytest.approx(950, rel=0.011)
    assert Spread().quantile(0.5) is None


def test_copies_are_compared_pair_by_pair() -> None:
    """The requests differ by a factor of a hundred, and 5 % are found all the same."""
    pairs, dice = Pairs(), Random(2)
    for number in range(400):
        size = 10 ** dice.uniform(1, 3)
        original = Run(False, size, 10.0, 8)
        copy = Run(number % 20 == 0, size * 1.05 * dice.uniform(0.95, 1.05), 10.0, 9)
        pairs.add(copied(f"u{number}", original, copy, same=number % 4 != 0))
    rows = {one.measure: one for one in paired(mirroring(), pairs)}
    first = rows["time_to_first_token"].interval
    assert first is not None
    assert 1 < first.low < 1.05 < first.high
    assert rows["errors"].difference == 0.05
    assert rows["same"].difference == 0.75
    assert (pairs.failed, pairs.tokens, pairs.original_tokens, pairs.price) == (20, 380 * 9, 380 * 8, 400 * 500)


def test_copies_that_never_differ_leave_a_doubt() -> None:
    pairs = Pairs()
    for number in range(200):
        pairs.add(copied(f"u{number}"))
    errors = next(one for one in paired(mirroring(), pairs) if one.measure == "errors")
    assert errors.interval is not None
    assert -0.05 < errors.interval.low < 0 < errors.interval.high < 0.05


def test_evidence_stays_small_and_comes_back_whole() -> None:
    found = evidence(3000)
    text = msgspec.json.encode(found)
    assert len(text) < 100_000
    assert msgspec.json.decode(text, type=Evidence) == found


def test_an_entry_tells_what_an_experiment_wants_to_know() -> None:
    line = entry("b", experiment="ex_1", unit="00ff", price=9, retries=0)
    assert read_event({b"entry": json.dumps(line).encode()}) == Observed(
        experiment="ex_1",
        arm="b",
        unit="00ff",
        failed=False,
        first_token_ms=60.0,
        per_token_ms=10.0,
        tokens=11,
        price=9,
    )
    feedback = {
        b"feedback": b'{"score": 0.5, "tenant": "acme"}',
        b"request": b'{"at": 1, "model": "boats", "arm": "b", "experiment": "ex_1", "unit": "00ff"}',
        b"before": b"1.0",
    }
    assert read_event(feedback) == Scored(experiment="ex_1", arm="b", unit="00ff", score=0.5, before=1.0)


def test_an_entry_of_a_copy_tells_of_both() -> None:
    pace = {"first_token_ms": 10.0, "per_token_ms": 2.0, "tokens": 3}
    mirrored = {"mirror": "mi_1", "of": "u", "arm": "a", "original": pace, "copy": {"failed": True}}
    line = entry("new", kind="mirror", outcome="failed", mirrored=mirrored)
    assert read_event({b"entry": json.dumps(line).encode()}) == Copied(
        mirror="mi_1", of="u", original=Run(False, 10.0, 2.0, 3), copy=Run(failed=True), same=None, price=0
    )


@pytest.mark.parametrize(
    "fields",
    [
        {b"entry": json.dumps(entry("b")).encode()},
        {b"entry": json.dumps(entry("b", experiment="ex_1", outcome="cancelled")).encode()},
        {b"entry": json.dumps(entry("b", experiment="ex_1", outcome="refused")).encode()},
        {b"entry": json.dumps(entry("b", experiment="ex_1", replayed=True)).encode()},
        {b"entry": b"{"},
        {b"feedback": b'{"score": 1}', b"request": b"{}", b"before": b""},
        {b"feedback": b'{"score": 1}'},
        {},
    ],
    ids=["no experiment", "cancelled", "refused", "replayed", "nonsense", "score of no experiment", "half", "nothing"],
)
def test_what_says_nothing_is_left_out(fields: dict[bytes, bytes]) -> None:
    assert read_event(fields) is None


def test_buckets_are_the_same_everywhere() -> None:
    assert [bucket_of(unit) for unit in ("a", "b", "00ff")] == [67, 121, 97]
