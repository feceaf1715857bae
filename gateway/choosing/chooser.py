"""Which model? Puts together what is known of a request and of the candidates, and lets `choice` decide."""

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Protocol

from prometheus_client import Counter

from gateway.choosing.choice import Choice, Option, decide, predicted, too_dear
from gateway.choosing.memory import Conversations, Hardest, Paces
from gateway.choosing.rules import Asked, Rules
from gateway.choosing.settings import ChoosingSettings
from gateway.choosing.spec import CandidateSpec, RouterSpec
from gateway.core.call import Call, Model
from gateway.core.job import Planned
from gateway.core.routed import Routed
from gateway.errors import GatewayError, NoModelFits
from python_backends.preprocessing.question import question_of
from python_backends.preprocessing.schema import ChatRequest, GenerationRequest

_KEY_BYTES = 16


class Planning(Protocol):
    async def plan(self, call: Call, text: str) -> Planned:
        """Raises GatewayError within a bounded time."""
        ...


class Lengths(Protocol):
    async def fits(self, call: Call, model: Model, body: GenerationRequest) -> bool: ...


class AsNamed:
    """No choice: embeddings of different models have nothing to do with each other."""

    async def choose(self, call: Call, model: Model, body: object) -> Model:
        return model


class Chooser:
    """Resolves routers' names; any other name is its own model.

    `model_of`: a candidate's model. `cost_of`: a model's price per million tokens. `saturation_of`: of its least loaded
    backend, None without one. `choices`: a counter by router, model and reason. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        settings: ChoosingSettings,
        plans: Planning,
        lengths: Lengths,
        *,
        model_of: Callable[[str], Model],
        cost_of: Callable[[str], float],
        saturation_of: Callable[[str], float | None],
        paces: Paces,
        choices: Counter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plans = plans
        self._lengths = lengths
        self._model_of = model_of
        self._cost_of = cost_of
        self._saturation_of = saturation_of
        self._paces = paces
        self._choices = choices
        self._conversations = Conversations(settings.conversations, clock)
        routers = settings.routers or ()
        self._routers = {router.name: router for router in routers}
        self._rules = {router.name: Rules(router.rules, settings.pattern_ms / 1000) for router in routers}
        self._hardest = {router.name: Hardest(router.share) for router in routers}

    async def choose(self, call: Call, model: Model, body: GenerationRequest) -> Model:
        """Raises NoModelFits when no candidate can serve the request."""
        router = self._routers.get(model.name)
        if router is None:
            return model
        chosen = await self._route(call, router, body)
        call.mark("choice")
        return chosen

    async def _route(self, call: Call, router: RouterSpec, body: GenerationRequest) -> Model:
        text, key = question_of(body), _conversation(router, call, body)
        asked = Asked(text, call.caller.tenant if call.caller else "", _has_tools(body))
        problems = {one.model: await self._problem(call, router, one, body, asked) for one in router.candidates}
        rule = self._rules[router.name].first(asked)
        ruled = rule.use if rule is not None and not problems[rule.use] else None
        unscored = None
        if ruled is None and sum(not problem for problem in problems.values()) > 1:
            unscored = await self._ask(call, text)
        choice = decide(
            router,
            self._options(call, router, body, problems),
            ruled=ruled,
            held=self._held(router, key, body, call),
            hard=router.policy == "share" and call.planned is not None and self._is_hard(router, call.planned),
        )
        if choice.option is None:
            raise _nobody(router, choice)
        self._conversations.keep(key, choice.option.model)
        self._write_down(call, router, choice, choice.option, unscored, ruled=rule.name if ruled and rule else None)
        return self._model_of(choice.option.model)

    async def _problem(
        self, call: Call, router: RouterSpec, candidate: CandidateSpec, body: GenerationRequest, asked: Asked
    ) -> str:
        """Why this candidate can never be chosen for it, or "". A key that names the router may use all of it."""
        caller = call.caller
        if caller is not None and not caller.may_use(router.name) and not caller.may_use(candidate.model):
            return "not for this key"
        if asked.tools and not candidate.tools:
            return "has no tools"
        if dear := too_dear(router, self._cost(candidate)):
            return dear
        fits = await self._lengths.fits(call, self._model_of(candidate.model), body)
        return "" if fits else "too short a context"

    async def _ask(self, call: Call, text: str) -> str | None:
        """How hard it is, into `call.planned`; or why that is not known."""
        try:
            await self._plans.plan(call, text)
        except GatewayError as error:
            return error.code
        return None

    def _options(
        self, call: Call, router: RouterSpec, body: GenerationRequest, problems: dict[str, str]
    ) -> Sequence[Option]:
        score = None if call.planned is None else call.planned.score
        return [
            Option(
                model=one.model,
                cost=self._cost(one),
                predicted=None if score is None else predicted(one.quality, score),
                ms=self._paces.expected_ms(one.model, body.token_limit),
                problem=problems[one.model],
                saturation=self._saturation_of(one.model),
            )
            for one in router.candidates
        ]

    def _cost(self, candidate: CandidateSpec) -> float:
        return self._cost_of(candidate.model) if candidate.cost is None else candidate.cost

    def _held(self, router: RouterSpec, key: bytes, body: GenerationRequest, call: Call) -> str | None:
        """The model of this conversation. A first turn without a session has none: it may be anybody's."""
        if call.session is None and not _goes_on(body):
            return None
        return self._conversations.model_of(key, router.sticky_s)

    def _is_hard(self, router: RouterSpec, planned: Planned) -> bool:
        return self._hardest[router.name].includes(planned.score)

    def _write_down(
        self, call: Call, router: RouterSpec, choice: Choice, option: Option, unscored: str | None, *, ruled: str | None
    ) -> None:
        call.routed = Routed(
            router=router.name,
            model=option.model,
            reason=choice.reason,
            rule=ruled,
            score=None if call.planned is None else round(call.planned.score, 4),
            unscored=unscored,
            predicted=None if option.predicted is None else round(option.predicted, 4),
            verdicts=choice.verdicts,
        )
        if call.caller is not None and "admin" in call.caller.scopes:
            call.headers["x-router"] = call.routed.header()
        self._choices.labels(router.name, option.model, choice.reason).inc()


def _nobody(router: RouterSpec, choice: Choice) -> NoModelFits:
    reasons = ", ".join(f"{model}: {verdict}" for model, verdict in choice.verdicts.items())
    return NoModelFits(f"no model of {router.name} can serve this request ({reasons})", param="model")


def _conversation(router: RouterSpec, call: Call, body: GenerationRequest) -> bytes:
    """What stays the same from turn to turn: the session, or how the conversation began; of one tenant."""
    tenant = call.caller.tenant if call.caller is not None else ""
    if call.session is not None:
        parts = [call.session]
    elif isinstance(body, ChatRequest):
        parts = ["", *(f"{one.role}\0{one.text}" for one in (body.messages or ())[: _first_turn(body)])]
    else:
        parts = ["", question_of(body)]
    digest = blake2b(digest_size=_KEY_BYTES)
    for part in (router.name, tenant, *parts):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def _first_turn(body: ChatRequest) -> int:
    """How many messages there are up to the user's first, that one included."""
    roles = [message.role for message in body.messages or ()]
    return roles.index("user") + 1 if "user" in roles else len(roles)


def _goes_on(body: GenerationRequest) -> bool:
    return isinstance(body, ChatRequest) and any(message.role == "assistant" for message in body.messages or ())


def _has_tools(body: GenerationRequest) -> bool:
    return isinstance(body, ChatRequest) and bool(body.offered)
