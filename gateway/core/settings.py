"""How a setting is declared: `name: Annotated[type, Setting("what it means", env="NAME", unit="s")] = default`.

Settings classes are frozen dataclasses beside what they configure. Ranges are part of the type (`msgspec.Meta`); a
setting without a default must be given by somebody.
"""

from dataclasses import dataclass
from typing import Final

PREFIX: Final = "TRIREME_"


@dataclass(frozen=True)
class Setting:
    """`env`: its environment variable, without the prefix. `secret`: the variable is its only place."""

    meaning: str
    env: str
    unit: str = ""
    secret: bool = False

    @property
    def variable(self) -> str:
        return PREFIX + self.env
