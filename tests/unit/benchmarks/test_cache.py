"""What the benchmarks of the cache make of their figures."""

from benchmarks.cache import LEVELS, Block, Way, report
from benchmarks.repeats import PROMPTS, Run, drawn
from benchmarks.repeats import report as repeats_report


def way(name: str) -> Way:
    return Way(name, "http://a", "tiny", 1, {}, None)


def block(ms: float, cpu_ms: float) -> Block:
    return Block(seconds=100 * ms / 1000, latencies=[ms / 1000] * 100, cpu=100 * cpu_ms / 1000)


def test_the_goals_are_those_of_hits_misses_and_the_core() -> None:
    ways = [way(name) for name in ("no cache", "miss", "hit in Valkey", "hit in the gateway", "LiteLLM, hit")]
    figures = dict(zip(ways, [(2.0, 1.0), (2.3, 1.1), (0.9, 0.5), (0.5, 0.4), (9.0, 8.0)], strict=True))
    blocks = {(level, one): [block(*figures[one])] * 3 for level in LEVELS for one in ways}
    text, met = report(ways, blocks, 300, "1.2.3")
    assert met
    assert "A hit takes **0.90 ms**" in text
    assert "a miss adds **0.30 ms**" in text
    assert "core answers **2500** hits" in text
    assert "| hit, p50, 1 streams | 10.0 | 18.0 |" in text
    assert "| hit, CPU of the proxy | 16.0 | 20.0 |" in text
    slow = {key: [block(3.0, 1.2)] * 3 if key[1] is ways[1] else found for key, found in blocks.items()}
    assert not report(ways, slow, 300, "1.2.3")[1]


def test_some_questions_come_much_more_often_than_others() -> None:
    numbers = drawn(2000)
    assert numbers == drawn(2000)
    assert set(numbers) <= set(range(PROMPTS))
    assert numbers.count(0) > 5 * numbers.count(20) > 0


def test_repeats_say_what_was_not_computed() -> None:
    without = Run(20.0, [2.0] * 40, computed=400, asked=400, outcomes=["bypass"] * 40)
    cached = Run(
        5.0, [0.5] * 40, computed=100, asked=400, outcomes=["hit-exact"] * 20 + ["coalesced"] * 10 + ["miss"] * 10
    )
    text = repeats_report(without, cached, 40)
    assert "**50%** were answered from the cache, 25% waited" in text
    assert "**75%** of the tokens" in text
    assert "**4.0** times less" in text
