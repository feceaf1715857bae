"""A checked request → the exact token ids of each prompt, and how many tokens may be generated."""

from pathlib import Path

from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    Inputs,
)
from python_backends.preprocessing.template import ChatTemplate
from python_backends.preprocessing.tokenizer import TextTokenizer


class PromptBuilder:
    """Prompts of one generation model. CPU-bound: call it from a thread when the text is long."""

    def __init__(self, tokenizer: TextTokenizer, template: ChatTemplate | None) -> None:
        self.tokenizer = tokenizer
        self._template = template

    @classmethod
    def from_dir(cls, model_dir: Path) -> "PromptBuilder":
        return cls(TextTokenizer.from_dir(model_dir), ChatTemplate.from_dir(model_dir))

    def build(self, request: GenerationRequest) -> list[list[int]]:
        """One list of token ids for each prompt; a chat has exactly one. Raises RequestError."""
        if isinstance(request, ChatRequest):
            return [self.chat(request)]
        return self.completion(request)

    def chat(self, request: ChatRequest) -> list[int]:
        """The conversation's ids; the template writes every special token itself. Raises RequestError."""
        if self._template is None:
            raise RequestError("this model has no chat template: use /v1/completions", param="messages")
        text = self._template.render(request.messages or [])
        return self.tokenizer.encode(text, add_special_tokens=False)

    def completion(self, request: CompletionRequest) -> list[list[int]]:
        """Ids of each prompt, with the tokenizer's special tokens around texts. Raises RequestError."""
        return _ids_of(request.prompt or [], self.tokenizer, "prompt")


def embedding_inputs(request: EmbeddingRequest, tokenizer: TextTokenizer) -> list[list[int]]:
    """Token ids of each input, with the tokenizer's special tokens around texts. Raises RequestError."""
    return _ids_of(request.input, tokenizer, "input")


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


def _ids_of(inputs: Inputs, tokenizer: TextTokenizer, param: str) -> list[list[int]]:
    prompts = _tokenize(inputs, tokenizer)
    for number, ids in enumerate(prompts):
        where = f"{param}[{number}]" if len(prompts) > 1 else param
        if not ids:
            raise RequestError(f"{where} is empty: it has no tokens", param=where)
        if max(ids) >= tokenizer.vocab_size:
            raise RequestError(
                f"{where} holds token id {max(ids)}; this model's ids end at {tokenizer.vocab_size - 1}", param=where
            )
    return prompts


def _tokenize(inputs: Inputs, tokenizer: TextTokenizer) -> list[list[int]]:
    """Parsing made sure that a list holds one kind of thing only."""
    if isinstance(inputs, str):
        return [tokenizer.encode(inputs)]
    if texts := [one for one in inputs if isinstance(one, str)]:
        return tokenizer.encode_many(texts)
    if lists := [one for one in inputs if isinstance(one, list)]:
        return lists
    return [[one for one in inputs if isinstance(one, int)]]
