"""A checked request → the exact token ids of each prompt, and how many tokens may be generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from python_backends.messages import Reasoning
from python_backends.preprocessing.dialect import Dialect, Parsers
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import (
    ChatRequest,
    EmbeddingRequest,
    GenerationRequest,
    Inputs,
)
from python_backends.preprocessing.template import ChatTemplate
from python_backends.preprocessing.tokenizer import Memory, TextTokenizer
from python_backends.preprocessing.tool_format import writing_of


@dataclass(frozen=True, slots=True)
class Source:
    """What prompts are made of: `texts`, or token ids that the client sent. `param`: the field they came in.

    `special`: the tokenizer's own special tokens stand around texts.
    """

    texts: list[str]
    lists: list[list[int]]
    param: str
    special: bool = True

    def recall(self, tokenizer: TextTokenizer) -> list[list[int]] | None:
        """What `encode` would give, if that costs next to nothing; else None. Raises RequestError."""
        if self.lists:
            return None
        ids = tokenizer.recall(self.texts, add_special_tokens=self.special)
        return None if ids is None else self._checked(ids)

    def encode(self, tokenizer: TextTokenizer) -> list[list[int]]:
        """Token ids of each prompt. CPU-bound. Raises RequestError."""
        if self.texts:
            return self._checked(tokenizer.encode_many(self.texts, add_special_tokens=self.special))
        prompts, vocab_size = self._checked(self.lists), tokenizer.vocab_size
        for number, ids in enumerate(prompts):
            if max(ids) >= vocab_size:
                where = self._place(number)
                raise RequestError(
                    f"{where} holds token id {max(ids)}; this model's ids end at {vocab_size - 1}", param=where
                )
        return prompts

    def _checked(self, prompts: list[list[int]]) -> list[list[int]]:
        if all(prompts):
            return prompts
        where = self._place(next(number for number, ids in enumerate(prompts) if not ids))
        raise RequestError(f"{where} is empty: it has no tokens", param=where)

    def _place(self, number: int) -> str:
        return f"{self.param}[{number}]" if max(len(self.texts), len(self.lists)) > 1 else self.param


class PromptBuilder:
    """Prompts of one generation model. CPU-bound: call it from a thread when the text is long."""

    def __init__(self, tokenizer: TextTokenizer, template: ChatTemplate | None, dialect: Dialect) -> None:
        self.tokenizer = tokenizer
        self.dialect = dialect
        self._template = template

    @classmethod
    def from_dir(
        cls, model_dir: Path, memory: Memory | None = None, *, parsers: Parsers | None = None
    ) -> "PromptBuilder":
        """Raises ValueError for a parser that there is not."""
        tokenizer, template = TextTokenizer.from_dir(model_dir, memory), ChatTemplate.from_dir(model_dir)
        source = template.source if template else None
        return cls(tokenizer, template, Dialect.of(tokenizer, source, parsers or Parsers()))

    def build(self, request: GenerationRequest) -> list[list[int]]:
        """One list of token ids for each prompt; a chat has exactly one. Raises RequestError."""
        return self.source(request).encode(self.tokenizer)

    def chat(self, request: ChatRequest) -> list[int]:
        """The conversation's ids. Raises RequestError."""
        return self._conversation(request).encode(self.tokenizer)[0]

    def reasoning(self, request: GenerationRequest, ids: Sequence[int]) -> Reasoning | None:
        """How the answer to a chat's prompt is to be split."""
        return self.dialect.reasoning(ids, self.tokenizer) if isinstance(request, ChatRequest) else None

    def source(self, request: GenerationRequest) -> Source:
        """A conversation as the template writes it, or a completion's prompts. Raises RequestError."""
        if isinstance(request, ChatRequest):
            return self._conversation(request)
        return _source(request.prompt or [], "prompt")

    def _conversation(self, request: ChatRequest) -> Source:
        """The template writes every special token itself."""
        if self._template is None:
            raise RequestError("this model has no chat template: use /v1/completions", param="messages")
        text = self._template.render(
            request.messages or [], tools=request.offered, writing=writing_of(self.dialect.form)
        )
        return Source([text], [], "messages", special=False)


def embedding_source(request: EmbeddingRequest) -> Source:
    return _source(request.input, "input")


def completion_budget(requested: int | None, prompt_tokens: int, max_model_len: int) -> int:
    """How many tokens may be generated: what was asked for, or the room left in the context.

    Raises RequestError (`context_length_exceeded`) when prompt and answer do not fit together.
    """
    room = max_model_len - prompt_tokens
    if room < 1 or (requested or 0) > room:
        asked = f" and {requested} for the answer" if requested else ""
        raise RequestError(
            f"this model's context is {max_model_len} tokens, and the request needs {prompt_tokens} for the prompt"
            f"{asked}: shorten the prompt or lower max_tokens",
            param="max_tokens" if room >= 1 else None,
            code="context_length_exceeded",
        )
    return room if requested is None else requested


def _source(inputs: Inputs, param: str) -> Source:
    """Parsing made sure that a list holds one kind of thing only."""
    if isinstance(inputs, str):
        return Source([inputs], [], param)
    if texts := [one for one in inputs if isinstance(one, str)]:
        return Source(texts, [], param)
    if lists := [one for one in inputs if isinstance(one, list)]:
        return Source([], lists, param)
    return Source([], [[one for one in inputs if isinstance(one, int)]], param)
