"""Tools for models whose chat template knows none: told in the system message, calls and results as plain text.

Messages are the dictionaries that a template sees.
"""

import json
from collections.abc import Sequence
from typing import Any

from python_backends.preprocessing.tool_format import Writing

Seen = dict[str, Any]


def without_tools(messages: Sequence[Seen], tools: Sequence[Seen], writing: Writing) -> list[Seen]:
    """The same conversation in words that every template can write.

    Results that follow each other become one message, since templates may insist on alternating roles.
    """
    plain: list[Seen] = []
    after_result = False
    for message in messages:
        seen, is_result = _plain(message, writing), message["role"] == "tool"
        if is_result and after_result:
            plain[-1]["content"] += f"\n{seen['content']}"
        else:
            plain.append(seen)
        after_result = is_result
    return _told(plain, _instruction(tools, writing)) if tools else plain


def _plain(message: Seen, writing: Writing) -> Seen:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [call["function"] for call in calls]
    written = writing.calls((one["name"], _compact(one["arguments"])) for one in functions)
    said = message["content"]
    return {"role": message["role"], "content": f"{said}\n{written}" if said else written}


def _compact(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _told(messages: list[Seen], instruction: str) -> list[Seen]:
    """The instruction ends the system message; a conversation that has none gets one."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": instruction}, *messages]
    first = messages[0]
    return [{**first, "content": f"{first['content']}\n\n{instruction}"}, *messages[1:]]


def _instruction(tools: Sequence[Seen], writing: Writing) -> str:
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = writing.calls([("NAME", '{"PARAMETER": "VALUE"}')])
    return (
        "You can call functions. These exist, one a line, with their parameters as JSON schema:\n"
        f"<tools>\n{functions}\n</tools>\n"
        "To call one, answer with its name and arguments and nothing else, exactly like this:\n"
        f"{example}\n"
        "The results come in <tool_response> tags; then answer the user with them."
    )
