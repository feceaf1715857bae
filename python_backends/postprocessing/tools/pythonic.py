"""`[name(argument=value, …), …]` in Python's syntax, as the whole answer: Llama 3.2 and 4, ToolACE."""

import ast
import json
import re
from collections.abc import Collection

from python_backends.postprocessing.tools.parser import Arguments, Begin, End, Machine

_SPACE = " \t\r\n"
_WORD = re.compile(r"[\w.-]")
_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "\"'"
_JSON_WORDS: dict[str, object] = {"true": True, "false": False, "null": None}


class PythonicParser(Machine):
    """Values are literals, in Python's words or JSON's. Arguments come out one by one, as JSON."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._step = self._start
        self._word = self._name = ""
        self._value = _Extent()
        self._begun = self._called = False

    def _start(self, char: str) -> None:
        self._held += char
        if char == "[":
            self._step = self._function
        elif char not in _SPACE:
            self._give_up()

    def _function(self, char: str) -> None:
        """A name up to its parenthesis; or the end of the list."""
        self._held += char
        if char == "(" and self._word in self._names:
            self._name, self._word, self._begun = self._word, "", False
            self._step = self._argument
        elif char == "]" and self._called and not self._word:
            self._held, self._step = "", self._text
        elif not self._wording(char):
            self._give_up()

    def _argument(self, char: str) -> None:
        """A keyword up to its equals sign; or the end of the call."""
        self._held += char
        if char == "=" and self._word:
            self._value, self._step = _Extent(), self._in_value
        elif char == ")" and not self._word:
            self._end()
        elif not self._wording(char):
            self._give_up()

    def _wording(self, char: str) -> bool:
        """Whether this goes on with a word, or may stand before one."""
        if not self._word and char in _SPACE + ",":
            return True
        self._word += char
        return _WORD.match(char) is not None

    def _in_value(self, char: str) -> None:
        if self._value.feed(char):
            self._held += char
            return
        value = _json(self._value.text)
        if value is None and not self._begun:
            self._held += char
            self._give_up()
            return
        self._add(f"{json.dumps(self._word)}: {json.dumps(self._value.text) if value is None else value}")
        self._word, self._step = "", self._argument
        self._argument(char)

    def _add(self, member: str) -> None:
        """A value that is no literal, once the call has begun, stays the text that it is."""
        if self._begun:
            self._out.append(Arguments(f", {member}"))
        else:
            self._begun = True
            self._out += [Begin(self._name), Arguments("{" + member)]

    def _end(self) -> None:
        if not self._begun:
            self._out += [Begin(self._name), Arguments("{")]
        self._out += [Arguments("}"), End()]
        self._held, self._called, self._step = "", True, self._function

    def _release(self) -> None:
        """Of a call that has begun, and between two of them, nothing is text."""
        if self._begun or (self._called and not self._held.strip(_SPACE + ",")):
            self._held = ""
        super()._release()


class _Extent:
    """Finds where a value ends: at a comma or parenthesis that is not within it."""

    def __init__(self) -> None:
        self.text = ""
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def feed(self, char: str) -> bool:
        """Whether the character belongs to the value."""
        if not self._quote and self._depth == 0 and char in ",)":
            return False
        self.text += char
        if self._escaped:
            self._escaped = False
        elif self._quote:
            self._quote, self._escaped = ("" if char == self._quote else self._quote), char == "\\"
        elif char in _QUOTES:
            self._quote = char
        else:
            self._depth += (char in _OPEN) - (char in _CLOSE)
        return True


def _json(text: str) -> str | None:
    """A literal as JSON, or None for what is none."""
    try:
        return json.dumps(_value(ast.parse(text.strip(), mode="eval").body), ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> object:
    """Raises ValueError for anything but literals."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | int | float)):
        return node.value
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if isinstance(number, int | float):
            return -number
    raise ValueError(ast.dump(node))
