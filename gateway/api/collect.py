"""A whole answer, put together from the same chunks that a stream is made of."""

from dataclasses import dataclass, field

import msgspec

from gateway.api.schema import CalledFunction, ChatChoice, ChatMessage, Logprobs, TextChoice, ToolCallBody
from gateway.core.job import Chunk


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str = ""


class _Call(msgspec.Struct):
    index: int
    function: _Function
    id: str | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] = []


class _Choice(msgspec.Struct):
    """Of chats (`delta`) and of completions (`text`)."""

    index: int
    delta: _Delta | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


@dataclass(slots=True)
class _GatheredCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Gathered:
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: dict[int, _GatheredCall] = field(default_factory=dict)
    logprobs: Logprobs | None = None
    finish_reason: str | None = None

    def add(self, choice: _Choice) -> None:
        text = choice.text if choice.delta is None else choice.delta.content
        if text:
            self.texts.append(text)
        if choice.delta is not None:
            self._add_delta(choice.delta)
        self.finish_reason = choice.finish_reason or self.finish_reason
        if choice.logprobs is not None:
            self.logprobs = choice.logprobs if self.logprobs is None else _joined(self.logprobs, choice.logprobs)

    def _add_delta(self, delta: _Delta) -> None:
        if delta.reasoning_content:
            self.thoughts.append(delta.reasoning_content)
        for piece in delta.tool_calls:
            call = self.calls.setdefault(piece.index, _GatheredCall())
            call.id = piece.id or call.id
            call.name = piece.function.name or call.name
            call.arguments.append(piece.function.arguments)

    def message(self) -> ChatMessage:
        text = "".join(self.texts)
        calls = [
            ToolCallBody(one.id, "function", CalledFunction(one.name, "".join(one.arguments)))
            for _, one in sorted(self.calls.items())
        ]
        return ChatMessage(
            "assistant",
            text if text or not calls else None,
            tool_calls=calls or msgspec.UNSET,
            reasoning_content="".join(self.thoughts) or msgspec.UNSET,
        )


_CHOICE = msgspec.json.Decoder(_Choice)


class CollectedReply:
    """Bounded by the model's context: an answer cannot grow beyond it."""

    def __init__(self) -> None:
        self._choices: dict[int, _Gathered] = {}

    async def send(self, piece: Chunk) -> None:
        choice = _CHOICE.decode(piece.choice)
        gathered = self._choices.get(choice.index)
        if gathered is None:
            gathered = self._choices[choice.index] = _Gathered()
        gathered.add(choice)

    async def finish(self) -> None:
        """The handler sends it all."""

    def chat_choices(self) -> list[ChatChoice]:
        return [
            ChatChoice(index, one.message(), one.logprobs, one.finish_reason)
            for index, one in sorted(self._choices.items())
        ]

    def text_choices(self) -> list[TextChoice]:
        return [
            TextChoice(index, "".join(one.texts), one.logprobs, one.finish_reason)
            for index, one in sorted(self._choices.items())
        ]


def _joined(before: Logprobs, after: Logprobs) -> Logprobs:
    """Member by member: lists go on, and what is null on both sides stays null."""
    joined: Logprobs = {}
    for name in before | after:
        first, second = before.get(name), after.get(name)
        joined[name] = first if second is None else [*(first or ()), *second]
    return joined
