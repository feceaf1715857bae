"""JSON schemas of many kinds, whose answers are short; and some that cannot be kept."""

from typing import Any

Schema = dict[str, Any]


def an_object(*, required: list[str] | None = None, **properties: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names}


WORD: Schema = {"type": "string", "maxLength": 12}
DIGIT: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
TREE = an_object(value=DIGIT, children={"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2})


def _text(**keywords: Any) -> Schema:
    return {"type": "string", **keywords}


def _number(kind: str, **keywords: Any) -> Schema:
    return {"type": kind, **keywords}


def _list(items: Schema, **keywords: Any) -> Schema:
    return {"type": "array", "items": items, "maxItems": 3, **keywords}


def _deep(levels: int) -> Schema:
    inner: Schema = DIGIT
    for level in range(levels):
        inner = an_object(next=inner) if level % 2 else _list(inner, minItems=1, maxItems=1)
    return inner


SCHEMAS: dict[str, Schema] = {
    # objects
    "person": an_object(name=WORD, age=_number("integer", minimum=0, maximum=120)),
    "all optional": an_object(required=[], a=DIGIT, b=WORD),
    "some optional": an_object(required=["b"], a=DIGIT, b=WORD, c={"type": "boolean"}),
    "nothing allowed": {"type": "object", "additionalProperties": False},
    "open to digits": {"type": "object", "additionalProperties": DIGIT, "maxProperties": 3},
    "at least two": {"type": "object", "additionalProperties": DIGIT, "minProperties": 2, "maxProperties": 2},
    "by the name's pattern": {
        "type": "object",
        "patternProperties": {"^n[0-9]$": DIGIT},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "nested": an_object(who=an_object(name=WORD, at=an_object(street=WORD, number=DIGIT))),
    "names with blanks and quotes": an_object(**{"first name": DIGIT, 'a "b"': DIGIT, "c\\d": DIGIT, "e/f~g": DIGIT}),
    "names beyond ASCII": an_object(größe=DIGIT, 名前=DIGIT, **{"🛶": DIGIT}),
    "names like keywords": an_object(**{"not": DIGIT, "$ref": DIGIT, "type": DIGIT, "properties": DIGIT}),
    "many members": an_object(**{f"m{number}": {"type": "boolean"} for number in range(10)}),
    # arrays
    "digits": _list(DIGIT),
    "exactly three": _list(DIGIT, minItems=3),
    "at least one word": _list(WORD, minItems=1),
    "objects in a list": _list(an_object(id=DIGIT), minItems=1, maxItems=2),
    "a pair": {"type": "array", "prefixItems": [WORD, DIGIT], "items": False, "minItems": 2},
    "a pair and more": {"type": "array", "prefixItems": [WORD], "items": DIGIT, "minItems": 2, "maxItems": 3},
    "a matrix": _list(_list(DIGIT, minItems=2, maxItems=2), minItems=2, maxItems=2),
    "nothing in it": {"type": "array", "maxItems": 0},
    # fixed values
    "colour": {"enum": ["red", "green", "blue"]},
    "mixed values": {"enum": [1, "one", None, True, 2.5, [1, 2], {"a": 1}]},
    "one value": {"const": {"version": 1, "name": "fixed"}},
    "beyond ASCII": {"enum": ["größer", "日本", "🛶", 'say "no"', "a\nb", "back\\slash"]},
    "in an object": an_object(kind={"const": "circle"}, fill={"enum": ["solid", None]}),
    # numbers
    "percent": _number("integer", minimum=0, maximum=100),
    "negative": _number("integer", minimum=-50, maximum=-5),
    "between": _number("integer", exclusiveMinimum=0, exclusiveMaximum=10),
    "at least": _number("integer", minimum=1000, maximum=99999),
    "a fraction": _number("number", minimum=0, maximum=1, multipleOf=0.01),
    "an open fraction": _number("number", exclusiveMinimum=-1, exclusiveMaximum=1, multipleOf=0.125),
    "even": _number("integer", multipleOf=2, minimum=0, maximum=100),
    # strings
    "short": WORD,
    "some length": _text(minLength=3, maxLength=10),
    "a code": _text(pattern="^[A-Z]{3}-[0-9]{2,4}$"),
    "a pattern anywhere": _text(pattern="[0-9]{2}", maxLength=12),
    "a pattern beyond ASCII": _text(pattern="^(größe|名前)[äöü]{1,3}$"),
    "date": _text(format="date"),
    "time": _text(format="time"),
    "date and time": _text(format="date-time"),
    "uuid": _text(format="uuid"),
    "ipv4": _text(format="ipv4"),
    "duration": _text(format="duration", maxLength=12),
    "mail": _text(pattern="^[a-z]{1,8}@[a-z]{1,8}\\.(org|com)$"),
    # either, or, and both
    "either": {"anyOf": [DIGIT, WORD, {"type": "null"}]},
    "a word or nothing": {"type": ["string", "null"], "maxLength": 8},
    "exactly one": {"oneOf": [an_object(kind={"const": "a"}, x=DIGIT), an_object(kind={"const": "b"}, y=WORD)]},
    "both": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "objects combined": {"allOf": [an_object(a=DIGIT), an_object(b=DIGIT)], "type": "object"},
    "kinds of shapes": an_object(
        shape={"anyOf": [an_object(radius=DIGIT), an_object(width=DIGIT, height=DIGIT)]},
    ),
    # references
    "a reference": {**an_object(home={"$ref": "#/$defs/at"}, work={"$ref": "#/$defs/at"}),
                    "$defs": {"at": an_object(city=WORD)}},
    "the older name": {**an_object(at={"$ref": "#/definitions/at"}), "definitions": {"at": an_object(city=WORD)}},
    "a tree": {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
    "a chain": {"$ref": "#/$defs/a", "$defs": {"a": an_object(b={"$ref": "#/$defs/b"}), "b": an_object(c=DIGIT)}},
    "a list that goes on": {"$ref": "#/$defs/cell", "$defs": {"cell": {"anyOf": [
        {"type": "null"}, an_object(head=DIGIT, tail={"$ref": "#/$defs/cell"})]}}},
    # depth, and what says nothing
    "ten deep": _deep(10),
    "twenty deep": _deep(20),
    "annotated": {**an_object(a={**DIGIT, "title": "A", "description": "a digit", "default": 1, "examples": [3]}),
                  "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/s",
                  "title": "Annotated", "$comment": "nothing of this matters"},
}  # fmt: skip

UNSUPPORTED: dict[str, Schema] = {
    "not": {"not": {"type": "string"}},
    "conditions": {"if": {"type": "object"}, "then": {"required": ["a"]}},
    "unique items": _list(DIGIT, uniqueItems=True),
    "contains": {"type": "array", "contains": DIGIT},
    "dependent members": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "names by a schema": {"type": "object", "propertyNames": {"maxLength": 3}},
    "another document": {"$ref": "https://example.com/schema.json"},
    "a dynamic reference": {"$dynamicRef": "#node"},
    "an unknown format": _text(format="credit-card"),
    "a look-ahead": _text(pattern="(?=a)b"),
    "a back reference": _text(pattern="(a)\\1"),
    "one of overlapping": {"oneOf": [_text(), _text(maxLength=3)]},
    "no number": _number("integer", minimum=3, maximum=1),
    "two types": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "a reference to nothing": {"$ref": "#/$defs/nothing"},
    "too many items": _list(WORD, minItems=1000, maxItems=100_000),
}
