"""What tests of the scheduler ask it for."""

from collections.abc import Callable
from typing import Any

INTERACTIVE, STANDARD, BATCH = 0, 1, 2
Build = Callable[..., Any]


def prompt(number: int, length: int = 20) -> list[int]:
    return [(number * 97 + position * 13) % 900 for position in range(length)]
