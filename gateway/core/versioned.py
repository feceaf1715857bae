"""Documents that are changed by compare-and-set."""

from typing import Annotated

import msgspec


class Versioned(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`version` grows with every change; 0: never changed."""

    version: Annotated[int, msgspec.Meta(ge=0)] = 0
