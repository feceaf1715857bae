"""Where the registry lies in Valkey."""

from typing import Final

import msgspec
from redis.asyncio import Redis

from gateway.adapters.registry import Registry, decode_registry
from gateway.errors import AdaptersUnavailable
from gateway.valkey.document import Document, Place

KEY: Final = "trireme:{adapters}:registry"
_CHANGED: Final = "trireme:{adapters}:changed"
_PLACE: Final = Place(
    KEY, _CHANGED, "the registry of adapters", msgspec.json.encode, decode_registry, AdaptersUnavailable
)


def adapter_registry(redis: Redis, timeout_s: float) -> Document[Registry]:
    return Document(redis, _PLACE, timeout_s)
