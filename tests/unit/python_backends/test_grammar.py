"""What answers must match: schemas are refused where they fail, and what is kept is exactly what was meant."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from python_backends.grammar.checker import CheckerUnavailableError, GrammarChecker, GrammarLimits
from python_backends.grammar.compiler import WRITING, Compiler
from python_backends.grammar.schemas import RESERVED
from python_backends.messages import Constraint
from python_backends.preprocessing.errors import RequestError

PARAM = "response_format.json_schema.schema"
# Compiling this takes seconds.
SLOW = {"type": "object", "properties": {f"k{n}": {"type": "integer"} for n in range(2000)}}


def schema_of(schema: Any, *, strict: bool = True) -> Constraint:
    return Constraint(json_schema=json.dumps(schema), strict=strict)


def nested(inner: Any) -> Any:
    return {"type": "object", "properties": {"a/b": {"type": "array", "items": inner}}}


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler()


def kept(compiler: Compiler, schema: Any, *, strict: bool = True) -> dict[str, Any]:
    """The schema that is left, without how it is to be written."""
    ready: dict[str, Any] = json.loads(compiler.check(schema_of(schema, strict=strict), PARAM).json_schema or "")
    assert ready.pop(RESERVED) == WRITING
    return ready


def refused(compiler: Compiler, wanted: Constraint) -> RequestError:
    with pytest.raises(RequestError) as caught:
        compiler.check(wanted, PARAM)
    assert caught.value.param == PARAM
    return caught.value


@pytest.mark.parametrize(
    ("inner", "place", "names", "code"),
    [
        ({"not": {"type": "string"}}, "/not", "'not'", "unsupported_schema"),
        ({"type": "array", "uniqueItems": True}, "/uniqueItems", "'uniqueItems'", "unsupported_schema"),
        ({"if": {}, "then": {}}, "/if", "'if'", "unsupported_schema"),
        ({"type": "string", "format": "int32"}, "/format", "'int32'", "unsupported_schema"),
        ({"$ref": "https://example.com/schema"}, "/$ref", "$ref", "unsupported_schema"),
        ({"$ref": "#name"}, "/$ref", "$ref", "unsupported_schema"),
        ({"$schema": "http://127.0.0.1:1/mine"}, "/$schema", "$schema", "unsupported_schema"),
        ({RESERVED: {"lenient": True}}, f"/{RESERVED}", RESERVED, "unsupported_schema"),
        ({"type": "strin"}, "/type", "strin", "invalid_schema"),
        ({"required": "a"}, "/required", "array", "invalid_schema"),
        ({"type": "string", "pattern": "(?=a)b"}, "", "look-ahead", "unsupported_schema"),
        ({"$ref": "#/$defs/nowhere"}, "", "nowhere", "unsupported_schema"),
    ],
)
def test_a_schema_is_refused_by_the_keyword_and_where_it_stands(
    compiler: Compiler, inner: Any, place: str, names: str, code: str
) -> None:
    error = refused(compiler, schema_of(nested(inner)))
    assert error.code == code
    assert names in error.message
    assert error.message.endswith(f"(at /properties/a~1b/items{place})")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"$ref": "#"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "properties": {}, "required": ["a"]},
    ],
)
def test_what_nothing_can_satisfy_is_refused(compiler: Compiler, schema: Any) -> None:
    error = refused(compiler, schema_of(schema))
    assert error.code == "unsupported_schema"
    assert "nothing can ever match it" in error.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 1000, "maxItems": 100_000, "items": {"type": "string"}},
        {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {"minimum": i}}} for j in range(4)]} for i in range(10)]},
    ],
)
def test_what_is_too_large_is_refused_as_that(compiler: Compiler, schema: Any) -> None:
    assert refused(compiler, schema_of(schema)).code == "grammar_too_complex"


def test_a_schema_that_is_nested_too_deeply_is_refused(compiler: Compiler) -> None:
    schema: Any = {"type": "integer"}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    assert "levels deep" in refused(compiler, schema_of(schema)).message


def test_strict_objects_are_closed_unless_they_say_something_else(compiler: Compiler) -> None:
    closed, named = {"additionalProperties": False}, {"type": "object", "properties": {"a": {}}}
    assert kept(compiler, nested(named)) == nested({**named, **closed}) | closed
    for other in (True, {"type": "string"}):
        assert kept(compiler, {**named, "additionalProperties": other})["additionalProperties"] == other
    assert kept(compiler, {"type": "object"}) == {"type": "object"}
    assert kept(compiler, named, strict=False) == named


def test_combined_schemas_stay_open_to_each_other(compiler: Compiler) -> None:
    one = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    two = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}
    schema = {"allOf": [one, {"$ref": "#/$defs/two"}], "$defs": {"two": two}}
    assert kept(compiler, schema) == schema


def test_what_is_no_keyword_is_not_mistaken_for_one(compiler: Compiler) -> None:
    schema = {
        "type": "object",
        "properties": {"not": {"type": "string"}, "format": {"enum": ["x", {"not": 1}]}, "$ref": {"const": {"if": 1}}},
        "additionalProperties": False,
    }
    assert kept(compiler, schema) == schema


def test_what_cannot_be_kept_is_left_out_where_nobody_insists(compiler: Compiler) -> None:
    inner = {"type": "string", "format": "int32", "not": {"const": "x"}, "minLength": 2}
    assert kept(compiler, nested(inner), strict=False) == nested({"type": "string", "minLength": 2})
    either = [{"type": "string"}, {"type": "string", "maxLength": 3}]
    assert kept(compiler, {"oneOf": either}, strict=False) == {"anyOf": either}
    assert refused(compiler, schema_of({"oneOf": either})).code == "unsupported_schema"
    assert refused(compiler, schema_of({"type": "strin"}, strict=False)).code == "invalid_schema"


def test_any_object_is_a_schema_too(compiler: Compiler) -> None:
    ready = compiler.check(Constraint(json_object=True), PARAM)
    assert json.loads(ready.json_schema or "") == {RESERVED: WRITING, "type": "object"}


@pytest.mark.parametrize(
    "wanted",
    [
        Constraint(regex=r"\d{3}-\d{4}"),
        Constraint(choice=["yes", "naïve 🛶", 'say "no"', "back\\slash\n"]),
        Constraint(grammar='start: "a" NUMBER\nNUMBER: /[0-9]+/'),
        Constraint(grammar='root ::= "a" digits\ndigits ::= [0-9]+'),
        Constraint(grammar='start: "<|im_end|>"'),
    ],
)
def test_other_forms_are_kept_as_they_are(compiler: Compiler, wanted: Constraint) -> None:
    assert compiler.check(wanted, PARAM) == wanted


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (Constraint(regex="("), "invalid_regex"),
        (Constraint(regex="(?=a)b"), "invalid_regex"),
        (Constraint(regex=r"(a)\1"), "invalid_regex"),
        (Constraint(regex="too large (?=limit)"), "invalid_regex"),
        (Constraint(regex='"limit" (?=panic)'), "invalid_regex"),
        (Constraint(grammar="start: limit"), "invalid_grammar"),
        (Constraint(regex=r"[^\s\S]"), "invalid_regex"),
        (Constraint(grammar="start: nowhere"), "invalid_grammar"),
        (Constraint(grammar="start: start"), "invalid_grammar"),
        (Constraint(grammar="root ::= " + "(" * 5000), "invalid_grammar"),
        (Constraint(grammar="start: " + "(" * 5000 + '"a"' + ")" * 5000), "invalid_grammar"),
        (Constraint(grammar="start: <|im_end|>"), "invalid_grammar"),
        (Constraint(grammar="start: <[12]>"), "invalid_grammar"),
        (Constraint(grammar="start: x\nx[max_tokens=3]: /.*/"), "invalid_grammar"),
        (Constraint(grammar="start: T0\n" + "".join(f"T{n}: T{n + 1} T{n + 1}\n" for n in range(30)) + 'T30: "a"'),
         "grammar_too_complex"),
    ],
)  # fmt: skip
def test_other_forms_that_make_no_sense_are_refused(compiler: Compiler, wanted: Constraint, code: str) -> None:
    assert refused(compiler, wanted).code == code


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def test_the_process_answers_as_the_compiler_does(compiler: Compiler, model_dir: Path) -> None:
    checker = GrammarChecker(model_dir)
    try:
        good, bad = schema_of(nested({"type": "string"})), schema_of(nested({"not": {}}))
        assert checker.recall(good, PARAM) is None
        assert checker.check(good, PARAM) == compiler.check(good, PARAM) == checker.recall(good, PARAM)
        for ask in (checker.check, checker.recall):
            with pytest.raises(RequestError) as caught:
                ask(bad, PARAM)
            assert caught.value.message == refused(compiler, bad).message
    finally:
        checker.stop()


def test_what_computes_for_too_long_is_refused_and_others_go_on(model_dir: Path) -> None:
    checker = GrammarChecker(model_dir, GrammarLimits(cpu_s=0.1))
    try:
        for _ in range(2):
            with pytest.raises(RequestError, match=r"more than 0\.1 s"):
                checker.check(schema_of(SLOW), PARAM)
        assert checker.check(Constraint(regex="a+"), PARAM).regex == "a+"
    finally:
        checker.stop()


def test_what_is_larger_than_allowed_is_not_even_tried(model_dir: Path) -> None:
    checker = GrammarChecker(model_dir, GrammarLimits(max_bytes=10))
    with pytest.raises(RequestError, match="12 bytes are more than the 10 allowed"):
        checker.check(Constraint(choice=["12345", "1234567"]), PARAM)


def test_verdicts_are_forgotten_when_there_are_too_many(model_dir: Path) -> None:
    checker = GrammarChecker(model_dir, GrammarLimits(remembered=2))
    try:
        forms = [Constraint(regex=text) for text in ("a", "b", "c")]
        for one in forms:
            checker.check(one, PARAM)
        assert [checker.recall(one, PARAM) for one in forms] == [None, *forms[1:]]
    finally:
        checker.stop()


def test_a_compiler_that_does_not_start_is_nobodys_fault(tmp_path: Path) -> None:
    checker = GrammarChecker(tmp_path)
    with pytest.raises(CheckerUnavailableError, match="does not start"):
        checker.check(Constraint(regex="a"), PARAM)
