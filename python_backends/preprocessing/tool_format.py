"""How models write tool calls: one table, for the prompts that ask for them and the grammars that make them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from python_backends.messages import ToolFormat

FORMATS: tuple[ToolFormat, ...] = get_args(ToolFormat)
AUTO = "auto"


@dataclass(frozen=True)
class Writing:
    """Calls as text: `opening`, then for each call `before`, its name, `between`, its arguments, `after`; between two
    calls `separator`, at last `closing`.

    `trigger`: with what calls begin wherever they stand, or None where they may only be the whole answer.
    """

    before: str
    between: str
    after: str
    separator: str
    opening: str = ""
    closing: str = ""
    trigger: str | None = None

    def call(self, name: str, arguments: str) -> str:
        """`arguments`: JSON."""
        return f"{self.before}{name}{self.between}{arguments}{self.after}"

    def calls(self, calls: Iterable[tuple[str, str]]) -> str:
        written = self.separator.join(self.call(name, arguments) for name, arguments in calls)
        return f"{self.opening}{written}{self.closing}"


_JSON = Writing(
    opening="[",
    before='{"name": "',
    between='", "arguments": ',
    after="}",
    separator=", ",
    closing="]",
)
_WRITINGS: dict[ToolFormat, Writing] = {
    "hermes": Writing(
        before='<tool_call>\n{"name": "',
        between='", "arguments": ',
        after="}\n</tool_call>",
        separator="\n",
        trigger="<tool_call>",
    ),
    "llama3_json": Writing(before='{"name": "', between='", "parameters": ', after="}", separator="; "),
    "mistral": Writing(
        opening="[TOOL_CALLS][",
        before='{"name": "',
        between='", "arguments": ',
        after="}",
        separator=", ",
        closing="]",
        trigger="[TOOL_CALLS]",
    ),
    "json": _JSON,
}


def writing_of(form: ToolFormat) -> Writing:
    """Python's own syntax has no JSON schema: where a call is forced upon such a model, it writes JSON."""
    return _WRITINGS.get(form, _JSON)


def trigger_writing(form: ToolFormat) -> Writing | None:
    """Of formats in which calls show by how they begin."""
    writing = _WRITINGS.get(form)
    return writing if writing is not None and writing.trigger is not None else None


def forced(form: ToolFormat) -> ToolFormat:
    """In which format a call is written that a grammar forces."""
    return form if form in _WRITINGS else "json"


def tool_format(name: str, template: str | None) -> ToolFormat:
    """The format that a setting names; `auto`: the one that the chat template shows. Raises ValueError."""
    if name == AUTO:
        return detect(template or "")
    for known in FORMATS:
        if name == known:
            return known
    raise ValueError(f"tool parser {name!r}: use one of {', '.join((AUTO, *FORMATS))}")


def detect(template: str) -> ToolFormat:
    """By the words that a template uses for calls; hermes, which is told to models whose template has none."""
    for words, form in _SIGNS:
        if any(word in template for word in words):
            return form
    return "hermes"


_SIGNS: tuple[tuple[tuple[str, ...], ToolFormat], ...] = (
    (("<tool_call>",), "hermes"),
    (("[TOOL_CALLS]",), "mistral"),
    (("func_name1(",), "pythonic"),
    (("<|python_tag|>", '"parameters": '), "llama3_json"),
)


def arguments_object(text: str) -> object:
    """Arguments of a call as templates expect them: an object; what is none stays a text."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
