"""A request that is sent again with the same `Idempotency-Key` is answered once."""

import asyncio
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated

import msgspec
from prometheus_client import Counter

from gateway.cache.scripts import CLAIM, EXTEND, RELEASE, STORE
from gateway.core.call import Caller
from gateway.core.settings import Setting
from gateway.errors import IdempotencyMismatch, InProgress
from gateway.valkey.connection import Script, ScriptCall, Valkey, ValkeyAway
from gateway.valkey.outbox import Outbox, Posted
from gateway.valkey.wire import Argument

HEADER = "Idempotency-Key"
RETRY_AFTER_S = 1.0
# A lease is extended so many times before it would end: losing one extension loses no lease.
EXTENSIONS = 3


@dataclass(frozen=True, kw_only=True)
class IdempotencySettings:
    keep_s: Annotated[
        float,
        msgspec.Meta(ge=1),
        Setting("How long an answer can be had again.", env="IDEMPOTENCY_KEEP_S", unit="s"),
    ] = 86400.0
    max_answer_bytes: Annotated[
        int,
        msgspec.Meta(ge=0),
        Setting(
            "Largest answer that is kept; a larger one is given once, and its key is free again.",
            env="IDEMPOTENCY_MAX_ANSWER_BYTES",
            unit="bytes",
        ),
    ] = 1024 * 1024
    lease_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=30),
        Setting(
            "How long a key stays taken after the gateway that answers it has died.",
            env="IDEMPOTENCY_LEASE_S",
            unit="s",
        ),
    ] = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """As it went to the client; `content_type` with its parameters."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """The right to answer a request, until it is stored or given back. `place`: its key in Valkey."""

    place: str
    request: bytes
    owner: str = field(default_factory=lambda: secrets.token_hex(8))


def fingerprint(route: str, body: bytes) -> bytes:
    """Two requests are the same when the client sent the same bytes to the same address."""
    return sha256(b"\n".join((route.encode(), body))).digest()


class Idempotency:
    """Only the caller whose answer was stored gets it: its place depends on the tenant and on the API key.

    Without Valkey requests are answered, and not remembered. `outcomes`: a counter by `outcome`.
    """

    def __init__(self, valkey: Valkey, outbox: Outbox, settings: IdempotencySettings, outcomes: Counter) -> None:
        self._valkey = valkey
        self._outbox = outbox
        self._settings = settings
        self._outcomes = outcomes
        self._running: set[Claim] = set()

    @property
    def max_answer_bytes(self) -> int:
        return self._settings.max_answer_bytes

    async def claim(self, caller: Caller, key: str, request: bytes) -> Answer | Claim | None:
        """The answer if there is one already, else the right to give it, or None while Valkey is away.

        `request`: its fingerprint. Raises IdempotencyMismatch, InProgress.
        """
        claim = Claim(_place(caller, key), request)
        try:
            word, *stored = await self._valkey.run(_script(CLAIM, claim, request, claim.owner, self._lease_ms))
        except ValkeyAway:
            self._post(RELEASE, claim)  # it may have been taken all the same
            self._count("unavailable")
            return None
        except asyncio.CancelledError:
            self._post(RELEASE, claim)
            raise
        return self._decide(claim, word, stored)

    def _decide(self, claim: Claim, word: bytes, stored: list[bytes]) -> Answer | Claim:
        match word:
            case b"free":
                self._count("new")
                self._running.add(claim)
                return claim
            case b"done":
                self._count("replayed")
                status, content_type, body = stored
                return Answer(int(status), content_type.decode(), body)
            case b"running":
                self._count("in_progress")
                raise InProgress(f"a request with this {HEADER} is being answered", retry_after=RETRY_AFTER_S)
            case _:
                self._count("mismatch")
                raise IdempotencyMismatch(f"this {HEADER} came with another request: use a new one", param=HEADER)

    async def store(self, claim: Claim, answer: Answer) -> bool:
        """Whether the next request with this key gets `answer`; if not, the key is free again."""
        if len(answer.body) > self.max_answer_bytes:
            await self.refuse(claim)
            return False
        self._running.discard(claim)
        kept_ms = _ms(self._settings.keep_s)
        fields = (answer.status, answer.content_type, answer.body)
        try:
            stored = await self._valkey.run(_script(STORE, claim, claim.request, claim.owner, kept_ms, *fields))
        except ValkeyAway:
            self._post(RELEASE, claim)
            self._count("unavailable")
            return False
        except asyncio.CancelledError:
            self._post(RELEASE, claim)
            raise
        return bool(stored)

    async def refuse(self, claim: Claim) -> None:
        """The answer is larger than what is kept."""
        if claim in self._running:
            self._count("too_large")
        await self.release(claim)

    async def release(self, claim: Claim) -> None:
        """There is no answer to keep: a retry that comes from now on runs. Does nothing for a claim that has ended."""
        if claim not in self._running:
            return
        self._running.discard(claim)
        try:
            await self._valkey.run(_script(RELEASE, claim, claim.owner))
        except ValkeyAway:
            self._post(RELEASE, claim)
        except asyncio.CancelledError:
            self._post(RELEASE, claim)
            raise

    def abandon(self, claim: Claim) -> None:
        """As `release`, and never waits: for requests that are being cancelled."""
        if claim in self._running:
            self._running.discard(claim)
            self._post(RELEASE, claim)

    async def keep_leases(self) -> None:
        """Until cancelled: what runs stays claimed."""
        while True:
            await asyncio.sleep(self._settings.lease_s / EXTENSIONS)
            self.extend_leases()

    def extend_leases(self) -> None:
        for claim in self._running:
            self._post(EXTEND, claim, self._lease_ms)

    @property
    def _lease_ms(self) -> int:
        return _ms(self._settings.lease_s)

    def _post(self, script: Script, claim: Claim, *args: Argument) -> None:
        """If it is lost, the lease ends by itself."""
        call = _script(script, claim, claim.owner, *args)
        self._outbox.post(Posted(call, done=lambda _: None, failed=lambda: None))

    def _count(self, outcome: str) -> None:
        self._outcomes.labels(outcome).inc()


def _script(script: Script, claim: Claim, *args: Argument) -> ScriptCall:
    return ScriptCall(script, [claim.place], args)


def _place(caller: Caller, key: str) -> str:
    """Key ids and keys have no line breaks, and a digest has one length: no two pairs share a place."""
    digest = sha256(f"{caller.key_id}\n{key}".encode()).hexdigest()
    return f"trireme:{{t:{caller.tenant}}}:idempotency:{digest}"


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
