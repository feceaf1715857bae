"""Token ids of texts that were tokenized before: system prompts, retries, conversations that were counted first."""

import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from threading import Lock

from prometheus_client import Counter

# What an entry takes beside its ids, measured: key, array object, place in the dictionary.
ENTRY_BYTES = 224
_KEY_BYTES = 16


class TokenCache:
    """The ids of the texts used last, of all tokenizers together, bounded in bytes. Thread-safe.

    Texts are not kept: a digest stands for them. `outcomes`: a counter by `outcome`, hit or miss.
    """

    def __init__(self, max_bytes: int, outcomes: Counter) -> None:
        self._max_bytes = max_bytes
        self._hits = outcomes.labels("hit")
        self._misses = outcomes.labels("miss")
        self._entries: OrderedDict[bytes, array[int]] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def of(self, model: str) -> "TokenMemory":
        """What the tokenizer of `model` remembers."""
        return TokenMemory(self, model)

    def find(self, keys: Sequence[bytes]) -> list[list[int] | None]:
        with self._lock:
            found = [self._entries.get(key) for key in keys]
            for key, ids in zip(keys, found, strict=True):
                if ids is not None:
                    self._entries.move_to_end(key)
        return [None if ids is None else ids.tolist() for ids in found]

    def keep(self, key: bytes, ids: list[int]) -> None:
        """What alone is larger than the cache is not kept."""
        packed = array("I", ids)
        size = _size(packed)
        if size > self._max_bytes:
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._size += size - (0 if replaced is None else _size(replaced))
            self._entries[key] = packed
            while self._size > self._max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._size -= _size(oldest)

    def count(self, hits: int, misses: int) -> None:
        self._hits.inc(hits)
        self._misses.inc(misses)


class TokenMemory:
    """One tokenizer's part of the cache. Lists that it gives are the receiver's own."""

    def __init__(self, cache: TokenCache, model: str) -> None:
        self._cache = cache
        name = model.encode()
        # Lengths before names and texts: no two combinations have the same bytes.
        self._seeds = [blake2b(struct.pack("<I?", len(name), special) + name, digest_size=_KEY_BYTES)
                       for special in (False, True)]  # fmt: skip

    def recall(self, texts: Sequence[str], special: bool) -> list[list[int]] | None:
        """The ids of all texts, or None if those of any are not known; that is then no miss yet."""
        found = self._cache.find([self._key(text, special) for text in texts])
        known = [ids for ids in found if ids is not None]
        if len(known) < len(found):
            return None
        self._cache.count(len(known), 0)
        return known

    def complete(
        self, texts: Sequence[str], special: bool, encode: Callable[[list[str]], list[list[int]]]
    ) -> list[list[int]]:
        """The ids of all texts; `encode` is asked for those that are not known."""
        keys = [self._key(text, special) for text in texts]
        found = self._cache.find(keys)
        missing = [number for number, ids in enumerate(found) if ids is None]
        self._cache.count(len(keys) - len(missing), len(missing))
        if missing:
            for number, ids in zip(missing, encode([texts[number] for number in missing]), strict=True):
                self._cache.keep(keys[number], ids)
                found[number] = ids
        return [ids for ids in found if ids is not None]

    def _key(self, text: str, special: bool) -> bytes:
        """Text from JSON has no lone surrogates; from elsewhere they are told apart as well."""
        digest = self._seeds[special].copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()


def _size(ids: "array[int]") -> int:
    return ENTRY_BYTES + ids.itemsize * len(ids)
