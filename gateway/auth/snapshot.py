"""All tenants and keys in memory, found by digest in constant time."""

import asyncio
import hmac

from gateway.auth.records import KeyRecord, TenantRecord
from gateway.auth.storage import Stored


class Snapshot:
    """Takes records in any order and keeps the newest of each. `loaded`: everything was read once."""

    def __init__(self) -> None:
        self.loaded = asyncio.Event()
        self._keys: dict[str, KeyRecord] = {}
        self._tenants: dict[str, TenantRecord] = {}
        self._by_digest: dict[str, KeyRecord] = {}

    def find(self, digest: str) -> KeyRecord | None:
        """The key that has, or once had, a secret with this digest; good or not."""
        found = self._by_digest.get(digest)
        if found is None or not any(hmac.compare_digest(one, digest) for one in found.digests):
            return None
        return found

    def tenant(self, name: str) -> TenantRecord | None:
        return self._tenants.get(name)

    def put_key(self, record: KeyRecord) -> None:
        known = self._keys.get(record.key_id)
        if known is not None:
            if known.revision >= record.revision:
                return
            for digest in known.digests:
                del self._by_digest[digest]
        self._keys[record.key_id] = record
        self._by_digest.update(dict.fromkeys(record.digests, record))

    def put_tenant(self, record: TenantRecord) -> None:
        known = self._tenants.get(record.id)
        if known is None or known.revision < record.revision:
            self._tenants[record.id] = record

    def merge(self, stored: Stored) -> Stored:
        """Take everything over; gives back what the store has lost: records that it lacks, or has older."""
        for key in stored.keys:
            self.put_key(key)
        for tenant in stored.tenants:
            self.put_tenant(tenant)
        keys = {key.key_id: key.revision for key in stored.keys}
        tenants = {tenant.id: tenant.revision for tenant in stored.tenants}
        return Stored(
            [key for key in self._keys.values() if keys.get(key.key_id, 0) < key.revision],
            [tenant for tenant in self._tenants.values() if tenants.get(tenant.id, 0) < tenant.revision],
        )
