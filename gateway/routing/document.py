"""The part of the routing document that changes at run time."""

from typing import Final

from redis.asyncio import Redis

from gateway.core.document import CHANGED, KEY
from gateway.core.snapshot import RoutingSnapshot, decode_snapshot, encode_snapshot
from gateway.errors import Unavailable
from gateway.valkey.document import Document, Place

_PLACE: Final = Place(KEY, CHANGED, "the routing document", encode_snapshot, decode_snapshot, Unavailable)


def routing_document(redis: Redis, timeout_s: float) -> Document[RoutingSnapshot]:
    return Document(redis, _PLACE, timeout_s)
