"""Embeddings through the whole chain, against the same encoder called in a process of its own.

Both are up all the time and take turns. The bare encoder gets whole requests, one after the other, already tokenized:
the most that the model can do. Trireme gets them from concurrent clients over HTTP, as texts, and answers with numbers.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aiohttp

from benchmarks.load import Target, words
from benchmarks.report import machine, publish, table
from python_backends.embedding.transformers_embedder import TransformersEmbedder
from python_backends.preprocessing.tokenizer import TextTokenizer
from trireme.stack import EmbeddedStack, isolated_settings

CLIENTS = 4
GOAL = 0.9
SHAPES = ((1, 96), (16, 12), (128, 3))
MOST_WORDS = 60


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met where requests have several texts."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), engine="vllm")
        with (
            EmbeddedStack(settings) as stack,
            ProcessPoolExecutor(1, initializer=_load, initargs=(settings.embedding_model.path,)) as bare,
        ):
            target = Target("Trireme", f"{stack.gateway_url}/v1", settings.embedding_model.name, stack.dev_key)
            found = [(inputs, *_measure(target, bare, rounds, inputs, requests)) for inputs, requests in SHAPES]
    text, met = summary(found, rounds)
    publish("embeddings", text, write=write)
    return met


def _measure(
    target: Target, bare: ProcessPoolExecutor, rounds: int, inputs: int, requests: int
) -> tuple[list[float], list[float]]:
    """Texts a second of each round: ours, and the bare encoder's."""
    dice = random.Random(inputs)
    ours, theirs = [], []
    for number in range(rounds + 1):
        work = [[_text(dice) for _ in range(inputs)] for _ in range(requests)]
        seconds = asyncio.run(_through_gateway(target, work)), bare.submit(_encode, work).result()
        if number:  # the first round warms both up
            ours.append(inputs * requests / seconds[0])
            theirs.append(inputs * requests / seconds[1])
    return ours, theirs


def _text(dice: random.Random) -> str:
    return words(dice, dice.randint(3, MOST_WORDS))


async def _through_gateway(target: Target, work: Sequence[Sequence[str]]) -> float:
    """Seconds. Raises RuntimeError when one request is not answered with 200."""
    left = list(work)
    headers = {"Authorization": f"Bearer {target.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def client() -> None:
            while left:
                body = {"model": target.model, "input": left.pop(), "encoding_format": "base64"}
                async with session.post(f"{target.url}/embeddings", json=body) as response:
                    answer = await response.read()
                    if response.status != 200:
                        raise RuntimeError(f"{target.name} answered {response.status}: {answer[:500]!r}")

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return time.perf_counter() - began


_BARE: dict[str, TransformersEmbedder | TextTokenizer] = {}


def _load(model_dir: Path) -> None:
    _BARE["embedder"] = TransformersEmbedder(model_dir, {"threads": 1})
    _BARE["tokenizer"] = TextTokenizer.from_dir(model_dir)


def _encode(work: Sequence[Sequence[str]]) -> float:
    """Seconds, tokenizing left out."""
    embedder, tokenizer = _BARE["embedder"], _BARE["tokenizer"]
    assert isinstance(embedder, TransformersEmbedder) and isinstance(tokenizer, TextTokenizer)
    ids = [tokenizer.encode_many(list(texts)) for texts in work]
    began = time.perf_counter()
    for one in ids:
        embedder.embed(one, embedder.terms.pooling)
    return time.perf_counter() - began


def summary(found: Sequence[tuple[int, list[float], list[float]]], rounds: int) -> tuple[str, bool]:
    ratios = {inputs: statistics.median(ours) / statistics.median(theirs) for inputs, ours, theirs in found}
    met = all(ratio >= GOAL for inputs, ratio in ratios.items() if inputs > 1)
    rows = [
        [
            str(inputs),
            f"{statistics.median(ours):.0f}",
            f"{statistics.median(theirs):.0f}",
            f"**{ratios[inputs]:.2f}**",
        ]
        for inputs, ours, theirs in found
    ]
    text = (
        f"`python -m benchmarks embeddings --rounds {rounds}` · {machine()}\n\n"
        f"MiniLM on one thread, texts of 3 to {MOST_WORDS} words; {CLIENTS} clients of the gateway at a time, the bare "
        f"encoder gets one request after the other; medians of {rounds} rounds. Goal: at least {GOAL:g} × the bare "
        f"encoder where a request has several texts: {'met' if met else 'not met'}.\n\n"
        + table(["texts a request", "Trireme texts/s", "bare encoder texts/s", "ratio"], rows)
        + "\n"
    )
    return text, met
