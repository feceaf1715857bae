"""Scopes, and a Valkey that runs the script at a time of the test's choosing."""

import itertools
from dataclasses import replace
from typing import Any

from redis import Redis

from gateway.limits.scripts import limits_call, verdict_of
from gateway.limits.terms import Ask, Scope, Settlement, Verdict

# 2026-03-31 23:59:00 UTC: a minute before day and month end.
BEFORE_MONTH_END = 1_775_001_540_000
TTL_MS = 30_000
_numbers = itertools.count()


def scope(name: Any = "key", tenant: str = "acme", **bounds: int) -> Scope:
    """A burst is the whole minute's unless it is named."""
    for rate, burst in (("requests_per_minute", "request_burst"), ("tokens_per_minute", "token_burst")):
        bounds.setdefault(burst, bounds.get(rate, 0))
    return Scope(name, f"trireme:{{t:{tenant}}}:limits:{name}", **bounds)


def ask(*scopes: Scope, tokens: int = 1, cost: int = 0, uid: str | None = None) -> Ask:
    return Ask(uid or f"u{next(_numbers)}", "acme", scopes, tokens, cost)


class ScriptedBuckets:
    """The script with the interface of `Buckets`."""

    def __init__(self, valkey: Redis) -> None:
        self.valkey = valkey

    def reserve(self, asked: Ask, now: int, ttl_ms: int = TTL_MS, settled: tuple[Settlement, ...] = ()) -> Verdict:
        return verdict_of(self._run(asked, settled, ttl_ms, now))

    def settle(self, done: Settlement, now: int) -> None:
        self._run(None, (done,), TTL_MS, now)

    def _run(self, asked: Ask | None, settled: tuple[Settlement, ...], ttl_ms: int, now: int) -> Any:
        call = limits_call(asked, settled, ttl_ms, now)
        return self.valkey.eval(call.script.source, len(call.keys), *call.keys, *call.args)


def with_uid(asked: Ask, uid: str) -> Ask:
    return replace(asked, uid=uid)
