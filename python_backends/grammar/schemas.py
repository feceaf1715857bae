"""A client's JSON schema → the schema that the engine is held to and the answer is checked against.

Whatever cannot be kept is refused where it stands (JSON pointer), or left out where the client did not insist
(`strict: false`). References stay inside the document, so that nobody is ever asked for anything.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs

Schema = dict[str, Any]

# vLLM takes 64 levels of objects and arrays, counted with the schema's own.
MAX_DEPTH = 60
RESERVED = "x-guidance"
FORMATS = frozenset(
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid", "unknown"]
)
# What the compiler's formats let through and no calendar or clock knows: the year 0, a 29th of February in most years,
# a 60th second.
_YEAR = "^(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DAY = f"^([0-9]{{4}}-(0[13-9]|1[0-2])|[0-9]{{4}}-02-([01]|2[0-8])|{_LEAP}-02-29)"
_EXACT = {"date": (_YEAR, _DAY), "date-time": (_YEAR, _DAY, "^.{17}[0-5]"), "time": ("^.{6}[0-5]",)}
# Keywords that the compiler knows and cannot turn into a grammar.
UNSUPPORTED = frozenset(
    [
        "$dynamicAnchor",
        "$dynamicRef",
        "$recursiveRef",
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    ]
)
# Where schemas stand within a schema: one, a list of them, or an object of them.
_ONE = ("additionalProperties", "items")
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "patternProperties", "properties")
_COMBINED = frozenset(("$ref", "allOf", "anyOf", "oneOf"))
_DRAFTS = ("https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2019-09/schema")
_DRAFT_7 = ("http://json-schema.org/draft-07/schema", "http://json-schema.org/draft-07/schema#")


class SchemaError(ValueError):
    """`pointer`: where in the schema. `code`: a word of docs/api.md."""

    def __init__(self, problem: str, pointer: str, code: str = "unsupported_schema") -> None:
        super().__init__(f"{problem} (at {pointer or 'the top'})")
        self.pointer = pointer
        self.code = code


def ready(schema: Schema, *, strict: bool) -> Schema:
    """A copy that can be compiled and validated. Raises SchemaError.

    `strict`: every keyword counts, and objects have no other properties than those that are named, unless the schema
    says so. Otherwise what is not supported is left out, with the promise that it made.
    """
    _check_depth(schema)
    copied = _copied(schema, "", strict)
    _check_form(copied)
    if strict:
        _close(copied)
    return copied


def subschemas(schema: Schema, pointer: str = "") -> Iterator[tuple[str, Schema]]:
    """This schema and all within it, each with its JSON pointer; what is no object is left out."""
    yield pointer, schema
    for step, inner in _children(schema):
        if isinstance(inner, dict):
            yield from subschemas(inner, pointer + step)


def _children(schema: Schema) -> Iterator[tuple[str, Any]]:
    for keyword in _ONE:
        if keyword in schema:
            yield f"/{keyword}", schema[keyword]
    for keyword in _LIST:
        members = schema.get(keyword)
        yield from ((f"/{keyword}/{n}", one) for n, one in enumerate(members if isinstance(members, list) else ()))
    for keyword in _NAMED:
        named = schema.get(keyword)
        yield from ((f"/{keyword}/{_escaped(name)}", one) for name, one in _items(named))


def _items(named: Any) -> list[tuple[str, Any]]:
    return list(named.items()) if isinstance(named, dict) else []


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_depth(schema: Schema) -> None:
    """Of the JSON, whatever stands in it."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        inner = [one for node in level for one in (node.values() if isinstance(node, dict) else node)]
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return
    raise SchemaError(f"it is nested more than {MAX_DEPTH} levels deep", "")


