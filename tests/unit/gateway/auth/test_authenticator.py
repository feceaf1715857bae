"""Secret → caller, and every way in which a secret can be wrong."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from gateway.auth.authenticator import LOOKUPS_AT_ONCE, WRONG_AT_MOST, WRONG_FOR_S
from gateway.auth.records import KeyRecord, OldDigest, TenantRecord
from gateway.auth.secret import new_secret
from gateway.auth.storage import Found
from gateway.core.identity import Limits, Quotas
from gateway.errors import InvalidKey, KeysUnavailable, MissingScope, TooManyFailures
from gateway.telemetry.logs import FIELDS
from tests.unit.gateway.auth.conftest import (
    ACME,
    NOW,
    Clock,
    CountingDirectory,
    authenticator,
    counter,
    digest,
    key_record,
    snapshot_of,
)

ANY: frozenset[str] = frozenset()
INFERENCE = frozenset({"inference"})
ADDRESS = "192.0.2.7"


async def test_a_known_key_tells_who_is_calling_and_what_they_may_without_asking_anybody() -> None:
    secret, directory = new_secret(), CountingDirectory()
    tenant = TenantRecord(
        id="acme",
        revision=1,
        created_at=0,
        limits=Limits(tokens_per_minute=9),
        quotas=Quotas(cost_per_day=1.5),
        weight=3,
    )
    key = key_record(
        secret,
        models=frozenset({"tiny"}),
        max_priority="batch",
        limits=Limits(requests_per_minute=2),
        quotas=Quotas(tokens_per_day=4),
    )
    caller = await authenticator(snapshot_of([key], [tenant]), directory).authenticate(secret, INFERENCE)
    assert (caller.key_id, caller.tenant, caller.scopes, caller.models) == ("key_1", "acme", INFERENCE, {"tiny"})
    assert (caller.max_priority, caller.limits, caller.quotas) == ("batch", key.limits, key.quotas)
    assert (caller.tenant_limits, caller.tenant_quotas, caller.weight) == (tenant.limits, tenant.quotas, 3)
    assert directory.asked == []


async def test_an_unknown_key_is_looked_up_once_and_known_from_then_on() -> None:
    secret = new_secret()
    directory = CountingDirectory([key_record(secret)])
    one = authenticator(snapshot_of(), directory)
    for _ in range(3):
        assert (await one.authenticate(secret, ANY)).key_id == "key_1"
    assert directory.asked == [digest(secret)]


async def test_one_of_the_scopes_is_enough() -> None:
    secret = new_secret()
    one = authenticator(snapshot_of([key_record(secret)]), CountingDirectory())
    await one.authenticate(secret, frozenset({"inference", "embeddings"}))
    await one.authenticate(secret, ANY)
    with pytest.raises(MissingScope, match="admin"):
        await one.authenticate(secret, frozenset({"admin"}))


# Each makes the secret that is sent, and the keys that the gateway knows, and that the store has.
Case = tuple[str, list[KeyRecord], list[KeyRecord]]


def wrong() -> Case:
    return new_secret(), [], []


def malformed() -> Case:
    return "trk_typo", [], []


def revoked() -> Case:
    secret = new_secret()
    key = key_record(secret, revoked_at=5)
    return secret, [key], [key]


def revoked_elsewhere() -> Case:
    secret = new_secret()
    return secret, [], [key_record(secret, revoked_at=5)]


def expired() -> Case:
    secret = new_secret()
    key = key_record(secret, expires_at=int(NOW))
    return secret, [key], [key]


def rotated_away() -> Case:
    secret = new_secret()
    key = key_record(new_secret(), old=(OldDigest(digest(secret), int(NOW)),))
    return secret, [key], [key]


CASES = [wrong, malformed, revoked, revoked_elsewhere, expired, rotated_away]


@pytest.mark.parametrize("case", CASES)
async def test_whatever_is_wrong_the_same_is_done_and_said(case: Callable[[], Case]) -> None:
    """Counted, not timed: one digest, one look-up, and none again while it is remembered."""
    secret, known, stored = case()
    directory, clock = CountingDirectory(stored), Clock()
    one = authenticator(snapshot_of(known), directory, clock=clock)
    for _ in range(3):
        with pytest.raises(InvalidKey) as raised:
            await one.authenticate(secret, ANY)
        assert raised.value.headers == {"www-authenticate": "Bearer"}
        expected = "this API key has expired: ask for another one" if case is expired else "this API key is not valid"
        assert raised.value.message == expected
    assert directory.asked == [digest(secret)]
    clock.now += WRONG_FOR_S
    with pytest.raises(InvalidKey):
        await one.authenticate(secret, ANY)
    assert directory.asked == [digest(secret)] * 2


@pytest.mark.parametrize("case", [malformed, revoked, expired, rotated_away])
async def test_without_the_store_what_is_certainly_wrong_is_still_refused(case: Callable[[], Case]) -> None:
    secret, known, _ = case()
    with pytest.raises(InvalidKey):
        await authenticator(snapshot_of(known), CountingDirectory(away=True)).authenticate(secret, ANY)


async def test_without_the_store_known_keys_work_and_unknown_ones_are_not_called_wrong() -> None:
    secret, directory = new_secret(), CountingDirectory(away=True)
    one = authenticator(snapshot_of([key_record(secret)]), directory)
    assert (await one.authenticate(secret, ANY)).tenant == "acme"
    unknown = new_secret()
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await one.authenticate(unknown, ANY)
    directory.away, directory.keys = False, [key_record(unknown, key_id="key_2")]
    assert (await one.authenticate(unknown, ANY)).key_id == "key_2"


async def test_a_missing_key_is_told_how_to_send_one() -> None:
    for secret in (None, ""):
        with pytest.raises(InvalidKey, match="Bearer"):
            await authenticator(snapshot_of(), CountingDirectory()).authenticate(secret, ANY)


async def test_a_key_expires_in_memory_and_its_end_can_be_moved() -> None:
    secret, clock = new_secret(), Clock()
    directory = CountingDirectory([key_record(secret, revision=2, expires_at=None)])
    one = authenticator(snapshot_of([key_record(secret, expires_at=int(NOW) + 10)]), directory, clock=clock)
    clock.now += 9.9
    await one.authenticate(secret, ANY)
    assert directory.asked == []
    clock.now += 0.1
    await one.authenticate(secret, ANY)
    assert directory.asked == [digest(secret)]


async def test_a_rotated_secret_is_good_until_its_time() -> None:
    old, new, clock = new_secret(), new_secret(), Clock()
    key = key_record(new, old=(OldDigest(digest(old), int(NOW) + 60),))
    one = authenticator(snapshot_of([key]), CountingDirectory([key]), clock=clock)
    for secret in (old, new):
        assert (await one.authenticate(secret, ANY)).key_id == "key_1"
    clock.now += 60
    with pytest.raises(InvalidKey):
        await one.authenticate(old, ANY)
    await one.authenticate(new, ANY)


async def test_keys_of_a_deleted_tenant_are_dead_and_those_of_a_lost_one_may_come_back() -> None:
    secret = new_secret()
    deleted = TenantRecord(id="acme", revision=2, created_at=0, deleted_at=1)
    with pytest.raises(InvalidKey):
        await authenticator(snapshot_of([key_record(secret)], [deleted]), CountingDirectory()).authenticate(secret, ANY)
    with pytest.raises(KeysUnavailable):
        await authenticator(snapshot_of([key_record(secret)], []), CountingDirectory()).authenticate(secret, ANY)


async def test_strangers_fill_no_memory() -> None:
    directory, clock = CountingDirectory(), Clock()
    one = authenticator(snapshot_of(), directory, clock=clock)
    secrets = [f"trk_{number}" for number in range(WRONG_AT_MOST + 1)]
    for secret in [*secrets, secrets[-1], secrets[0]]:
        with pytest.raises(InvalidKey):
            await one.authenticate(secret, ANY)
    # The last is remembered, the first was forgotten for it.
    assert len(directory.asked) == len(secrets) + 1


async def test_strangers_take_few_connections_and_get_503_when_these_do_not_answer() -> None:
    looking = most = 0

    class Stuck(CountingDirectory):
        async def find(self, digest: str) -> Found | None:
            nonlocal looking, most
            looking += 1
            most = max(most, looking)
            try:
                await asyncio.Event().wait()
            finally:
                looking -= 1
            return None

    directory, known = Stuck(), new_secret()
    one = authenticator(snapshot_of([key_record(known)]), directory)
    one._timeout_s = 0.05
    outcomes = await asyncio.gather(*(one.authenticate(new_secret(), ANY) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(one, KeysUnavailable) for one in outcomes)
    assert most == LOOKUPS_AT_ONCE
    assert (await one.authenticate(known, ANY)).key_id == "key_1"


async def test_an_address_may_fail_so_often_a_minute_and_good_keys_go_on_working() -> None:
    good, clock = new_secret(), Clock()
    one = authenticator(snapshot_of([key_record(good)]), CountingDirectory(), clock=clock, per_minute=2)
    for _ in range(2):
        with pytest.raises(InvalidKey):
            await one.authenticate(new_secret(), ANY, ADDRESS)
    with pytest.raises(TooManyFailures) as raised:
        await one.authenticate(new_secret(), ANY, ADDRESS)
    assert raised.value.retry_after == pytest.approx(30)
    await one.authenticate(good, ANY, ADDRESS)
    with pytest.raises(InvalidKey):
        await one.authenticate(new_secret(), ANY, "192.0.2.8")
    clock.now += 30
    with pytest.raises(InvalidKey):
        await one.authenticate(new_secret(), ANY, ADDRESS)


async def test_every_refusal_is_counted_and_written_down_without_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failures, sent = counter("reason"), []
    for case in CASES:
        secret, known, stored = case()
        sent.append(secret)
        one = authenticator(snapshot_of(known), CountingDirectory(stored), failures=failures)
        with pytest.raises(InvalidKey):
            await one.authenticate(secret, ANY, ADDRESS)
    lines = [getattr(record, FIELDS) for record in caplog.records if record.name == "trireme.audit"]
    reasons = ["unknown", "malformed", "revoked", "revoked", "expired", "revoked"]
    assert [line["reason"] for line in lines] == reasons
    assert [line.get("key_id") for line in lines] == [None, None, "key_1", "key_1", "key_1", "key_1"]
    assert {line["address"] for line in lines} == {ADDRESS}
    assert not any(secret in str(lines) or digest(secret) in str(lines) for secret in sent)
    samples = [sample for family in failures.collect() for sample in family.samples if sample.name.endswith("_total")]
    counted = {sample.labels["reason"]: sample.value for sample in samples}
    assert {reason: counted[reason] for reason in reasons} == {"unknown": 1, "malformed": 1, "revoked": 3, "expired": 1}


async def test_times_of_use_are_handed_over_once() -> None:
    secret, clock = new_secret(), Clock()
    one = authenticator(snapshot_of([key_record(secret)], [ACME]), CountingDirectory(), clock=clock)
    await one.authenticate(secret, ANY)
    clock.now += 5
    await one.authenticate(secret, ANY)
    assert one.take_used() == {"key_1": int(NOW) + 5}
    assert one.take_used() == {}
