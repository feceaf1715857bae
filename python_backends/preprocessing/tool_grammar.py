"""Grammars of tool calls, in llguidance's dialect of Lark: names of tools, and arguments by their JSON schema."""

import json
import re
from collections.abc import Mapping

from python_backends.messages import Reasoning
from python_backends.preprocessing.tool_format import Writing

# A small model under a grammar may go on calling for ever.
MAX_CALLS = 16


def call_grammar(
    arguments: Mapping[str, str],
    writing: Writing,
    *,
    parallel: bool,
    special: Mapping[str, int],
    reasoning: Reasoning | None = None,
) -> str:
    """Nothing but calls, at least one; with `reasoning`, the model may think before.

    `arguments`: JSON schema by name of the tool. `special`: ids of the special tokens that calls and thoughts may be
    written with; no text matches them.
    """
    lark = _Lark(special)
    lark.rule("start", *([] if reasoning is None else ["thoughts"]), *lark.calls(writing, writing.trigger, parallel))
    if reasoning is not None:
        lark.thoughts(reasoning)
    lark.functions(arguments, writing)
    return str(lark)


def lazy_grammar(
    arguments: Mapping[str, str],
    writing: Writing,
    *,
    parallel: bool,
    special: Mapping[str, int],
    form: str | None = None,
) -> str:
    """Any text, and once the trigger was written, calls and nothing more. `form`: instead of text, JSON that matches
    this schema, or calls.
    """
    lark = _Lark(special)
    if form is None:
        lark.rule("start", "TEXT", "|", "head", *lark.calls(writing, None, parallel))
        lark.until("head", writing.trigger or "")
    else:
        lark.rule("start", "form", "|", *lark.calls(writing, writing.trigger, parallel))
        lark.rule("form", f"%json {form}")
    lark.functions(arguments, writing)
    return str(lark)


class _Lark:
    """Lines of a grammar."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self._lines: list[str] = []
        self._marks = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None

    def __str__(self) -> str:
        return "\n".join([*self._lines, "TEXT: /(?s:.*)/", r"SPACE: /\s{0,4}/"])

    def rule(self, name: str, *parts: str) -> None:
        self._lines.append(f"{name}: {' '.join(part for part in parts if part)}")

    def until(self, name: str, mark: str) -> None:
        """Any text up to the first `mark`."""
        lazy = "" if mark in self._special else "[lazy]"
        self.rule(f"{name}{lazy}", "TEXT", self.literal(mark))

    def literal(self, text: str) -> str:
        """As strings, and special tokens by their ids."""
        if self._marks is None:
            return _quote(text)
        parts = self._marks.split(text)
        return " ".join(f"<[{self._special[one]}]>" if one in self._special else _quote(one) for one in parts if one)

    def calls(self, writing: Writing, trigger: str | None, parallel: bool) -> list[str]:
        """`trigger`: None where it has been written already."""
        first = (writing.opening + writing.before).removeprefix(writing.trigger or "")
        more = f"({self.literal(writing.separator + writing.before)} call){{0,{MAX_CALLS - 1}}}" if parallel else ""
        return [self.literal((trigger or "") + first), "call", more, self.literal(writing.closing)]

    def functions(self, arguments: Mapping[str, str], writing: Writing) -> None:
        """A call from its name on, and the arguments of each function."""
        self.rule("call", " | ".join(f"call_{number}" for number in range(len(arguments))))
        for number, (name, schema) in enumerate(arguments.items()):
            begin, after = self.literal(name + writing.between), self.literal(writing.after)
            self.rule(f"call_{number}", begin, f"arguments_{number}", after)
            self.rule(f"arguments_{number}", f"%json {schema}")

    def thoughts(self, reasoning: Reasoning) -> None:
        """Where the prompt has begun them they must end; else there may be none."""
        self.until("thought", reasoning.end)
        if reasoning.open:
            self.rule("thoughts", "thought", "SPACE")
        else:
            self.rule("thoughts", f"({self.literal(reasoning.begin)} thought SPACE)?")


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
