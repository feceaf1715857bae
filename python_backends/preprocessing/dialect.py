"""How one model writes what is more than text: tool calls and thoughts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from python_backends.messages import Reasoning, ToolFormat
from python_backends.preprocessing.reasoning import AUTO, reasoning_after, reasoning_tags
from python_backends.preprocessing.tokenizer import TextTokenizer
from python_backends.preprocessing.tool_format import tool_format

# Tags that may be special tokens, which a text shows only on demand.
_MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")
_PROMPT_END = 8


@dataclass(frozen=True)
class Parsers:
    """Names of formats, or `auto`: what the chat template shows."""

    tool: str = AUTO
    reasoning: str = AUTO


@dataclass(frozen=True)
class Dialect:
    """`tags`: what stands around thoughts, where the model has them. `special`: which of its tags are special tokens,
    with their ids.
    """

    form: ToolFormat
    tags: tuple[str, str] | None = None
    special: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: TextTokenizer, template: str | None, parsers: Parsers) -> "Dialect":
        """Raises ValueError for unknown names."""
        tags = reasoning_tags(parsers.reasoning, template)
        known = tokenizer.special_tokens
        special = {mark: known[mark] for mark in (*_MARKS, *(tags or ())) if mark in known}
        return cls(tool_format(parsers.tool, template), tags, special)

    def reasoning(self, prompt: Sequence[int], tokenizer: TextTokenizer) -> Reasoning | None:
        """How the answer to a prompt (token ids) is to be split."""
        if self.tags is None:
            return None
        return reasoning_after(tokenizer.decode(list(prompt[-_PROMPT_END:]), skip_special_tokens=False), self.tags)
