"""The registry's changes: pure functions from one document to the next."""

import msgspec
import pytest

from gateway.adapters.registry import (
    MAX_REVISIONS,
    Registry,
    Revision,
    added,
    decode_registry,
    models_of,
    promoted,
    removed,
)
from gateway.core.call import Model
from gateway.core.identity import NO_LIMITS, Limits
from gateway.errors import Conflict, NotFound

BASE = Model("tiny", "generate", 256, 7)
BASES = {"tiny": BASE}


def revision(name: str) -> Revision:
    return Revision(revision=name, path=f"pirate/{name}", checksum=f"sha256:{name}", rank=8, bytes=100, created_at=5)


def registry(*revisions: str, promote: bool = False) -> Registry:
    found = Registry()
    for name in revisions:
        found = added(found, "pirate", "tiny", revision(name), promote=promote, limits=NO_LIMITS)
    return found


def test_the_first_revision_is_what_the_name_means_and_later_ones_when_promoted() -> None:
    assert registry("1", "2").get("pirate").current == "1"
    assert registry("1", "2", promote=True).get("pirate").current == "2"
    assert promoted(registry("1", "2"), "pirate", "2").get("pirate").current == "2"
    with pytest.raises(NotFound, match="it has: 1, 2"):
        promoted(registry("1", "2"), "pirate", "3")


def test_clients_write_a_name_or_a_name_with_a_revision() -> None:
    limits = Limits(requests_per_minute=3)
    models = models_of(added(registry("1"), "pirate", "tiny", revision("2"), promote=False, limits=limits), BASES)
    assert models.keys() == {"pirate", "pirate@1", "pirate@2"}
    assert models["pirate"] is models["pirate@1"]
    model = models["pirate@2"]
    assert (model.name, model.base, model.max_model_len, model.created) == ("pirate", "tiny", 256, 5)
    assert (model.limits, model.adapter and model.adapter.checksum) == (limits, "sha256:2")
    assert models_of(registry("1"), {}) == {}


def test_a_revision_is_never_written_over() -> None:
    with pytest.raises(Conflict, match="already"):
        registry("1", "1")
    with pytest.raises(Conflict, match="one of tiny"):
        added(registry("1"), "pirate", "other", revision("2"), promote=False, limits=NO_LIMITS)
    with pytest.raises(Conflict, match="remove one first"):
        registry(*map(str, range(MAX_REVISIONS + 1)))


def test_removing_takes_one_revision_or_all_but_not_the_current_of_several() -> None:
    two = registry("1", "2")
    assert [one.revision for one in removed(two, "pirate", "2").get("pirate").revisions] == ["1"]
    with pytest.raises(Conflict, match="promote another"):
        removed(two, "pirate", "1")
    assert removed(two, "pirate", None).adapters == ()
    assert removed(registry("1"), "pirate", "1").adapters == ()
    with pytest.raises(NotFound):
        removed(two, "parrot", None)


def test_a_document_that_makes_no_sense_is_refused() -> None:
    good = registry("1", "2")
    assert decode_registry(msgspec.json.encode(good)) == good
    broken = good.put(msgspec.structs.replace(good.get("pirate"), current="9"))
    with pytest.raises(ValueError, match="no revision 9"):
        decode_registry(msgspec.json.encode(broken))
