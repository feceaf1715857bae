"""`x-priority`, or `priority` in the body: which class a request waits in."""

from aiohttp import web

from gateway.api.keys import CALL
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass, at_most
from gateway.errors import InvalidRequest

PRIORITY_HEADER = "x-priority"


def choose_priority(request: web.Request, in_body: PriorityClass | None) -> None:
    """Write it into the call, no more urgent than its key allows. The header wins. Raises InvalidRequest.

    Nothing asked: the call keeps none, and admission gives it the default class.
    """
    call = request[CALL]
    header = request.headers.get(PRIORITY_HEADER)
    asked = in_body if header is None else _named(header)
    if asked is not None and call.caller is not None:
        call.priority_class = at_most(asked, call.caller.max_priority)


def _named(text: str) -> PriorityClass:
    for name in PRIORITY_CLASSES:
        if text == name:
            return name
    raise InvalidRequest(f"{PRIORITY_HEADER} must be one of {', '.join(PRIORITY_CLASSES)}", param=PRIORITY_HEADER)
