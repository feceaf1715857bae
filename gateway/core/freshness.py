"""What a client says of answers that were given before."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Freshness:
    """`read`: an answer from before is welcome, if it is at most `max_age_s` old. `keep`: this one may be stored, for
    `ttl_s`. Seconds; None: as the server has it.
    """

    read: bool = True
    keep: bool = True
    max_age_s: float | None = None
    ttl_s: float | None = None

    def welcomes(self, age_s: float) -> bool:
        return self.read and (self.max_age_s is None or age_s <= self.max_age_s)


ANY_AGE: Final = Freshness()
