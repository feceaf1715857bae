"""An engine full of batch work lets urgent requests through, and loses nothing of what it pauses: vLLM, no Triton."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from tokenizers import Tokenizer

from python_backends.llm.chunking import Chunking
from python_backends.llm.engine import EngineError, EngineState
from python_backends.llm.host import EngineHost
from python_backends.llm.preemption import MAX_PREEMPTIONS
from python_backends.llm.vllm_engine import VllmEngine
from python_backends.messages import Constraint, Event, FinishReason, Plan, Sampling, TokenLogprob
from tests.support.gateway import wait_until
from trireme.models import prepare_models
from trireme.settings import load_settings
from trireme.triton import triton_environment

pytestmark = pytest.mark.e2e
INTERACTIVE, BATCH = 0, 2
SLOTS = 2
# `MANY_SLOTS=16`: the same with so many slots, in an engine of its own.
MANY_SLOTS = int(os.environ.get("MANY_SLOTS", SLOTS))
# Natural logarithm: two tokens whose probabilities differ by less are a tie, which rounding decides.
TIE = 1e-3
BLOCK = 32
MAX_MODEL_LEN = 16 * BLOCK
URGENT_TOKENS = 3
URGENT_REQUESTS = 5
FREE_TOKENS = 60
LATE_TOKENS = 48
NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 999}, "minItems": 9, "maxItems": 9}
SCHEMA = {"type": "object", "properties": {"n": NUMBERS}, "required": ["n"], "additionalProperties": False}


@dataclass
class Stream:
    """One request's responses as they came; `times`: when, for each token."""

    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    text: str = ""
    scored: list[TokenLogprob | None] = field(default_factory=list)
    last: Event | None = None
    error: EngineError | None = None

    def send(self, token_ids: Sequence[int], text: str, event: Event, *, final: bool) -> None:
        self.ids += token_ids
        self.times += [time.monotonic()] * len(token_ids)
        self.text += text
        self.scored += event.prompt_logprobs or []
        self.last = event if final else None

    def fail(self, error: EngineError) -> None:
        self.error = error

    @property
    def ended(self) -> bool:
        return self.last is not None or self.error is not None

    @property
    def finish(self) -> FinishReason | None:
        assert self.last is not None
        return self.last.finish

    @property
    def preemptions(self) -> int:
        assert self.last is not None and self.last.timings is not None
        return self.last.timings.preemptions

    @property
    def completion(self) -> int:
        assert self.last is not None and self.last.usage is not None
        return self.last.usage.completion

    def tokens_between(self, start: float, end: float) -> int:
        return sum(start < at < end for at in self.times)


Ask = Callable[..., Stream]


@dataclass(frozen=True)
class Run:
    """The same two batch requests, alone or with urgent ones in between."""

    free: Stream
    constrained: Stream
    urgent: list[Stream]
    state: EngineState


@contextmanager
def engine_host(slots: int, requests: int) -> Iterator[EngineHost]:
    """With so many slots, and as many KV blocks as so many requests of the greatest length take."""
    settings = load_settings(environ={})
    prepare_models(settings, lambda line: None)
    arguments = {
        **settings.engine_args,
        "model": str(settings.model.path),
        "max_num_seqs": slots,
        "max_model_len": MAX_MODEL_LEN,
        "block_size": BLOCK,
        "num_gpu_blocks_override": 1 + requests * MAX_MODEL_LEN // BLOCK,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in triton_environment(settings).items():
            if name.startswith(("VLLM_", "HF_")):
                patch.setenv(name, value)
        host = EngineHost(VllmEngine(arguments), Chunking(responses_per_second=1e9))
        host.start()
        yield host
        host.stop()


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    with engine_host(SLOTS, requests=1) as host:
        yield host


@pytest.fixture
def crowded(request: pytest.FixtureRequest) -> Iterator[EngineHost]:
    """With MANY_SLOTS slots, which MANY_SLOTS=16 makes another engine than that of the other tests."""
    if MANY_SLOTS == SLOTS:
        yield request.getfixturevalue("host")
        return
    with engine_host(MANY_SLOTS, requests=MANY_SLOTS) as host:
        yield host


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(load_settings(environ={}).model.path / "tokenizer.json"))


