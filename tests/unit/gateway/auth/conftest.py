"""Authenticators with a snapshot, by the real Valkey or by a directory that counts what it is asked."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import Counter, Gauge
from redis.exceptions import ConnectionError as ValkeyLost

from gateway.auth.authenticator import Authenticator, Directory
from gateway.auth.memory import Failures
from gateway.auth.oidc import TokenChecker
from gateway.auth.records import KeyRecord, TenantRecord
from gateway.auth.secret import digest_of
from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import Found, Stored
from tests.unit.gateway.conftest import PEPPER

NOW = 1_000_000.0
ACME = TenantRecord(id="acme", revision=1, created_at=0)
digest = partial(digest_of, pepper=PEPPER)


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def gauge() -> Gauge:
    return Gauge("gauge", "-", registry=None)


def counter(*labels: str) -> Counter:
    return Counter("counter", "-", labels, registry=None)


def value(metric: Gauge | Counter) -> float:
    (family,) = metric.collect()
    return float(family.samples[0].value)


def key_record(secret: str, **fields: object) -> KeyRecord:
    values = {
        "key_id": "key_1",
        "revision": 1,
        "digest": digest(secret),
        "tenant": "acme",
        "name": "web",
        "scopes": frozenset({"inference"}),
        "created_at": 0,
        **fields,
    }
    return KeyRecord(**values)


def snapshot_of(keys: Iterable[KeyRecord] = (), tenants: Iterable[TenantRecord] = (ACME,)) -> Snapshot:
    """One that has been read."""
    snapshot = Snapshot()
    snapshot.merge(Stored(list(keys), list(tenants)))
    snapshot.loaded.set()
    return snapshot


@dataclass
class CountingDirectory:
    """Fake: holds keys of the tenant `acme`, and writes down what it is asked. `away`: it cannot be reached."""

    keys: list[KeyRecord] = field(default_factory=list)
    away: bool = False
    asked: list[str] = field(default_factory=list)

    async def find(self, digest: str) -> Found | None:
        self.asked.append(digest)
        if self.away:
            raise ValkeyLost("gone")
        return next((Found(key, ACME) for key in self.keys if digest in key.digests), None)


def authenticator(
    snapshot: Snapshot,
    directory: Directory,
    *,
    clock: Clock | None = None,
    per_minute: int = 0,
    tokens: TokenChecker | None = None,
    failures: Counter | None = None,
) -> Authenticator:
    clock = clock or Clock()
    return Authenticator(
        snapshot,
        directory,
        digest,
        failures=failures or counter("reason"),
        attempts=Failures(per_minute, clock),
        tokens=tokens,
        clock=clock,
    )
