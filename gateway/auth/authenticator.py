"""Secret → caller: from the snapshot, which outlives Valkey; only what is not in it is looked up there."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal, Protocol

from prometheus_client import Counter

from gateway.auth.memory import Failures, Recent
from gateway.auth.oidc import TokenChecker, TokenError
from gateway.auth.records import KeyRecord
from gateway.auth.secret import well_formed
from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import Found, valkey_faults
from gateway.core.call import Caller
from gateway.errors import InvalidKey, KeysUnavailable, MissingScope, TooManyFailures, UnknownTenant
from gateway.telemetry import audit

Verdict = Literal["active", "expired", "revoked", "unknown", "malformed"]

# A secret that was wrong is not looked up again so soon; a key made meanwhile is in the snapshot before that.
WRONG_FOR_S = 5.0
WRONG_AT_MOST = 4096
# Strangers' keys never take the connections that everybody needs.
LOOKUPS_AT_ONCE = 4

_INVALID = "this API key is not valid"
_MESSAGES = {
    "missing": "no API key: send it as `Authorization: Bearer <key>`",
    "expired": "this API key has expired: ask for another one",
}


class Directory(Protocol):
    """Where keys are looked up that the snapshot lacks. Raises redis.exceptions.RedisError."""

    async def find(self, digest: str) -> Found | None: ...


class Authenticator:
    """Whatever is wrong with a secret, the same is done: one digest, one look at the snapshot, one look-up.

    `digest`: of a secret. `tokens`: for bearer tokens of an identity provider, if there is one. `failures`: counts
    refusals by reason. `timeout_s`: for one answer of Valkey. `clock`: Unix seconds.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        directory: Directory,
        digest: Callable[[str], str],
        *,
        failures: Counter,
        attempts: Failures,
        tokens: TokenChecker | None = None,
        timeout_s: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._snapshot = snapshot
        self._directory = directory
        self._digest = digest
        self._failures = failures
        self._attempts = attempts
        self._tokens = tokens
        self._timeout_s = timeout_s
        self._clock = clock
        self._wrong: Recent[Verdict] = Recent(WRONG_AT_MOST, clock)
        self._looking = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._used: dict[str, int] = {}

    @property
    def loaded(self) -> asyncio.Event:
        """Set when all keys have been read once."""
        return self._snapshot.loaded

    def take_used(self) -> dict[str, int]:
        """When keys were last used since this was asked before: key id → Unix seconds."""
        used, self._used = self._used, {}
        return used

    async def authenticate(self, secret: str | None, scopes: frozenset[str], address: str | None = None) -> Caller:
        """`scopes`: the key needs one of them; none: any key will do. `address`: the client's.

        Raises InvalidKey, MissingScope, TooManyFailures, KeysUnavailable.
        """
        if not secret:
            raise self._refusal("missing", address)
        digest = self._digest(secret)
        if self._tokens is not None and self._tokens.looks_like_token(secret):
            caller = await self._by_token(self._tokens, secret, digest, address)
        else:
            caller = await self._by_key(secret, digest, address)
        if scopes and not scopes & caller.scopes:
            needed = " or ".join(sorted(scopes))
            audit.refused("scope", address, caller.key_id)
            raise MissingScope(f"this needs the scope {needed}, which your API key lacks: use or create another key")
        return caller

    async def _by_key(self, secret: str, digest: str, address: str | None) -> Caller:
        known = self._snapshot.find(digest)
        verdict = self._verdict(known, digest)
        if verdict != "active":
            if verdict == "unknown" and not well_formed(secret):
                verdict = "malformed"
            known, verdict = await self._look_up(digest, verdict, address, known)
        if known is None or verdict != "active":
            raise self._refusal(verdict, address, known)
        self._used[known.key_id] = int(self._clock())
        return self._caller(known)

    async def _look_up(
        self, digest: str, verdict: Verdict, address: str | None, known: KeyRecord | None
    ) -> tuple[KeyRecord | None, Verdict]:
        """Ask again whether this secret is bad; away, Valkey is needed only for what nobody here can know."""
        self._check_attempts(address)
        remembered = self._wrong.get(digest)
        if remembered is not None:
            return known, remembered if verdict == "unknown" else verdict
        try:
            found = await self._find(digest)
        except KeysUnavailable:
            if verdict == "unknown":
                raise
            return known, verdict
        if found is not None:
            self._snapshot.put_key(found.key)
            if found.tenant is not None:
                self._snapshot.put_tenant(found.tenant)
            known, verdict = found.key, self._verdict(found.key, digest)
        if verdict != "active":
            self._wrong.put(digest, verdict, self._clock() + WRONG_FOR_S)
        return known, verdict

    async def _find(self, digest: str) -> Found | None:
        with valkey_faults():
            async with asyncio.timeout(self._timeout_s), self._looking:
                return await self._directory.find(digest)

    def _verdict(self, record: KeyRecord | None, digest: str) -> Verdict:
        if record is None:
            return "unknown"
        now = self._clock()
        tenant = self._snapshot.tenant(record.tenant)
        if not record.takes(digest, now) or (tenant is not None and tenant.deleted_at is not None):
            return "revoked"
        return record.state(now)

    async def _by_token(self, tokens: TokenChecker, token: str, digest: str, address: str | None) -> Caller:
        try:
            bearer = await tokens.check(token, digest)
        except TokenError as error:
            self._check_attempts(address)
            raise self._refusal(f"token_{error.reason}", address, message=error.message) from error
        if not self.loaded.is_set():
            raise KeysUnavailable("tenants have not been read yet", retry_after=1.0)
        tenant = None if bearer.tenant is None else self._snapshot.tenant(bearer.tenant)
        if tenant is None or tenant.deleted_at is not None:
            audit.refused("tenant", address, bearer.key_id)
            raise UnknownTenant(
                f"the token's claim {tokens.tenant_claim!r} names no tenant of this server: set it to one that exists"
            )
        return Caller(
            bearer.key_id,
            tenant.id,
            bearer.scopes,
            tenant_limits=tenant.limits,
            tenant_quotas=tenant.quotas,
            weight=tenant.weight,
            tenant_cache=tenant.cache,
        )

    def _caller(self, key: KeyRecord) -> Caller:
        tenant = self._snapshot.tenant(key.tenant)
        if tenant is None:
            raise KeysUnavailable(f"the tenant {key.tenant} of this API key cannot be read right now", retry_after=1.0)
        return Caller(
            key.key_id,
            key.tenant,
            key.scopes,
            models=key.models,
            max_priority=key.max_priority,
            limits=key.limits,
            quotas=key.quotas,
            cache=key.cache,
            tenant_limits=tenant.limits,
            tenant_quotas=tenant.quotas,
            weight=tenant.weight,
            tenant_cache=tenant.cache,
        )

    def _check_attempts(self, address: str | None) -> None:
        try:
            self._attempts.check(address)
        except TooManyFailures:
            self._note("too_many", address, None)
            raise

    def _refusal(
        self, reason: str, address: str | None, key: KeyRecord | None = None, message: str = _INVALID
    ) -> InvalidKey:
        """Written down and counted; told in the same words, but for what was right and has expired."""
        self._note(reason, address, None if key is None else key.key_id)
        if reason != "missing":
            self._attempts.count(address)
        return InvalidKey(_MESSAGES.get(reason, message), headers={"www-authenticate": "Bearer"})

    def _note(self, reason: str, address: str | None, key_id: str | None) -> None:
        audit.refused(reason, address, key_id)
        self._failures.labels(reason).inc()
