"""The ledger against the real engine: what clients saw is what is written down is what was computed."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.accounting.entries import Entry
from tests.support.gateway import LONG, GatewayClient, events, plain_http, wait_until
from tests.support.ledger import entries, usage_sums
from tests.support.triton import DirectTriton
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
SEED = 20260601
REQUESTS = 16
# Tokens that a quick engine makes until it hears that nobody wants them, of 1,500 that it was asked for.
SOON = 20
WORDS = ["sail", "oar", "mast", "keel", "rope", "wind", "tide", "star", "🛶", "naïve", "harbour", "anchor"]
CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
Request = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def gateway(stack: EmbeddedStack) -> GatewayClient:
    return GatewayClient(stack)


def words(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 60)))


def single(chance: random.Random, model: str) -> Request:
    """One prompt and one answer, so that the engine's counters count what the client is told."""
    body: dict[str, Any] = {"model": model, "max_tokens": chance.randint(1, 12), "temperature": 1, "seed": 7}
    if chance.random() < 0.5:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if chance.random() < 0.3:
        body["stop"] = ["a", "e"]
    if chance.random() < 0.5:
        return COMPLETION, body | {"prompt": words(chance)}
    return CHAT, body | {"messages": [{"role": "user", "content": words(chance)}]}


def several(chance: random.Random, model: str, embedding_model: str) -> Request:
    """Several answers or prompts, scores, vectors, and requests that are refused."""
    body: dict[str, Any] = {"model": model, "max_tokens": chance.randint(1, 8)}
    match chance.randrange(6):
        case 0:
            return CHAT, body | {"n": chance.randint(2, 4), "messages": [{"role": "user", "content": words(chance)}]}
        case 1:
            return COMPLETION, body | {"prompt": [words(chance), words(chance)], "n": 2, "stop": "o"}
        case 2:
            return COMPLETION, body | {"prompt": words(chance), "max_tokens": 0, "echo": True, "logprobs": 0}
        case 3:
            return EMBEDDING, {"model": embedding_model, "input": [words(chance), words(chance)]}
        case 4:
            return CHAT, body | {"messages": [], "colour": "red"}
        case _:
            return COMPLETION, body | {"prompt": words(chance), "model": "no-such-model"}


def ask(gateway: GatewayClient, name: str, request: Request) -> tuple[int, dict[str, Any]]:
    """Status, and the usage that the client is told."""
    path, body = request
    answer = gateway.post(path, body, {"x-request-id": name})
    if not body.get("stream"):
        return answer.status_code, answer.json().get("usage") or {}
    return answer.status_code, events(answer)[-2]["usage"]


def ask_all(gateway: GatewayClient, name: str, requests: list[Request]) -> dict[str, tuple[int, dict[str, Any]]]:
    """By request id, four at a time."""
    names = [f"{name}-{number}" for number in range(len(requests))]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: ask(gateway, *one), zip(names, requests, strict=True)))
    return dict(zip(names, answers, strict=True))


def written(stack: EmbeddedStack, name: str, number: int) -> dict[str, Entry]:
    """By request id, once so many are there; each is there once."""

    def found() -> list[Entry]:
        return [one for one in entries(stack) if one.request_id.startswith(f"{name}-")]

    wait_until(lambda: len(found()) >= number, f"{number} entries")
    assert len(found()) == number
    by_name = {one.request_id: one for one in found()}
    assert len(by_name) == number
    return by_name


def check(found: dict[str, Entry], answers: dict[str, tuple[int, dict[str, Any]]]) -> None:
    for name, (status, usage) in answers.items():
        entry = found[name]
        assert (entry.status, entry.outcome) == (status, "ok" if status == httpx.codes.OK else "refused")
        assert entry.prompt_tokens == usage.get("prompt_tokens", 0), name
        assert entry.completion_tokens == usage.get("completion_tokens", 0), name
        assert entry.cached_tokens == usage.get("prompt_tokens_details", {}).get("cached_tokens", 0), name


def counter(stack: EmbeddedStack, name: str) -> float:
    lines = plain_http().get(stack.metrics_url).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def computed(stack: EmbeddedStack, direct: DirectTriton) -> tuple[float, float]:
    """Prompt and generated tokens that vLLM has counted, once its counters are copied to Triton's page."""

    def all_copied() -> bool:
        return counter(stack, "vllm:generation_tokens_total") == direct.control(control="stats")["tokens"]

    wait_until(all_copied, "vLLM's counters are copied")
    return counter(stack, "vllm:prompt_tokens_total"), counter(stack, "vllm:generation_tokens_total")


def test_the_ledger_has_what_the_client_was_told_and_the_engine_computed(
    stack: EmbeddedStack, gateway: GatewayClient, direct: DirectTriton, model: str
) -> None:
    chance = random.Random(SEED)
    before = computed(stack, direct)
    answers = ask_all(gateway, "single", [single(chance, model) for _ in range(REQUESTS)])
    found = written(stack, "single", len(answers))
    check(found, answers)
    after = computed(stack, direct)
    assert after[0] - before[0] == sum(one.prompt_tokens for one in found.values()) > 0
    assert after[1] - before[1] == sum(one.completion_tokens for one in found.values()) > 0


def test_answers_of_all_kinds_and_refusals_have_an_entry_each(
    stack: EmbeddedStack, gateway: GatewayClient, model: str
) -> None:
    chance = random.Random(SEED)
    requests = [several(chance, model, stack.settings.embedding_model.name) for _ in range(REQUESTS)]
    answers = ask_all(gateway, "several", requests)
    assert {status for status, _ in answers.values()} == {200, 400, 404}
    check(written(stack, "several", len(answers)), answers)


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_client_that_leaves_pays_for_its_prompt_and_what_had_come(
    stack: EmbeddedStack, gateway: GatewayClient, direct: DirectTriton, model: str, tokens: int
) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": f"A story of {tokens} ships."}]}
    _, usage = ask(gateway, f"whole-{tokens}", (CHAT, body | {"max_tokens": 1}))
    before = direct.control(control="stats")["tokens"]
    name, endless = f"left{tokens}-0", body | {"max_tokens": 1500, "ignore_eos": True, "stream": True}
    headers = gateway.headers | {"x-request-id": name}
    with httpx.stream("POST", f"{stack.gateway_url}{CHAT}", json=endless, headers=headers, timeout=LONG) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        for _ in range(tokens):
            next(lines)
    entry = written(stack, f"left{tokens}", 1)[name]
    wait_until(lambda: direct.control(control="stats")["in_flight"] == 0, "the engine is idle")
    generated = direct.control(control="stats")["tokens"] - before
    assert (entry.outcome, entry.status) == ("cancelled", 499)
    assert entry.prompt_tokens == usage["prompt_tokens"]
    assert tokens <= entry.completion_tokens <= generated
    assert generated - entry.completion_tokens <= SOON


def test_sums_by_day_are_the_sums_of_the_entries(stack: EmbeddedStack, gateway: GatewayClient) -> None:
    found = entries(stack)
    data = gateway.get("/admin/v1/usage?by=tenant").json()["data"]
    assert sum(row["requests"] for row in data) == usage_sums(stack)["requests"] == len(found)
    assert sum(row["prompt_tokens"] for row in data) == sum(one.prompt_tokens for one in found)
    assert sum(row["completion_tokens"] for row in data) == sum(one.completion_tokens for one in found)
