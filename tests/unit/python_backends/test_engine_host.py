"""Every request that is submitted gets exactly one ending, and stops its work when nobody wants it any more."""

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from python_backends.llm.chunking import Chunking, Folder
from python_backends.llm.engine import EngineError, EngineOutput
from python_backends.llm.host import EngineHost
from python_backends.llm.scripted import ScriptedEngine, token_id
from python_backends.messages import Event, Plan, Sampling, Script

LONG = 20.0


@dataclass
class Recorder:
    """A Reply that keeps everything; `end` waits for the final response."""

    sent: list[tuple[list[int], str, Event]] = field(default_factory=list)
    endings: "queue.Queue[EngineError | None]" = field(default_factory=queue.Queue)
    begun: "queue.Queue[None]" = field(default_factory=queue.Queue)

    def send(self, token_ids: Sequence[int], text: str, event: Event, *, final: bool) -> None:
        self.sent.append((list(token_ids), text, event))
        self.begun.put(None)
        if final:
            self.endings.put(None)

    def fail(self, error: EngineError) -> None:
        self.endings.put(error)

    def end(self) -> EngineError | None:
        return self.endings.get(timeout=LONG)

    @property
    def ids(self) -> list[int]:
        return [one for ids, _, _ in self.sent for one in ids]

    @property
    def finishes(self) -> list[str]:
        return [event.finish for _, _, event in self.sent if event.finish]


@pytest.fixture
def host() -> Iterator[EngineHost]:
    host = EngineHost(ScriptedEngine(max_model_len=100), Chunking(responses_per_second=1e9))
    host.start()
    yield host
    host.stop()


def aborted(host: EngineHost, *ids: str) -> int:
    answer: queue.Queue[int] = queue.Queue()
    host.abort(ids, answer.put)
    return answer.get(timeout=LONG)


def plan(tokens: int = 5, n: int = 1, deadline_ms: int | None = None, script: Script | None = None) -> Plan:
    return Plan(sampling=Sampling(max_tokens=tokens, n=n), deadline_ms=deadline_ms, scripted=script)


def test_a_generation_sends_every_token_once_and_counts_them(host: EngineHost) -> None:
    reply = Recorder()
    host.submit("a", [1, 2], plan(5), reply)
    assert reply.end() is None
    assert reply.ids == [token_id([1, 2], 0, number) for number in range(5)]
    last = reply.sent[-1][2]
    assert last.finish == "length"
    assert last.usage is not None and (last.usage.prompt, last.usage.completion) == (2, 5)
    assert reply.sent[0][2].post is not None
    assert all(event.post is None for _, _, event in reply.sent[1:])


def test_choices_end_each_on_its_own_and_the_usage_is_their_sum(host: EngineHost) -> None:
    reply = Recorder()
    host.submit("a", [1], plan(3, n=3), reply)
    assert reply.end() is None
    assert reply.finishes == ["length"] * 3
    usage = reply.sent[-1][2].usage
    assert usage is not None and usage.completion == 9


def test_an_abort_ends_a_running_request_and_its_engine_work(host: EngineHost) -> None:
    reply = Recorder()
    host.submit("a", [1], plan(90, script=Script(hang_at=2)), reply)
    reply.begun.get(timeout=LONG)
    assert aborted(host, "a") == 1
    assert reply.end() is None
    assert reply.finishes == ["abort"]
    assert host.state().running == 0


def test_an_abort_that_overtakes_its_request_still_ends_it(host: EngineHost) -> None:
    assert aborted(host, "late") == 0
    reply = Recorder()
    host.submit("late", [1], plan(90), reply)
    assert reply.end() is None
    assert (reply.ids, reply.finishes) == ([], ["abort"])
    again = Recorder()
    host.submit("late", [1], plan(2), again)
    assert again.end() is None
    assert again.finishes == ["length"], "one abort ends one request that comes after it"


