"""What the commands say to whoever sits at the terminal; their results alone go to standard output."""

from __future__ import annotations

from rich.console import Console


def say(text: str) -> None:
    """On standard error, as it is."""
    Console(stderr=True).print(text, soft_wrap=True, markup=False, highlight=False)
