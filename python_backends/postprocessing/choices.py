"""One element of OpenAI's `choices`, for a chat chunk and for a text completion chunk."""

import codecs
from collections.abc import Sequence
from typing import Any, Protocol

from python_backends.messages import Event, FinishReason, GrammarOutcome, Postprocessing, TokenLogprob
from python_backends.postprocessing.calls import AnswerSplitter
from python_backends.postprocessing.grammar import Verifier
from python_backends.postprocessing.stops import StopCutter


class Shape(Protocol):
    """How a kind of answer writes its choices."""

    def choice(self, text: str, logprobs: Sequence[TokenLogprob] | None, finish: FinishReason | None) -> dict[str, Any]:
        """Everything that came since the last call, as one element of `choices`."""
        ...

    def prompt(self, text: str, logprobs: Sequence[TokenLogprob | None] | None) -> None:
        """The prompt goes before the first text."""
        ...


class ChatShape:
    """`{"index", "delta": {"role"?, "content"?, "reasoning_content"?, "tool_calls"?}, "logprobs", "finish_reason"}`.

    The role comes first, with the text.
    """

    def __init__(self, index: int, post: Postprocessing) -> None:
        self._index = index
        self._top = post.top_logprobs
        self._first = True
        self._splitter = AnswerSplitter(post) if post.calling or post.reasoning else None

    def prompt(self, text: str, logprobs: Sequence[TokenLogprob | None] | None) -> None:
        """Chats do not echo."""

    def choice(self, text: str, logprobs: Sequence[TokenLogprob] | None, finish: FinishReason | None) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        reason: str | None = finish
        if self._first:
            delta["role"] = "assistant"
            self._first = False
        if self._splitter is not None:
            delta |= self._splitter.feed(text, last=finish is not None, cut=finish == "length")
            reason = "tool_calls" if finish == "stop" and self._splitter.called else finish
        elif text or not finish:
            delta["content"] = text
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": None if logprobs is None else {"content": [self._entry(one) for one in logprobs]},
            "finish_reason": reason,
        }

    def _entry(self, one: TokenLogprob) -> dict[str, Any]:
        top = one.top[: self._top]
        return {"token": one.token, "logprob": one.logprob, "bytes": one.bytes, "top_logprobs": top}


class CompletionShape:
    """`{"index", "text", "logprobs": {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, "finish_reason"}`."""

    def __init__(self, index: int, post: Postprocessing) -> None:
        self._index = index
        self._top = post.top_logprobs
        self._offset = 0
        self._first_token = post.echo_first
        self._prompt_text = ""
        self._prompt_logprobs: list[TokenLogprob | None] = []

    def prompt(self, text: str, logprobs: Sequence[TokenLogprob | None] | None) -> None:
        self._prompt_text = text
        self._prompt_logprobs = list(logprobs or ())

    def choice(self, text: str, logprobs: Sequence[TokenLogprob] | None, finish: FinishReason | None) -> dict[str, Any]:
        whole = self._prompt_text + text
        entries = None if logprobs is None else [*self._prompt_logprobs, *logprobs]
        self._prompt_text, self._prompt_logprobs = "", []
        return {
            "index": self._index,
            "text": whole,
            "logprobs": None if entries is None else self._table(entries),
            "finish_reason": finish,
        }

    def _table(self, entries: Sequence[TokenLogprob | None]) -> dict[str, list[Any]]:
        table: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for one in entries:
            token = self._first_token if one is None else one.token
            table["tokens"].append(token)
            table["token_logprobs"].append(None if one is None else one.logprob)
            table["top_logprobs"].append(None if one is None else self._likeliest(one))
            table["text_offset"].append(self._offset)
            self._offset += len(token)
        return table

    def _likeliest(self, one: TokenLogprob) -> dict[str, float]:
        """The chosen token is always among them."""
        return {entry.token: entry.logprob for entry in one.top[: self._top]} | {one.token: one.logprob}


class Choice:
    """One answer being written: bytes in, finished elements of `choices` out."""

    def __init__(self, index: int, post: Postprocessing, grammar: Verifier) -> None:
        self._post = post
        self._shape: Shape = ChatShape(index, post) if post.kind == "chat" else CompletionShape(index, post)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._cutter = StopCutter(post.stop)
        self._grammar = grammar
        self._tokens = 0
        self.finished = False

    @property
    def outcome(self) -> GrammarOutcome | None:
        """How the answer and its grammar ended; None before, and where there is none."""
        return self._grammar.outcome

    def begin(self, prompt_logprobs: Sequence[TokenLogprob | None] | None) -> None:
        if self._post.echo is not None:
            self._shape.prompt(self._post.echo, prompt_logprobs)

    def feed(self, tokens: int, data: bytes, event: Event) -> dict[str, Any]:
        """The next element. After a stop string was cut, the engine's remaining words are dropped.

        Raises StreamError for an answer that is not what was asked for.
        """
        self._tokens += tokens
        ending = event.finish is not None
        if self._post.echo_only:
            return self._echo(event, ending)
        text = self._cutter.feed(
            self._decoder.decode(data, final=ending), watching=self._tokens > self._post.min_tokens
        )
        if ending:
            text += self._cutter.finish()
        silent, self.finished = self.finished, self.finished or ending or self._cutter.stopped
        finish = "stop" if self._cutter.stopped else event.finish
        self._grammar.feed(text)
        if finish is not None and not silent:
            text += self._grammar.finish(finish, by_stop_string=self._cutter.stopped)
        logprobs = (event.logprobs or []) if self._post.logprobs and not silent else None
        return self._shape.choice(text, logprobs, None if silent else finish)

    def _echo(self, event: Event, ending: bool) -> dict[str, Any]:
        self.finished = ending
        return self._shape.choice("", [] if self._post.logprobs else None, event.finish)
