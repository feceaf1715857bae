"""What a chat's tools and their messages must be like, and what the engine and `postprocess` must know of them."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from python_backends.messages import Calling, Constraint, ToolFormat
from python_backends.preprocessing.constraints import Wanted
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import ChatRequest, ChosenTool, Function, GenerationRequest, Message, Tool
from python_backends.preprocessing.tool_format import forced

MAX_TOOLS_BYTES = 256 * 1024
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def check_tools(request: ChatRequest) -> None:
    """Raises RequestError."""
    if request.tools is None:
        for field in ("tool_choice", "parallel_tool_calls"):
            if getattr(request, field) is not None:
                raise RequestError(f"{field} needs tools: send both or leave it out", param=field)
        return
    seen: set[str] = set()
    for number, tool in enumerate(request.tools):
        name, where = tool.function.name, f"tools[{number}].function"
        if not _NAME.fullmatch(name):
            raise RequestError(f"{where}.name: use 1 to 64 of a-z, A-Z, 0-9, _ and -", param=f"{where}.name")
        if name in seen:
            raise RequestError(f"{where}.name: {name!r} is there twice: rename one", param=f"{where}.name")
        seen.add(name)
        _check_parameters(tool, f"{where}.parameters")
    if sum(map(_size, request.tools)) > MAX_TOOLS_BYTES:
        raise RequestError(f"tools: their parameters have more than {MAX_TOOLS_BYTES} bytes: send fewer", param="tools")
    if isinstance(request.tool_choice, ChosenTool) and (chosen := request.tool_choice.function.name) not in seen:
        raise RequestError(
            f"tool_choice: there is no tool {chosen!r}; known: {', '.join(sorted(seen))}",
            param="tool_choice.function.name",
        )


def _size(tool: Tool) -> int:
    return len(msgspec.json.encode(tool.function.parameters))


def _check_parameters(tool: Tool, where: str) -> None:
    schema = tool.function.parameters
    if schema and schema.get("type", "object") != "object":
        raise RequestError(
            f"{where}: arguments are an object: the schema's type must be 'object'", param=f"{where}.type"
        )


def check_tool_messages(messages: Sequence[Message]) -> None:
    """Each call of an assistant is answered by one message of the role `tool`, right behind it. Raises RequestError."""
    waiting: set[str] = set()
    calls_at = 0
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        _check_role(message, where)
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise RequestError(
                    f"{where}.tool_call_id: {message.tool_call_id!r} is no call of the assistant's message before it",
                    param=f"{where}.tool_call_id",
                )
            waiting.discard(message.tool_call_id or "")
            continue
        _check_answered(waiting, calls_at)
        waiting, calls_at = {call.id for call in message.tool_calls or ()}, number
    _check_answered(waiting, calls_at)


def _check_role(message: Message, where: str) -> None:
    if message.tool_calls is not None and message.role != "assistant":
        raise RequestError(f"{where}.tool_calls: only an assistant calls tools", param=f"{where}.tool_calls")
    if message.role == "tool" and message.tool_call_id is None:
        raise RequestError(
            f"{where}.tool_call_id is required: the id of the call that this is the result of",
            param=f"{where}.tool_call_id",
            code="missing_required_parameter",
        )


def _check_answered(waiting: set[str], number: int) -> None:
    if waiting:
        raise RequestError(
            f"messages[{number}].tool_calls: no tool message follows for {', '.join(sorted(waiting))}",
            param=f"messages[{number}].tool_calls",
        )


def told_tools(request: ChatRequest) -> dict[str, Any]:
    """Of a pretokenized body: nothing that only the prompt needed."""
    tools = [msgspec.to_builtins(tool) for tool in request.offered]
    if not tools:
        return {"tools": None, "tool_choice": None, "parallel_tool_calls": None}
    for tool in tools:
        tool["function"].pop("description", None)
    return {"tools": tools}


def calling_of(request: ChatRequest, form: ToolFormat) -> Calling | None:
    """How calls will be found in the answer; None where none may be made."""
    if not request.offered:
        return None
    names = [tool.function.name for tool in request.offered]
    parallel = request.parallel_tool_calls is not False
    if request.tool_choice in (None, "auto"):
        return Calling(format=form, names=names, parallel=parallel)
    if isinstance(request.tool_choice, ChosenTool):
        return Calling(format=forced(form), names=[request.tool_choice.function.name], parallel=False)
    return Calling(format=forced(form), names=names, parallel=parallel)


def is_forced(request: GenerationRequest) -> bool:
    """Whether the answer must be calls."""
    return (
        isinstance(request, ChatRequest) and bool(request.tools) and request.tool_choice not in (None, "auto", "none")
    )


def wanted_arguments(request: GenerationRequest) -> dict[str, Wanted]:
    """What arguments must match, by name of the tools that may be called and have parameters."""
    if not isinstance(request, ChatRequest):
        return {}
    chosen = request.tool_choice.function.name if isinstance(request.tool_choice, ChosenTool) else None
    return {
        function.name: Wanted(
            Constraint(json_schema=_schema(function), strict=bool(function.strict)),
            f"tools[{number}].function.parameters",
        )
        for number, function in enumerate(tool.function for tool in request.offered)
        if function.parameters and chosen in (None, function.name)
    }


def _schema(function: Function) -> str:
    return msgspec.json.encode({"type": "object", **(function.parameters or {})}).decode()
