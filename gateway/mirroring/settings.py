"""What copies of requests may cost."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.settings import Setting


@dataclass(frozen=True, kw_only=True)
class MirrorSettings:
    concurrent: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Copies that may run at the same time; what is more is not copied.", env="MIRROR_CONCURRENT"),
    ] = 8
    deadline_s: Annotated[
        float, msgspec.Meta(gt=0), Setting("Time for a copy; then it has failed.", env="MIRROR_DEADLINE_S", unit="s")
    ] = 60.0
    max_saturation: Annotated[
        float,
        msgspec.Meta(gt=0, le=1),
        Setting("Nothing is copied to backends that are fuller, 0 to 1.", env="MIRROR_MAX_SATURATION"),
    ] = 0.8
    exclude_tenants: Annotated[
        list[str] | None,
        Setting("Tenants of whom nothing is ever copied, as a list (JSON in the variable).", env="MIRROR_EXCLUDE"),
    ] = None
