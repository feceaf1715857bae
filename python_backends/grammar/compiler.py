"""Constraints as clients write them → constraints that engine and `postprocess` can be held to, or an exact refusal."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from python_backends.grammar.forms import byte_tokenizer, guidance_text
from python_backends.grammar.schemas import RESERVED, Schema, SchemaError, ready, subschemas
from python_backends.messages import Constraint
from python_backends.preprocessing.errors import RequestError

# Small models that may write blanks write nothing else: at most one, after a colon or a comma.
WRITING = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}
ANY_OBJECT: Schema = {"type": "object"}
MAX_PLACES = 200
_LIMITS: dict[str, Any] = {"max_grammar_size": 100_000, "max_lexer_states": 50_000, "verbose_errors": False}
_TEXTS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/')
# What means tokens of one vocabulary, or counts them: the text alone could not be checked against it.
_TOKENWISE = re.compile(r"<\||<\[|\[[^\]\n]*\bmax_tokens\b")


def limits() -> LLParserLimits:
    """Below the engine's own, so that it compiles whatever was compiled here."""
    return LLParserLimits(**_LIMITS)


class Compiler:
    """`tokenizers`: for each of them a constraint must compile; the text's bytes, unless others are given."""

    def __init__(self, tokenizers: Sequence[LLTokenizer] = ()) -> None:
        self._tokenizers = (byte_tokenizer(), *tokenizers)

    def check(self, wanted: Constraint, param: str) -> Constraint:
        """`wanted` as it is to be kept. Raises RequestError that names `param`, and the place in a schema."""
        try:
            constraint = _written(wanted)
            self._try(guidance_text(constraint))
        except SchemaError as error:
            raise RequestError(f"{param}: {error}", param=param, code=error.code) from error
        except _CannotCompileError as error:
            raise self._refusal(wanted, constraint, param, error) from error
        except ValueError as error:
            raise RequestError(f"{param}: {_first_line(error)}", param=param, code="invalid_grammar") from error
        return constraint

    def _try(self, text: str) -> None:
        """Raises _CannotCompileError. The first mask is computed too: only then is it known what can never match."""
        for tokenizer in self._tokenizers:
            matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits())
            if not matcher.is_error():
                matcher.compute_bitmask()
            if matcher.is_error():
                raise _CannotCompileError(matcher.get_error())

    def _refusal(self, wanted: Constraint, constraint: Constraint, param: str, error: Exception) -> RequestError:
        problem, code = _explained(error, constraint)
        if constraint.json_schema is not None:
            place = self._place(constraint.json_schema, str(error))
            return RequestError(f"{param}: {problem} (at {place or 'the top'})", param=param, code=code)
        return RequestError(f"{param}: {problem}", param=param, code=code)

    def _place(self, schema: str, message: str) -> str:
        """The pointer to the innermost schema that fails alone in the same way, "" if it is the whole."""
        root = msgspec.json.decode(schema)
        found = ""
        for number, (pointer, inner) in enumerate(subschemas(root)):
            if number == MAX_PLACES:
                break
            if pointer.startswith(found) and self._fails_alike(inner, root, message):
                found = pointer
        return found

    def _fails_alike(self, schema: Schema, root: Schema, message: str) -> bool:
        shared: Schema = {name: root[name] for name in ("$defs", "definitions") if name in root}
        try:
            self._try(guidance_text(_schema_constraint({**shared, **schema})))
        except (_CannotCompileError, ValueError) as error:
            return _first_line(error) == _first_line(message)
        return False


class _CannotCompileError(Exception):
    """The compiler's own words."""


def _written(wanted: Constraint) -> Constraint:
    """What the engine gets. Raises SchemaError, ValueError."""
    if wanted.json_schema is not None:
        schema = msgspec.json.decode(wanted.json_schema)
        if not isinstance(schema, dict):
            raise SchemaError("a schema must be an object", "", "invalid_schema")
        return _schema_constraint(ready(schema, strict=wanted.strict))
    if wanted.json_object:
        return _schema_constraint(ANY_OBJECT)
    if wanted.grammar is not None:
        _check_tokenwise(wanted.grammar)
    return wanted


def _schema_constraint(schema: Schema) -> Constraint:
    return Constraint(json_schema=json.dumps({RESERVED: WRITING, **schema}, ensure_ascii=False, separators=(",", ":")))


def _check_tokenwise(grammar: str) -> None:
    if _TOKENWISE.search(_TEXTS.sub('""', grammar)):
        raise ValueError("a grammar cannot name special tokens or count tokens: describe the text")


def _explained(error: Exception, constraint: Constraint) -> tuple[str, str]:
    """Words for the client and a code, of what the compiler said."""
    said = _first_line(error)
    if _TOO_MUCH.search(_QUOTED.sub("", said)):
        return f"it is too complex: make it smaller ({said})", "grammar_too_complex"
    if "NoExtension" in said or "Unsatisfiable" in said:
        return f"nothing can ever match it ({said})", _CODES[_kind(constraint)]
    return " ".join(_lines(error)), _CODES[_kind(constraint)]


# Only the first line is all the compiler's own, but for what it quotes of the client's.
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'")
_TOO_MUCH = re.compile(r"too big|too large|\blimit\b|panic|ParserTooComplex|LexerTooComplex")
_CODES = {
    "json_schema": "unsupported_schema",
    "regex": "invalid_regex",
    "grammar": "invalid_grammar",
    "choice": "invalid_grammar",
}


def _kind(constraint: Constraint) -> str:
    return next(name for name in _CODES if getattr(constraint, name) is not None)


def _first_line(error: object) -> str:
    return next(_lines(error), "")[:300]


def _lines(error: object) -> Iterator[str]:
    """At most a few, and nothing of the compiler's insides."""
    for line in str(error).splitlines()[:4]:
        if line.startswith("<"):
            return
        yield line.strip()[:300]