@pytest.fixture(scope="module")
def ask(host: EngineHost, tokenizer: Tokenizer) -> Ask:
    return asking(host, tokenizer)


def asking(host: EngineHost, tokenizer: Tokenizer) -> Ask:
    def submit(text: str, tokens: int, priority: int, schema: object = None) -> Stream:
        constraint = None if schema is None else Constraint(json_schema=json.dumps(schema))
        sampling = Sampling(max_tokens=tokens, temperature=0, ignore_eos=schema is None)
        plan = Plan(sampling=sampling, priority=priority, constraint=constraint)
        stream = Stream()
        host.submit("", tokenizer.encode(text).ids, plan, stream)
        return stream

    return submit


def await_end(*streams: Stream) -> None:
    wait_until(lambda: all(one.ended for one in streams), "the answers are complete")
    assert [one.error for one in streams] == [None] * len(streams)


def batch_work(ask: Ask) -> tuple[Stream, Stream]:
    free = ask("The ship left the harbour at dawn, and its crew", FREE_TOKENS, BATCH)
    wait_until(lambda: len(free.ids) > 0, "the first batch request runs")
    return free, ask("Nine numbers as JSON, please:", 70, BATCH, SCHEMA)


@pytest.fixture(scope="module")
def undisturbed(host: EngineHost, ask: Ask) -> Run:
    free, constrained = batch_work(ask)
    await_end(free, constrained)
    return Run(free, constrained, [], host.state())


@pytest.fixture(scope="module")
def disturbed(host: EngineHost, ask: Ask, undisturbed: Run) -> Run:
    """Urgent requests, one after the other, come while batch work has both slots."""
    free, constrained = batch_work(ask)
    urgent = []
    for number in range(URGENT_REQUESTS):
        seen = len(free.ids) + len(constrained.ids)
        wait_until(lambda seen=seen: len(free.ids) + len(constrained.ids) > seen + 4, "batch work goes on")
        urgent.append(ask(f"{number} times, and quickly:", URGENT_TOKENS, INTERACTIVE))
        await_end(urgent[-1])
    await_end(free, constrained)
    return Run(free, constrained, urgent, host.state())


def test_urgent_requests_answer_while_batch_work_has_all_slots(disturbed: Run) -> None:
    first = disturbed.urgent[0]
    assert first.times[-1] < min(disturbed.free.times[-1], disturbed.constrained.times[-1])
    for batch in (disturbed.free, disturbed.constrained):
        assert batch.tokens_between(first.times[0], batch.times[-1] + 1) > len(batch.ids) // 2


def test_a_paused_stream_stands_still_and_goes_on(disturbed: Run) -> None:
    first = disturbed.urgent[0]
    assert disturbed.constrained.tokens_between(first.times[0], first.times[-1]) == 0, "the last that came pauses"
    assert disturbed.free.tokens_between(first.times[0], first.times[-1]) > 0, "the other goes on meanwhile"
    assert disturbed.constrained.times[-1] > first.times[-1]


def test_paused_answers_are_to_the_token_those_of_an_undisturbed_run(undisturbed: Run, disturbed: Run) -> None:
    assert disturbed.free.preemptions > 0 and disturbed.constrained.preemptions > 0
    assert disturbed.free.ids == undisturbed.free.ids
    assert disturbed.free.text == undisturbed.free.text
    assert disturbed.constrained.ids == undisturbed.constrained.ids
    assert disturbed.constrained.text == undisturbed.constrained.text


def test_the_grammar_holds_across_pauses(disturbed: Run) -> None:
    answer = json.loads(disturbed.constrained.text)
    assert len(answer["n"]) == 9 and all(100 <= one <= 999 for one in answer["n"])
    assert disturbed.constrained.finish == "stop"


def test_usage_counts_each_token_once(disturbed: Run) -> None:
    for batch in (disturbed.free, disturbed.constrained):
        assert batch.completion == len(batch.ids)
    assert [one.completion for one in disturbed.urgent] == [URGENT_TOKENS] * URGENT_REQUESTS
    assert disturbed.free.completion == FREE_TOKENS


