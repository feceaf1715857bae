"""What a copy of a request was compared with."""

import msgspec


class Pace(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one of the two ran. `first_token_ms`: since a backend got it. `per_token_ms`: mean between its tokens."""

    failed: bool = False
    first_token_ms: float | None = None
    per_token_ms: float | None = None
    tokens: int = 0


class Mirrored(msgspec.Struct, frozen=True, omit_defaults=True):
    """`mirror`: id of the mirroring. `of`: `uid` of the request, `arm` that answered it.

    `same`: whether the answers are equal, None where they need not be: only greedy ones are compared.
    """

    mirror: str
    of: str
    arm: str | None
    original: Pace
    copy: Pace
    same: bool | None = None
