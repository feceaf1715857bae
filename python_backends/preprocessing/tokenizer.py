"""The model's own tokenizer, straight from its tokenizer.json."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import tokenizers


class Memory(Protocol):
    """Ids of texts met before, with or without special tokens. Thread-safe; its lists are the receiver's own."""

    def recall(self, texts: Sequence[str], special: bool) -> list[list[int]] | None:
        """Those of all texts, or None."""
        ...

    def complete(
        self, texts: Sequence[str], special: bool, encode: Callable[[list[str]], list[list[int]]]
    ) -> list[list[int]]:
        """Those of all texts; `encode` makes what is not known."""
        ...


class TextTokenizer:
    """Text ↔ token ids. Thread-safe; `encode` releases the GIL, so long texts belong in a thread.

    `memory`: None where every text is tokenized anew.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, memory: Memory | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._memory = memory

    @classmethod
    def from_dir(cls, model_dir: Path, memory: Memory | None = None) -> "TextTokenizer":
        return cls(tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json")), memory)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: valid ids are 0 … vocab_size - 1."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the tokens that texts do not show."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.encode_many([text], add_special_tokens=add_special_tokens)[0]

    def encode_many(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        if self._memory is None:
            return self._encode(texts, add_special_tokens)
        return self._memory.complete(
            texts, add_special_tokens, lambda unknown: self._encode(unknown, add_special_tokens)
        )

    def recall(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]] | None:
        """What `encode_many` would give, if that costs next to nothing; else None."""
        return None if self._memory is None else self._memory.recall(texts, add_special_tokens)

    def _encode(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        # The fast way leaves out the offsets of each token in the text, which nobody here asks for.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_text(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it, or None for an id outside it."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token
