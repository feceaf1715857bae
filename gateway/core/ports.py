"""Protocols that more than one stage speaks."""

from typing import Protocol, TypeVar

Piece_contra = TypeVar("Piece_contra", contravariant=True)


class Reply(Protocol[Piece_contra]):
    """Where an answer goes, piece by piece."""

    async def send(self, piece: Piece_contra) -> None:
        """Returns when there is room for the next piece. Raises ClientGone."""
        ...

    async def finish(self) -> None:
        """All pieces were sent. Raises ClientGone."""
        ...
