"""What the report says of measured blocks."""

import pytest

from benchmarks.chats import Block, Costs, Way, openai_chat
from benchmarks.identity_report import LEVELS, Blocks, Peer, figures, report

REQUESTS = 4


def peer(name: str) -> Peer:
    direct, plain, limited, tight = (openai_chat(way, name, "m") for way in ("direct", "no limits", "limits", "tight"))
    return Peer(name, direct, plain, limited, tight)


def block(milliseconds: float, *, trips: int = 0, cpu_ms: float = 0.0, auth: float = 0.0) -> Block:
    seconds = milliseconds / 1000
    costs = Costs(cpu=REQUESTS * cpu_ms / 1000, valkey_cpu=0.0, round_trips=REQUESTS * trips)
    return Block(REQUESTS * seconds, [seconds] * REQUESTS, [(auth, 0.0)] * REQUESTS, costs)


def measured(peers: list[Peer], ours: tuple[float, float, float], **costs: float) -> Blocks:
    """Two rounds, the second on a machine that is half as fast; the other proxy takes 5 to 20 ms."""

    def rounds(way: Way, first: Peer) -> list[Block]:
        times = ours if first is peers[0] else (5.0, 10.0, 20.0)
        base = times[first.ways.index(way)]
        used = costs if way is peers[0].limited else {}
        return [block(base, **used), block(2 * base, **used)]  # type: ignore[arg-type]

    return {(level, way): rounds(way, one) for level in LEVELS for one in peers for way in one.ways}


@pytest.fixture
def peers() -> list[Peer]:
    return [peer("Trireme"), peer("LiteLLM")]


def test_differences_are_taken_within_a_round() -> None:
    slow, fast = block(11.0), block(2.0)
    found = figures([slow, fast, slow], [block(10.0), block(1.0), block(1.0)])
    assert found.added == pytest.approx(1.0)
    assert found.p50 == pytest.approx(11.0)


def test_costs_are_for_one_request() -> None:
    found = figures([block(1.0, trips=2, cpu_ms=0.7)] * 3, [block(1.0)] * 3)
    assert found.round_trips == 2
    assert found.cpu == pytest.approx(0.7)


def test_goals_are_met_up_to_half_a_millisecond_and_two_round_trips(peers: list[Peer]) -> None:
    text, met = report(peers, measured(peers, (1.0, 2.0, 2.2), trips=2, auth=0.19), 8, 2, "1.0")
    assert met
    assert "add **0.49 ms**" in text


def test_the_time_for_the_key_counts(peers: list[Peer]) -> None:
    _, met = report(peers, measured(peers, (1.0, 2.0, 2.2), trips=2, auth=0.25), 8, 2, "1.0")
    assert not met


def test_a_third_round_trip_misses_the_goal(peers: list[Peer]) -> None:
    text, met = report(peers, measured(peers, (1.0, 2.0, 2.0), trips=3), 8, 2, "1.0")
    assert not met
    assert "not met" in text


def test_ratios_say_how_much_more_the_other_proxy_takes(peers: list[Peer]) -> None:
    text, _ = report(peers, measured(peers, (1.0, 2.0, 3.0), cpu_ms=1.0), 8, 2, "1.0")
    assert "| limits alone, added p50 ms, 1 stream | 1.50 | 15.00 | **10.0** |" in text
    assert "| whole proxy, added p50 ms, 16 streams | 3.00 | 22.50 | **7.5** |" in text


def test_a_difference_in_the_noise_has_no_ratio(peers: list[Peer]) -> None:
    text, _ = report(peers, measured(peers, (1.0, 2.0, 1.9)), 8, 2, "1.0")
    assert "| limits alone, added p50 ms, 1 stream | -0.15 | 15.00 | - |" in text