def _copied(schema: Schema, pointer: str, strict: bool) -> Schema:
    """Keyword by keyword, so that each can be refused, left out, or gone into."""
    kept: Schema = {}
    for keyword, value in schema.items():
        here = f"{pointer}/{_escaped(keyword)}"
        if not _is_dropped(keyword, value, here, strict):
            kept[_renamed(keyword, value, strict)] = _inner(keyword, value, here, strict)
    if exact := _EXACT.get(str(kept.get("format"))):
        also = kept.get("allOf", [])
        kept["allOf"] = [*(also if isinstance(also, list) else ()), *({"pattern": pattern} for pattern in exact)]
    return kept


def _inner(keyword: str, value: Any, here: str, strict: bool) -> Any:
    def go_on(one: Any, at: str) -> Any:
        return _copied(one, at, strict) if isinstance(one, dict) else one

    if keyword in _ONE:
        return go_on(value, here)
    if keyword in _LIST and isinstance(value, list):
        return [go_on(one, f"{here}/{number}") for number, one in enumerate(value)]
    if keyword in _NAMED and isinstance(value, dict):
        return {name: go_on(one, f"{here}/{_escaped(name)}") for name, one in value.items()}
    return value


def _renamed(keyword: str, value: Any, strict: bool) -> str:
    """Exactly one, which no grammar can say of several that overlap, is relaxed to at least one."""
    return "anyOf" if keyword == "oneOf" and not strict and isinstance(value, list) else keyword


def _is_dropped(keyword: str, value: Any, here: str, strict: bool) -> bool:
    """Whether this keyword is left out. Raises SchemaError where it must not be."""
    if keyword == RESERVED:
        raise SchemaError(f"the keyword {RESERVED!r} is reserved: leave it out", here)
    if keyword == "$schema":
        if value not in (*_DRAFTS, *_DRAFT_7):
            raise SchemaError("this $schema is not supported: leave it out, or use draft 2020-12", here)
        return True
    if keyword in ("$id", "id") and isinstance(value, str):
        return True
    if keyword == "$ref" and not (isinstance(value, str) and (value == "#" or value.startswith("#/"))):
        raise SchemaError("a $ref must be a pointer into this schema, as #/$defs/name is", here)
    if keyword in UNSUPPORTED:
        if value is not False and strict:
            raise SchemaError(f"the keyword {keyword!r} is not supported: leave it out, or say strict: false", here)
        return True
    if keyword == "format" and value not in FORMATS:
        if strict:
            known = ", ".join(sorted(FORMATS - {"unknown"}))
            raise SchemaError(f"the format {value!r} is not supported: use one of {known}, or pattern", here)
        return True
    return False


def _check_form(schema: Schema) -> None:
    try:
        jsonschema_rs.meta.validate(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        path = getattr(error, "instance_path", [])
        pointer = "".join(f"/{_escaped(str(step))}" for step in path)
        raise SchemaError(str(getattr(error, "message", error))[:300], pointer, "invalid_schema") from error


def _close(schema: Schema) -> None:
    """No properties but those that are named, as OpenAI's strict schemas must say themselves.

    Not where schemas are combined: each of them would then forbid what the others ask for.
    """
    open_to_others = {id(one) for _, each in subschemas(schema) for one in _combined(each, schema)}
    for _, each in subschemas(schema):
        named = isinstance(each.get("properties"), dict) or isinstance(each.get("patternProperties"), dict)
        if named and "additionalProperties" not in each and id(each) not in open_to_others:
            each["additionalProperties"] = False


def _combined(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Schemas of which an answer must satisfy several at the same time: this one among them, if it is one."""
    members = [one for keyword in _COMBINED - {"$ref"} for one in schema.get(keyword, ())]
    several = len(schema.get("allOf", ())) > 1 or any(key in schema for key in ("properties", "patternProperties"))
    if not (several and _COMBINED & schema.keys()):
        return
    yield schema
    for one in [*members, schema]:
        if isinstance(one, dict):
            yield one
            if (target := resolve(root, str(one.get("$ref", "")))) is not None:
                yield target


def resolve(root: Schema, reference: str) -> Schema | None:
    """The schema that a `$ref` within the document names, None if there is none."""
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return None
    return found if reference.startswith("#") and isinstance(found, dict) else None
