"""Token ids of texts met before: the same ids, within bounds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from gateway.tokens.cache import ENTRY_BYTES, TokenCache
from gateway.tokens.offload import Offload
from gateway.tokens.recall import RECALL_PIECES, token_ids
from python_backends.preprocessing.prompts import PromptBuilder, Source
from python_backends.preprocessing.tokenizer import TextTokenizer

TEXTS = st.lists(st.sampled_from(["", "a", "b", "ab", "é", "\ud800", "\U0001f6a3"]) | st.text(), max_size=6)


def new_cache(max_bytes: int = 1 << 20) -> TokenCache:
    return TokenCache(max_bytes, Counter("cache", "", ("outcome",), registry=CollectorRegistry()))


def outcomes(cache: TokenCache) -> tuple[float, float]:
    """Hits and misses."""
    return cache._hits._value.get(), cache._misses._value.get()


def letters(texts: list[str]) -> list[list[int]]:
    """A tokenizer of our own: one id a character."""
    return [[ord(letter) for letter in text] for text in texts]


@settings(max_examples=200, deadline=None)
@given(
    batches=st.lists(st.tuples(st.sampled_from(["m", "n"]), st.booleans(), TEXTS), max_size=12),
    room=st.integers(0, 2000),
)
def test_ids_are_those_of_the_tokenizer_and_the_bound_holds(
    batches: list[tuple[str, bool, list[str]]], room: int
) -> None:
    """Models and flags give other ids for the same text: they are never mixed up."""
    cache = new_cache(room)
    for model, special, texts in batches:

        def encode(unknown: list[str], mark: str = f"{model}{special}") -> list[list[int]]:
            return letters([mark + text for text in unknown])

        memory = cache.of(model)
        expected = encode(texts)
        assert memory.complete(texts, special, encode) == expected
        assert memory.recall(texts, special) in (expected, None)
        assert cache.size <= room


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_a_real_tokenizer_gives_the_same_with_and_without(
    tokenizers_of: Callable[[], tuple[TextTokenizer, TextTokenizer]], texts: list[str]
) -> None:
    plain, remembering = tokenizers_of()
    for _ in range(2):
        for special in (True, False):
            expected = plain.encode_many(texts, add_special_tokens=special)
            assert remembering.encode_many(texts, add_special_tokens=special) == expected
            assert remembering.recall(texts, add_special_tokens=special) == expected


@pytest.fixture(scope="module")
def tokenizers_of(model_dir: Path) -> Callable[[], tuple[TextTokenizer, TextTokenizer]]:
    plain, remembering = TextTokenizer.from_dir(model_dir), TextTokenizer.from_dir(model_dir, new_cache().of("tiny"))
    return lambda: (plain, remembering)


def test_only_what_is_unknown_is_tokenized() -> None:
    cache = new_cache()
    memory, asked = cache.of("m"), list[str]()

    def encode(texts: list[str]) -> list[list[int]]:
        asked.extend(texts)
        return letters(texts)

    memory.complete(["a", "b"], True, encode)
    assert memory.complete(["b", "c", "a"], True, encode) == [[98], [99], [97]]
    assert asked == ["a", "b", "c"]
    assert outcomes(cache) == (2, 3)


def test_what_was_used_last_stays() -> None:
    cache = new_cache(2 * (ENTRY_BYTES + 4))
    memory = cache.of("m")
    for text in ("a", "b"):
        memory.complete([text], True, letters)
    assert memory.recall(["a"], True) == [[97]]
    memory.complete(["c"], True, letters)
    assert memory.recall(["b"], True) is None
    assert memory.recall(["a", "c"], True) == [[97], [99]]


def test_what_is_larger_than_the_cache_drives_nothing_out() -> None:
    cache = new_cache(2 * ENTRY_BYTES)
    memory = cache.of("m")
    memory.complete(["a"], True, letters)
    memory.complete(["x" * ENTRY_BYTES], True, letters)
    assert memory.recall(["a"], True) == [[97]]


def test_a_text_that_two_threads_tokenized_counts_once() -> None:
    cache = new_cache()
    for _ in range(2):
        cache.keep(b"key", [1, 2])
    assert cache.size == ENTRY_BYTES + 8


def test_a_list_that_was_given_belongs_to_its_receiver() -> None:
    memory = new_cache().of("m")
    for _ in range(2):
        (ids,) = memory.complete(["ab"], True, letters)
        assert ids == [97, 98]
        ids.clear()


def test_asking_for_what_is_not_known_is_no_miss_yet() -> None:
    cache = new_cache()
    assert cache.of("m").recall(["a"], True) is None
    assert outcomes(cache) == (0, 0)


def test_threads_may_use_it_together() -> None:
    cache = new_cache(20 * ENTRY_BYTES)
    memory, together = cache.of("m"), Barrier(4)

    def work(seed: int) -> bool:
        together.wait()
        texts = [f"{(seed * number) % 37}" for number in range(500)]
        return all(memory.complete([text], True, letters) == letters([text]) for text in texts)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 5)))
    assert cache.size <= 20 * ENTRY_BYTES
    assert cache.size == sum(ENTRY_BYTES + 4 * len(ids) for ids in cache._entries.values())


class Forbidden(ThreadPoolExecutor):
    """A pool in which nothing may run."""

    def submit(self, *_: object, **__: object) -> None:  # type: ignore[override]
        raise AssertionError("went to a thread")


async def test_what_is_known_needs_no_thread(model_dir: Path) -> None:
    builder = PromptBuilder.from_dir(model_dir, new_cache().of("tiny"))
    source = Source(["some text"], [], "prompt")
    with Forbidden(1) as pool:
        offload = Offload(pool, 1)
        with pytest.raises(AssertionError, match="went to a thread"):
            await token_ids(offload, 5000, 1, lambda: source, builder.tokenizer)
        expected = source.encode(builder.tokenizer)
        assert await token_ids(offload, 5000, 1, lambda: source, builder.tokenizer) == expected


async def test_what_takes_long_to_look_up_goes_to_a_thread(model_dir: Path) -> None:
    builder = PromptBuilder.from_dir(model_dir, new_cache().of("tiny"))
    source = Source(["some text"], [], "prompt")
    source.encode(builder.tokenizer)
    with Forbidden(1) as pool:
        for size, pieces in ((5000, RECALL_PIECES + 1), (1 << 20, 1)):
            with pytest.raises(AssertionError, match="went to a thread"):
                await token_ids(Offload(pool, 1), size, pieces, lambda: source, builder.tokenizer)
