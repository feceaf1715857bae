"""Which backend has which beginnings of prompts in its cache, as far as one can tell from what it was sent."""

from collections import OrderedDict
from collections.abc import Sequence


def chain_of(ids: Sequence[int], block: int, most: int, seed: int = 0) -> list[int]:
    """A hash for each whole block of `ids`, which stands for all tokens up to its end too. At most `most` of them."""
    hashes = []
    held = seed
    end = min(len(ids) // block, most) * block
    compared = tuple(ids[:end])
    for start in range(0, end, block):
        held = hash((held, compared[start : start + block]))
        hashes.append(held)
    return hashes


class PrefixIndex:
    """`most`: blocks that are remembered of each backend; those that were not used for the longest time go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._holders: dict[int, int] = {}  # block → a bit for each backend that has it
        self._blocks: dict[str, OrderedDict[int, None]] = {}
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def held(self, backend: str) -> int:
        """Blocks that are remembered of it."""
        return len(self._blocks.get(backend, ()))

    def match(self, chain: Sequence[int]) -> dict[str, int]:
        """How many of the first blocks each backend has, for those that have any."""
        found: dict[str, int] = {}
        having = -1
        for depth, block in enumerate(chain):
            still = self._holders.get(block, 0) & having
            if depth and still != having:
                self._note(having & ~still, depth, found)
            having = still
            if not having:
                return found
        if chain:
            self._note(having, len(chain), found)
        return found

    def add(self, backend: str, chain: Sequence[int]) -> None:
        """It will have these blocks. The last of a chain is forgotten before its first."""
        blocks = self._blocks.setdefault(backend, OrderedDict())
        bit = self._bit(backend)
        for block in reversed(chain):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
                self._holders[block] = self._holders.get(block, 0) | bit
        while len(blocks) > self._most:
            oldest, _ = blocks.popitem(last=False)
            self._drop(oldest, bit)

    def forget(self, backend: str) -> None:
        """It has been restarted, or is gone."""
        bit = self._bits.pop(backend, 0)
        self._names.pop(bit, None)
        for block in self._blocks.pop(backend, ()):
            self._drop(block, bit)

    def _note(self, bits: int, depth: int, found: dict[str, int]) -> None:
        while bits:
            bit = bits & -bits
            found[self._names[bit]] = depth
            bits ^= bit

    def _bit(self, backend: str) -> int:
        """The lowest one that is free."""
        bit = self._bits.get(backend)
        if bit is None:
            bit = 1
            while bit in self._names:
                bit <<= 1
            self._bits[backend] = bit
            self._names[bit] = backend
        return bit

    def _drop(self, block: int, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
