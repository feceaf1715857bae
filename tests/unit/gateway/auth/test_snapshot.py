"""Records in memory: the newest wins, in whatever order they come."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.records import KeyRecord, OldDigest, TenantRecord, changed, read_key, read_tenant
from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import Stored
from gateway.core.identity import PRIORITY_CLASSES, SCOPES, Limits, Quotas

names = st.text(alphabet="abcdefghij", min_size=1, max_size=8)
times = st.integers(min_value=0, max_value=2**40)
limits = st.builds(
    Limits, requests_per_minute=st.none() | st.integers(1, 10**9), token_burst=st.none() | st.integers(1, 10**12)
)
quotas = st.builds(
    Quotas, tokens_per_day=st.none() | st.integers(1, 10**12), cost_per_month=st.none() | st.floats(0.01, 1e6)
)
tenant_records = st.builds(
    TenantRecord, id=names, revision=st.integers(1, 50), created_at=times, name=st.text(max_size=20),
    limits=limits, quotas=quotas, weight=st.floats(0.01, 1000), deleted_at=st.none() | times,
)  # fmt: skip
key_records = st.builds(
    KeyRecord, key_id=names, revision=st.integers(1, 50), digest=names, tenant=names, name=st.text(max_size=20),
    scopes=st.frozensets(st.sampled_from(sorted(SCOPES)), min_size=1), created_at=times,
    models=st.none() | st.frozensets(names), max_priority=st.sampled_from(PRIORITY_CLASSES), limits=limits,
    quotas=quotas, expires_at=st.none() | times, revoked_at=st.none() | times,
    old=st.lists(st.builds(OldDigest, names, times), max_size=3).map(tuple),
)  # fmt: skip


@given(key_records, tenant_records)
def test_records_survive_the_way_through_the_store(key: KeyRecord, tenant: TenantRecord) -> None:
    assert read_key(msgspec.json.encode(key)) == key
    assert read_tenant(msgspec.json.encode(tenant)) == tenant


@given(st.data())
def test_whatever_the_order_the_newest_revision_is_found_by_its_secrets_alone(data: st.DataObject) -> None:
    """Four keys, each in some revisions with secrets of their own."""
    versions = []
    for name in "abcd":
        first = KeyRecord(
            key_id=name, revision=1, digest=f"{name}1", tenant="t", name="n", scopes=frozenset(), created_at=0
        )
        versions.append([first])
        for number in range(2, data.draw(st.integers(2, 5))):
            last = versions[-1][-1]
            old = (OldDigest(last.digest, 9),) if data.draw(st.booleans()) else ()
            versions[-1].append(changed(last, digest=f"{name}{number}", old=old))
    snapshot = Snapshot()
    for record in data.draw(st.permutations([one for some in versions for one in some])):
        snapshot.put_key(record)
    for some in versions:
        newest = some[-1]
        for record in some:
            for digest in record.digests:
                assert snapshot.find(digest) == (newest if digest in newest.digests else None)


def test_what_the_store_lacks_or_has_older_is_given_back() -> None:
    def key(name: str, revision: int) -> KeyRecord:
        return KeyRecord(
            key_id=name, revision=revision, digest=name, tenant="t", name="n", scopes=frozenset(), created_at=0
        )

    tenant = TenantRecord(id="t", revision=3, created_at=0)
    snapshot = Snapshot()
    assert snapshot.merge(Stored([key("a", 1), key("b", 2), key("c", 1)], [tenant])) == Stored([], [])
    lost = snapshot.merge(Stored([key("b", 1), key("c", 4)], []))
    assert (lost.keys, lost.tenants) == ([key("a", 1), key("b", 2)], [tenant])
    assert snapshot.find("c") == key("c", 4)
