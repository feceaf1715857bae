"""Chat templates: messages → prompt text, rendered in a sandbox, exactly as transformers renders them."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
import msgspec

from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import Message, Tool, ToolCall
from python_backends.preprocessing.tool_format import Writing, arguments_object
from python_backends.preprocessing.tool_prompt import without_tools

# Mistral's templates refuse any other.
_SHORT_ID = 9


class ChatTemplate:
    """One model's Jinja chat template.

    The sandbox is jinja2's ImmutableSandboxedEnvironment with the settings, filters and globals of
    `transformers.utils.chat_template_utils`, so that templates written for the Hugging Face hub render alike.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self.source = source
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._special_tokens = special_tokens
        self._knows_tools = "tools" in jinja2.meta.find_undeclared_variables(environment.parse(source))

    @classmethod
    def from_dir(cls, model_dir: Path) -> "ChatTemplate | None":
        """Read `chat_template.jinja`, or the field in `tokenizer_config.json`; None where a model has neither."""
        config = json.loads((model_dir / "tokenizer_config.json").read_text("utf-8"))
        file = model_dir / "chat_template.jinja"
        source = file.read_text("utf-8") if file.exists() else config.get("chat_template")
        return cls(source, _special_tokens(config)) if isinstance(source, str) else None

    def render(
        self,
        messages: list[Message],
        *,
        tools: Sequence[Tool] = (),
        writing: Writing,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text; `writing`: how calls are written where the template does not know tools.

        Raises RequestError when the template refuses the conversation.
        """
        seen = [_as_template_sees_it(message) for message in messages]
        shown = [_tool(one) for one in tools]
        if not self._knows_tools:
            seen, shown = without_tools(seen, shown, writing), []
        elif "[TOOL_CALLS]" in self.source:
            _shorten_ids(seen)
        try:
            return self._template.render(
                messages=seen,
                tools=shown or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise RequestError(f"the model's chat template refused messages: {error}", param="messages") from error


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training; for serving its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _as_template_sees_it(message: Message) -> dict[str, Any]:
    """Text parts become one string and `developer`, which templates do not know, becomes `system`."""
    fields: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    fields["content"] = message.text
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        fields["reasoning_content"] = message.reasoning_content
    return fields


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": arguments_object(call.function.arguments)}
    return {"type": "function", "id": call.id, "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": msgspec.to_builtins(tool.function)}


def _shorten_ids(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        for named, key in ((message, "tool_call_id"), *((call, "id") for call in message.get("tool_calls", ()))):
            if key in named:
                named[key] = hashlib.sha256(named[key].encode()).hexdigest()[:_SHORT_ID]


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """`bos_token` and its like: a string, or an object with `content`, as tokenizer_config.json has them."""
    found = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
