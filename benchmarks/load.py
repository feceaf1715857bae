"""A streaming OpenAI client that measures; the same for every system under test."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import aiohttp

WORDS: Final = (
    "anchor", "bow", "captain", "deck", "flag", "galley", "harbour", "island", "keel", "lantern", "mast", "oar",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A system under test: `url` of its `/v1`, the model's name there, and its key."""

    name: str
    url: str
    model: str
    key: str = "none"


@dataclass(frozen=True)
class Answer:
    """Seconds until the first text, until the end, and tokens as the server counted them: `tokens` of the completion,
    `cached` of the `prompt`.
    """

    first: float
    total: float
    tokens: int
    prompt: int = 0
    cached: int = 0
    text: str = ""


@dataclass(frozen=True)
class Round:
    """One burst of concurrent streams; `seconds` from the first request to the last token."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def throughput(self) -> float:
        """Completion tokens a second, of all streams together."""
        return sum(answer.tokens for answer in self.answers) / self.seconds


async def burst(target: Target, prompts: Sequence[str], tokens: int, fields: Mapping[str, Any] | None = None) -> Round:
    """Send all prompts at once, each for exactly `tokens` tokens, greedily; `fields`: more of the body."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        answers = await asyncio.gather(*(stream(session, target, prompt, tokens, fields=fields) for prompt in prompts))
        return Round(answers, time.perf_counter() - started)


async def stream(
    session: aiohttp.ClientSession,
    target: Target,
    prompt: str | Sequence[Mapping[str, str]],
    tokens: int,
    priority: str = "standard",
    *,
    fields: Mapping[str, Any] | None = None,
) -> Answer:
    """One chat completion; `prompt`: what the user says, or all messages; `fields`: more of the body.

    Raises RuntimeError when the server answers an error or too few tokens.
    """
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **(fields or {}),
    }
    headers = {"Authorization": f"Bearer {target.key}", "x-priority": priority}
    started, first, usage, lines = time.perf_counter(), 0.0, dict[str, Any](), list[bytes]()
    async with session.post(f"{target.url}/chat/completions", json=body, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"{target.name} answered {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            if b'"usage":{' in line:
                usage = json.loads(line[6:])["usage"]
            elif b'"content":"' in line and b'"content":""' not in line:
                first = first or time.perf_counter() - started
                lines.append(line)
    total = time.perf_counter() - started
    if usage.get("completion_tokens") != tokens or not first:
        raise RuntimeError(f"{target.name} answered {usage} instead of {tokens} tokens")
    text = "".join(json.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(first, total, tokens, usage["prompt_tokens"], cached, text)


@asynccontextmanager
async def beside(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """All of it runs while inside, and is cancelled then."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def first_ms(answers: Sequence[Answer], percent: int) -> float:
    """Percentile of the milliseconds to the first text."""
    ordered = sorted(answer.first for answer in answers)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def words(dice: Random, number: int) -> str:
    """A text of so many."""
    return " ".join(dice.choices(WORDS, k=number))
