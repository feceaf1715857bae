"""POST /v1/feedback: what a user thinks of an answer."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.accounting.feedback import Opinion
from gateway.api.body import parser_of, read_body
from gateway.api.keys import CALL, FEEDBACK
from gateway.api.responses import json_response
from gateway.errors import InvalidKey, InvalidRequest

RequestId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$(?!\n)")]
Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
Comment = Annotated[str, msgspec.Meta(max_length=2000)]
_SCORES = {"good": 1.0, "bad": 0.0}


class FeedbackCreate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/feedback`. `request_id`: `x-request-id` of the answer. Either `score` or `label`: `good` 1, `bad` 0."""

    request_id: RequestId
    score: Score | None = None
    label: Literal["good", "bad"] | None = None
    comment: Comment | None = None
    replace: bool = False


class FeedbackObject(msgspec.Struct, kw_only=True):
    """`outcome`: `same` where this score had been given before."""

    object: Literal["feedback"] = "feedback"
    request_id: str
    model: str
    score: float
    outcome: Literal["new", "replaced", "same"]


_parse = parser_of(FeedbackCreate)


async def create(request: web.Request) -> web.StreamResponse:
    """Raises InvalidRequest, NotFound for requests that are not of the caller's tenant, Conflict, Unavailable."""
    body = await read_body(request, _parse)
    call = request[CALL]
    if call.caller is None:
        raise InvalidKey("feedback needs an API key")
    opinion = Opinion(body.request_id, _score(body), body.comment, body.replace)
    accepted = await request.app[FEEDBACK].give(call.caller, opinion)
    answer = FeedbackObject(
        request_id=body.request_id, model=accepted.model, score=opinion.score, outcome=accepted.outcome
    )
    return json_response(call, answer)


def _score(body: FeedbackCreate) -> float:
    if body.score is not None and body.label is None:
        return body.score
    if body.label is not None and body.score is None:
        return _SCORES[body.label]
    raise InvalidRequest("send one of score, from 0 to 1, and label, good or bad", param="score")