def test_an_abort_ends_all_requests_of_that_id_and_no_other(host: EngineHost) -> None:
    twins, other = [Recorder(), Recorder()], Recorder()
    for reply in twins:
        host.submit("twin", [1], plan(90, script=Script(hang_at=1)), reply)
        reply.begun.get(timeout=LONG)
    host.submit("other", [1], plan(3), other)
    assert aborted(host, "twin") == 2
    assert [reply.end() for reply in twins] == [None, None]
    assert other.end() is None
    assert other.finishes == ["length"]


def test_a_deadline_ends_a_request_that_the_engine_forgot(host: EngineHost) -> None:
    reply = Recorder()
    host.submit("a", [1], plan(9, deadline_ms=20, script=Script(hang_at=0)), reply)
    assert reply.end() is None
    assert reply.finishes == ["abort"]
    assert host.state().running == 0


def test_a_failing_engine_fails_that_request_only(host: EngineHost) -> None:
    reply, other = Recorder(), Recorder()
    host.submit("a", [1], plan(9, script=Script(fail_at=3)), reply)
    host.submit("b", [1], plan(9), other)
    assert reply.end() is None
    error = reply.sent[-1][2].error
    assert error is not None and error.code == "scripted_failure"
    assert len(reply.ids) == 3, "what was generated before goes out before"
    assert other.end() is None
    assert len(other.ids) == 9


def test_a_failure_before_the_first_token_fails_the_request_itself(host: EngineHost) -> None:
    reply = Recorder()
    host.submit("a", [1], plan(9, script=Script(fail_at=0)), reply)
    error = reply.end()
    assert error is not None and error.code == "scripted_failure"
    assert reply.sent == []


def test_stopping_ends_what_runs() -> None:
    host = EngineHost(ScriptedEngine(max_model_len=100))
    host.start()
    reply = Recorder()
    host.submit("a", [1], plan(9, script=Script(hang_at=1)), reply)
    reply.begun.get(timeout=LONG)
    host.stop()
    assert reply.end() is None
    assert reply.finishes == ["abort"]


def test_tokens_are_folded_when_there_are_more_than_the_budget_allows() -> None:
    host = EngineHost(ScriptedEngine(max_model_len=2000), Chunking(responses_per_second=100, max_delay=0.05))
    host.start()
    replies = [Recorder() for _ in range(4)]
    for number, reply in enumerate(replies):
        host.submit(str(number), [number], plan(200, script=Script(delay_ms=1)), reply)
    assert [reply.end() for reply in replies] == [None] * 4
    host.stop()
    for number, reply in enumerate(replies):
        assert reply.ids == [token_id([number], 0, k) for k in range(200)]
        assert len(reply.sent[0][0]) == 1, "the first token goes out alone"
        assert len(reply.sent) < 60


def test_the_interval_grows_with_the_streams_up_to_the_longest_delay() -> None:
    chunking = Chunking(responses_per_second=1000, max_delay=0.1)
    assert chunking.interval(1) == pytest.approx(0.001)
    assert chunking.interval(50) == pytest.approx(0.05)
    assert chunking.interval(10_000) == pytest.approx(0.1)


def test_folding_joins_tokens_text_and_logprobs_in_order_and_keeps_the_ending() -> None:
    folder = Folder()
    folder.add(EngineOutput(0, [1], "a"))
    assert folder.wait(0.0) == 0.0
    assert [output.text for output in folder.take(0.0, 1.0)] == ["a"]
    folder.add(EngineOutput(0, [2], "b"))
    folder.add(EngineOutput(1, [9], "z"))
    assert folder.wait(0.25) == pytest.approx(0.75)
    folder.add(EngineOutput(0, [3], "c", finish="stop", last=True))
    assert folder.wait(0.25) == 0.0
    taken = folder.take(0.25, 1.0)
    assert [(one.index, one.token_ids, one.text, one.last) for one in taken] == [
        (1, [9], "z", False),
        (0, [2, 3], "bc", True),
    ]
