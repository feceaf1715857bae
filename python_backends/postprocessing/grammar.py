"""Does an answer match what was asked for? Checked while it comes, whatever the engine has promised.

The answer's bytes are fed to the compiler that the engine uses, without the engine's vocabulary or its state.
"""

from collections import OrderedDict
from functools import cache
from typing import Protocol

import jsonschema_rs
import msgspec
from llguidance import LLMatcher, LLTokenizer

from python_backends.grammar.compiler import limits
from python_backends.grammar.forms import byte_tokenizer, guidance_text
from python_backends.messages import VIOLATION, Constraint, ErrorBody, FinishReason, GrammarOutcome
from python_backends.postprocessing.closing import closing
from python_backends.postprocessing.errors import StreamError

REMEMBERED = 256
_ANY_JSON = Constraint(json_schema='{"x-guidance":{"whitespace_flexible":true}}')
# Patterns are matched in linear time, whatever they are.
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=10 << 20)


class Verifier(Protocol):
    """Of one answer."""

    outcome: GrammarOutcome | None

    def feed(self, text: str) -> None:
        """Raises StreamError."""
        ...

    def finish(self, reason: FinishReason, *, by_stop_string: bool) -> str:
        """What is to be added to the answer. Raises StreamError."""
        ...


class AnyText:
    """Where nothing was asked for."""

    outcome: GrammarOutcome | None = None

    def feed(self, text: str) -> None:
        """Any text will do."""

    def finish(self, reason: FinishReason, *, by_stop_string: bool) -> str:
        return ""


class Grammar:
    """One constraint, compiled for any number of answers."""

    def __init__(self, constraint: Constraint) -> None:
        """Raises StreamError where it cannot be compiled."""
        self._start = _matcher(constraint)
        self._is_json = constraint.json_schema is not None or constraint.json_object
        self._schema = _validator(constraint)

    def begin(self) -> LLMatcher:
        return self._start.deep_copy()

    def problem(self, text: str) -> str | None:
        """What is wrong with a whole answer that matches the grammar, None if nothing."""
        if self._schema is None:
            return None
        try:
            self._schema.validate(msgspec.json.decode(text))
        except jsonschema_rs.ValidationError as error:
            return "it breaks its schema at {}".format("".join(f"/{step}" for step in error.instance_path) or "the top")
        except (msgspec.DecodeError, RecursionError):
            return "it is not valid JSON"
        return None

    def closed(self, text: str) -> str | None:
        """The end of an answer that was cut: by its grammar, else as any JSON, None if there is neither."""
        end = self._end(self._start, text)
        return self._end(_any_json(), text) if end is None else end

    def _end(self, start: LLMatcher, text: str) -> str | None:
        matcher, written = start.deep_copy(), text.encode()
        if not self._is_json or not matcher.consume_tokens(list(written)):
            return None
        end = closing(matcher, written)
        return None if end is None else end.decode()


class GrammarVerifier:
    """`close`: end JSON that was cut by `max_tokens`."""

    def __init__(self, grammar: Grammar, *, close: bool) -> None:
        self._grammar = grammar
        self._close = close
        self._matcher = grammar.begin()
        self._texts: list[str] = []
        self.outcome: GrammarOutcome | None = None

    def feed(self, text: str) -> None:
        """Raises StreamError for text that cannot belong to an answer of the form that was asked for."""
        if not text:
            return
        if not self._matcher.consume_tokens(list(text.encode())):
            raise violated("it leaves the form that was asked for")
        self._texts.append(text)

    def finish(self, reason: FinishReason, *, by_stop_string: bool) -> str:
        """Raises StreamError for an answer that the model ended too early, or that breaks its schema."""
        if reason not in ("stop", "length"):
            return ""
        text = "".join(self._texts)
        if self._matcher.is_accepting():
            if problem := self._grammar.problem(text):
                raise violated(problem)
            self.outcome = "valid"
            return ""
        if reason == "stop" and not by_stop_string:
            raise violated("it ends before it is whole")
        return self._cut(text, reason)

    def _cut(self, text: str, reason: FinishReason) -> str:
        end = self._grammar.closed(text) if self._close and reason == "length" else None
        self.outcome = "truncated" if end is None else "closed"
        return end or ""


class Grammars:
    """The constraints of late, compiled."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Grammar] = OrderedDict()

    def verifier(self, constraint: Constraint | None, *, close: bool) -> Verifier:
        """Raises StreamError where the constraint cannot be compiled."""
        return AnyText() if constraint is None else GrammarVerifier(self._of(constraint), close=close)

    def _of(self, constraint: Constraint) -> Grammar:
        key = repr(constraint)
        grammar = self._known.get(key)
        if grammar is None:
            grammar = self._known[key] = Grammar(constraint)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return grammar


def violated(problem: str) -> StreamError:
    message = f"the answer was ended: {problem}"
    return StreamError(ErrorBody(message=message, type="server_error", code=VIOLATION))


@cache
def _bytes() -> LLTokenizer:
    return byte_tokenizer()


@cache
def _any_json() -> LLMatcher:
    return _matcher(_ANY_JSON)


def _matcher(constraint: Constraint) -> LLMatcher:
    matcher = LLMatcher(_bytes(), guidance_text(constraint), log_level=0, limits=limits())
    if matcher.is_error():
        raise violated("what it must match cannot be compiled")
    return matcher


def _validator(constraint: Constraint) -> jsonschema_rs.Validator | None:
    if constraint.json_schema is None:
        return None
    schema = msgspec.json.decode(constraint.json_schema)
    return jsonschema_rs.Draft202012Validator(schema, offline=True, validate_formats=True, pattern_options=_PATTERNS)
