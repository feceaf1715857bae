"""What an answer must be, may be, and is made of: its form, calls of tools, thoughts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from python_backends.messages import Calling, Constraint, Reasoning
from python_backends.preprocessing.constraints import Grammars, Wanted, check_ending, wanted_constraint
from python_backends.preprocessing.dialect import Dialect
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.schema import ChatRequest, GenerationRequest
from python_backends.preprocessing.tool_format import Writing, trigger_writing, writing_of
from python_backends.preprocessing.tool_grammar import call_grammar, lazy_grammar
from python_backends.preprocessing.tools import calling_of, is_forced, wanted_arguments

_NO_ARGUMENTS = '{"type":"object","properties":{},"additionalProperties":false}'


@dataclass(frozen=True)
class Expected:
    """`constraint` is the engine's, `verified` what `postprocess` checks the answer against."""

    constraint: Constraint | None = None
    verified: Constraint | None = None
    calling: Calling | None = None
    reasoning: Reasoning | None = None

    @property
    def marked(self) -> bool:
        """Whether tags have a meaning in the answer."""
        return self.calling is not None or self.reasoning is not None


def wanted_constraints(request: GenerationRequest) -> Iterator[Wanted]:
    """All that has to be compiled: the answer's form, and the arguments of each tool that may be called."""
    form = wanted_constraint(request)
    if form is not None:
        yield form
    yield from wanted_arguments(request).values()


def expect(request: GenerationRequest, dialect: Dialect, reasoning: Reasoning | None, grammars: Grammars) -> Expected:
    """Raises RequestError. An answer of a required form begins with it: the model cannot think before."""
    wanted = wanted_constraint(request)
    form = None if wanted is None else grammars.check(wanted.constraint, wanted.param)
    calling = calling_of(request, dialect.form) if isinstance(request, ChatRequest) else None
    if calling is None:
        return Expected(form, form, None, reasoning if form is None else None)
    offer = _Offer(calling, _arguments(request, calling, grammars), dialect, reasoning)
    if is_forced(request):
        check_ending(request)
        return offer.forced()
    return offer.free() if form is None or wanted is None else offer.beside(form, wanted.param.partition(".")[0])


def _arguments(request: GenerationRequest, calling: Calling, grammars: Grammars) -> dict[str, str]:
    checked = {name: grammars.check(one.constraint, one.param) for name, one in wanted_arguments(request).items()}
    return {name: (checked[name].json_schema if name in checked else None) or _NO_ARGUMENTS for name in calling.names}


@dataclass(frozen=True)
class _Offer:
    """Tools that may be called. `arguments`: the schema of each one's, by name."""

    calling: Calling
    arguments: Mapping[str, str]
    dialect: Dialect
    reasoning: Reasoning | None

    def forced(self) -> Expected:
        """Calls and nothing else, whatever form another answer would have."""
        grammar = call_grammar(
            self.arguments,
            writing_of(self.calling.format),
            parallel=self.calling.parallel,
            special=self.dialect.special,
            reasoning=self.reasoning,
        )
        return self._held(Constraint(grammar=grammar), self.reasoning)

    def free(self) -> Expected:
        """Calls or text. In formats without a trigger, calls are what the model makes of them."""
        writing = trigger_writing(self.calling.format)
        constraint = None if writing is None else self._lazy(writing, None)
        return Expected(constraint, None, self.calling, self.reasoning)

    def beside(self, form: Constraint, param: str) -> Expected:
        """Calls, or an answer of a form. Raises RequestError where no grammar can tell one from the other."""
        writing = trigger_writing(self.calling.format)
        if writing is None or form.json_schema is None:
            raise RequestError(
                f"{param}: this model cannot choose between tools and this form of answer: leave one of them out, or "
                "set tool_choice to none or required",
                param=param,
            )
        return self._held(self._lazy(writing, form.json_schema), None)

    def _lazy(self, writing: Writing, form: str | None) -> Constraint:
        parallel, special = self.calling.parallel, self.dialect.special
        grammar = lazy_grammar(self.arguments, writing, parallel=parallel, special=special, form=form)
        return Constraint(grammar=grammar)

    def _held(self, constraint: Constraint, reasoning: Reasoning | None) -> Expected:
        """Special tokens are no text, so that only the engine can check them."""
        verified = None if self.dialect.special else constraint
        return Expected(constraint, verified, self.calling, reasoning)
