"""Parsers by the name of their format."""

from collections.abc import Callable, Collection, Mapping

from python_backends.postprocessing.tools.hermes import HermesParser
from python_backends.postprocessing.tools.json_calls import JsonParser
from python_backends.postprocessing.tools.llama3_json import Llama3Parser
from python_backends.postprocessing.tools.mistral import MistralParser
from python_backends.postprocessing.tools.parser import ToolParser
from python_backends.postprocessing.tools.pythonic import PythonicParser

PARSERS: Mapping[str, Callable[[Collection[str]], ToolParser]] = {
    "hermes": HermesParser,
    "llama3_json": Llama3Parser,
    "mistral": MistralParser,
    "pythonic": PythonicParser,
    "json": JsonParser,
}


def parser_of(form: str, names: Collection[str]) -> ToolParser:
    """`names`: the tools that may be called. Raises ValueError for a format that there is not."""
    if form not in PARSERS:
        raise ValueError(f"tool parser {form!r}: use one of {', '.join(PARSERS)}")
    return PARSERS[form](names)