def test_each_pauses_at_most_twice_and_the_engine_counts_them(undisturbed: Run, disturbed: Run) -> None:
    pauses = [disturbed.free.preemptions, disturbed.constrained.preemptions]
    assert pauses == [MAX_PREEMPTIONS, MAX_PREEMPTIONS], (
        f"{URGENT_REQUESTS} urgent requests would have paused them more"
    )
    assert [one.preemptions for one in disturbed.urgent] == [0] * URGENT_REQUESTS
    assert disturbed.state.preemptions - undisturbed.state.preemptions == sum(pauses)
    assert disturbed.state.paused_s > undisturbed.state.paused_s
    assert disturbed.state.reused_tokens > 0
    assert 0 < disturbed.state.recomputed_tokens < sum(pauses) * BLOCK, "only what filled no block is computed again"


def test_an_urgent_request_takes_the_kv_blocks_of_batch_work(host: EngineHost, ask: Ask) -> None:
    long_text = "Of all the ships that ever crossed this sea, one is remembered by its name alone. " * 17
    alone = ask(long_text, LATE_TOKENS, BATCH)
    await_end(alone)
    before = host.state().preemptions
    again = ask(long_text, LATE_TOKENS, BATCH)
    wait_until(lambda: len(again.ids) > 3, "batch work runs, with a slot to spare")
    urgent = ask("A storm came up, and nobody had seen one like it. " * 18, URGENT_TOKENS, INTERACTIVE)
    await_end(urgent)
    assert len(again.ids) < LATE_TOKENS and again.tokens_between(urgent.times[0], urgent.times[-1]) == 0
    await_end(again)
    assert again.ids == alone.ids and again.completion == LATE_TOKENS
    assert again.preemptions == 1
    assert host.state().preemptions == before + 1


def crowd_of(slots: int) -> list[tuple[str, int, object]]:
    """Batch work for all slots: texts, tokens, schemas. Every fourth is constrained."""
    return [
        (f"Nine numbers from {number} on as JSON, please:", 70, SCHEMA)
        if number % 4 == 3
        else (f"Ship number {number} left the harbour, and its crew", FREE_TOKENS, None)
        for number in range(slots)
    ]


def surprises(host: EngineHost, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """By how much each token of an answer is less likely than the likeliest there, when all are read at once."""
    stream = Stream()
    plan = Plan(sampling=Sampling(max_tokens=1, temperature=0, prompt_logprobs=1), priority=INTERACTIVE)
    host.submit("", [*prompt, *answer], plan, stream)
    await_end(stream)
    scored = [one for one in stream.scored[len(prompt) :] if one is not None]
    assert len(scored) == len(answer)
    return [one.top[0].logprob - one.logprob for one in scored]


def test_whatever_has_a_slot_is_paused_and_answers_as_undisturbed(crowded: EngineHost, tokenizer: Tokenizer) -> None:
    """Batches of other sizes round differently. So free answers may part, but only where two tokens are a tie: each
    token of both is the likeliest one after all those before it, and none is lost or repeated.
    """
    ask, work = asking(crowded, tokenizer), crowd_of(MANY_SLOTS)
    undisturbed = [ask(text, tokens, BATCH, schema) for text, tokens, schema in work]
    await_end(*undisturbed)
    disturbed = [ask(text, tokens, BATCH, schema) for text, tokens, schema in work]
    for number, size in enumerate((MANY_SLOTS // 2, MANY_SLOTS, MANY_SLOTS)):
        seen = len(disturbed[0].ids)
        wait_until(lambda seen=seen: len(disturbed[0].ids) > seen + 4, "batch work goes on")
        await_end(*(ask(f"{number}, {one}, and quickly:", URGENT_TOKENS, INTERACTIVE) for one in range(size)))
    await_end(*disturbed)
    for (text, _, schema), before, after in zip(work, undisturbed, disturbed, strict=True):
        assert 1 <= after.preemptions <= MAX_PREEMPTIONS
        assert after.completion == len(after.ids)
        if schema is not None:
            assert after.ids == before.ids
            continue
        for answer in {tuple(before.ids), tuple(after.ids)}:
            assert max(surprises(crowded, tokenizer.encode(text).ids, answer)) < TIE
