"""Tenants and API keys as they are stored. Whoever holds two versions of a record keeps the higher `revision`."""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE, CachePolicy, Limits, PriorityClass, Quotas

# The last part, since `$` alone would take a line's end after the id too.
TENANT_ID: Final = r"^[A-Za-z0-9._-]{1,64}$(?!\n)"
TenantId = Annotated[str, msgspec.Meta(pattern=TENANT_ID)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
TenantName = Annotated[str, msgspec.Meta(max_length=200)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1000)]

KeyState = Literal["active", "expired", "revoked"]


class TenantRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who pays. `weight`: its share when tenants wait for their turns. A deleted one stays, so that loss is noticed.

    Times are Unix seconds.
    """

    id: TenantId
    revision: int
    created_at: int
    name: str = ""
    limits: Limits = NO_LIMITS
    quotas: Quotas = NO_QUOTAS
    weight: Weight = 1.0
    cache: CachePolicy = SERVERS_CACHE
    deleted_at: int | None = None


class OldDigest(msgspec.Struct, frozen=True):
    """Of a secret that was rotated away, and good until then (Unix seconds)."""

    digest: str
    until: int


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A key. `digest` is all that is left of its secret; `models`: None for all. Times are Unix seconds."""

    key_id: str
    revision: int
    digest: str
    tenant: TenantId
    name: str
    scopes: frozenset[str]
    created_at: int
    models: frozenset[str] | None = None
    max_priority: PriorityClass = "interactive"
    limits: Limits = NO_LIMITS
    quotas: Quotas = NO_QUOTAS
    cache: CachePolicy = SERVERS_CACHE
    expires_at: int | None = None
    revoked_at: int | None = None
    old: tuple[OldDigest, ...] = ()

    @property
    def digests(self) -> list[str]:
        """All under which this key is found, whether they are still good or not."""
        return [self.digest, *(old.digest for old in self.old)]

    def state(self, now: float) -> KeyState:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"

    def takes(self, digest: str, now: float) -> bool:
        """Whether the secret with this digest is good, or was rotated away a short time ago."""
        return digest == self.digest or any(old.digest == digest and now < old.until for old in self.old)


Record = TypeVar("Record", KeyRecord, TenantRecord)

_KEY = msgspec.json.Decoder(KeyRecord)
_TENANT = msgspec.json.Decoder(TenantRecord)


def read_key(stored: bytes | str) -> KeyRecord:
    """Raises msgspec.DecodeError."""
    return _KEY.decode(stored)


def read_tenant(stored: bytes | str) -> TenantRecord:
    """Raises msgspec.DecodeError."""
    return _TENANT.decode(stored)


def changed(record: Record, **fields: Any) -> Record:
    """The next revision of a record."""
    return msgspec.structs.replace(record, revision=record.revision + 1, **fields)
