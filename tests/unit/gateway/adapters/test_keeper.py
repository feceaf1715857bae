"""What engines are told, until what they report is what is wanted."""

from gateway.adapters.keeper import orders_for, pins_of
from gateway.adapters.registry import AdapterRecord, Registry, Revision
from gateway.core.job import Shelf
from python_backends.messages import Adapter, Control

PIN = {"new": Adapter(path="pirate/2", checksum="new")}


def shelf(loaded: str = "", pinned: str = "") -> Shelf:
    return Shelf(places=4, loaded=frozenset(loaded.split()), pinned=frozenset(pinned.split()))


def orders(found: Shelf, known: str = "new old", retired: str = "") -> list[Control]:
    return list(orders_for(found, PIN, set(known.split()), set(retired.split())))


def test_what_is_missing_is_pinned_and_nothing_is_said_twice() -> None:
    assert orders(shelf()) == [Control(control="pin", adapter=PIN["new"])]
    assert orders(shelf("new", "new")) == []


def test_a_retired_revision_is_unloaded_before_the_new_one_is_pinned() -> None:
    assert orders(shelf("old", "old"), retired="old") == [
        Control(control="unload", checksum="old"),
        Control(control="pin", adapter=PIN["new"]),
    ]


def test_what_is_known_and_not_pinned_any_more_is_unpinned_and_strangers_are_left_alone() -> None:
    assert orders(shelf("new old stranger", "new old stranger")) == [Control(control="unpin", checksum="old")]


def test_only_the_current_revision_of_a_pinned_adapter_is_kept() -> None:
    revisions = tuple(
        Revision(revision=name, path=f"p/{name}", checksum=name, rank=1, bytes=1, created_at=0) for name in ("1", "2")
    )
    pinned = AdapterRecord(name="p", base="tiny", current="2", revisions=revisions, pinned=True)
    loose = AdapterRecord(name="q", base="tiny", current="1", revisions=revisions)
    assert pins_of(Registry(adapters=(pinned, loose))) == {"2": Adapter(path="p/2", checksum="2")}
