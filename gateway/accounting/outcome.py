"""How a request ended."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from gateway.errors import CLIENT_CLOSED_REQUEST, ClientGone, GatewayError

_CLIENT_ERROR = 400
_SERVER_ERROR = 500
OutcomeName = Literal["ok", "refused", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is the HTTP status that it amounts to, also where a stream had begun with 200; `code` tells why."""

    status: int
    code: str | None = None

    @property
    def name(self) -> OutcomeName:
        if self.status < _CLIENT_ERROR:
            return "ok"
        if self.status == CLIENT_CLOSED_REQUEST:
            return "cancelled"
        return "refused" if self.status < _SERVER_ERROR else "failed"


def outcome_of(error: BaseException | None) -> Outcome:
    """How a request ended that was left by this exception."""
    match error:
        case None:
            return Outcome(200)
        case GatewayError():
            return Outcome(error.status, error.code)
        case asyncio.CancelledError():
            return Outcome(CLIENT_CLOSED_REQUEST, ClientGone.code)
        case _:
            return Outcome(_SERVER_ERROR, GatewayError.code)
