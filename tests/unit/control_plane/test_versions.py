"""Arms of versions in the routing document."""

import pytest
from msgspec.structs import replace

from control_plane.errors import NotPossible
from control_plane.rollouts.weights import registered
from control_plane.versions import Place, new_arm, users, with_version, without_version
from gateway.core.snapshot import Arm, Mirror, ModelRoute, RoutingSnapshot

OLD, NEW = Place("1", default=True), Place("2")
STABLE, SECOND = Arm(name="stable"), new_arm(NEW)


def document(*arms: Arm, mirror: Mirror | None = None) -> RoutingSnapshot:
    return RoutingSnapshot(models=(ModelRoute(name="boats", arms=arms, aliases=("small",), mirror=mirror),))


@pytest.mark.parametrize(
    ("place", "arm", "held"),
    [
        (OLD, STABLE, True),
        (NEW, STABLE, False),
        (NEW, SECOND, True),
        (OLD, SECOND, False),
        (OLD, Arm(name="a", version="1"), True),
        (NEW, Arm(name="a", triton_model="chat_2"), True),
        (Place("2", group="other"), SECOND, False),
        (OLD, Arm(name="a", triton_model="embed"), False),
    ],
)
def test_which_arms_are_of_a_version(place: Place, arm: Arm, held: bool) -> None:
    assert place.holds(arm) is held


def test_a_new_version_gets_nobody() -> None:
    first = with_version(RoutingSnapshot(), "boats", SECOND)
    assert first.models == (ModelRoute(name="boats", arms=(STABLE, SECOND)),)
    assert first.validate() == []
    assert with_version(first, "boats", SECOND) is first
    kept = with_version(document(Arm(name="v1", version="1")), "boats", SECOND).models[0]
    assert (kept.aliases, [arm.name for arm in kept.arms]) == (("small",), ["v1", "v2"])


def test_an_arm_that_has_a_weight_by_now_keeps_it() -> None:
    weighted = document(STABLE, replace(SECOND, weight=5))
    assert with_version(weighted, "boats", SECOND) is weighted


def test_a_name_that_is_taken_is_not_taken_over() -> None:
    with pytest.raises(NotPossible, match="there is an arm 'v2' of boats already"):
        with_version(document(STABLE, Arm(name="v2", group="elsewhere")), "boats", SECOND)


def test_a_version_that_nobody_is_given_to_is_left_out() -> None:
    before = document(STABLE, SECOND)
    assert without_version(before, "boats", NEW) == document(STABLE)
    assert without_version(document(STABLE), "boats", NEW) == document(STABLE)


@pytest.mark.parametrize(
    ("held", "place", "words"),
    [
        (RoutingSnapshot(), OLD, "arm stable of boats with 100 %"),
        (document(STABLE, replace(SECOND, weight=3)), OLD, "arm stable of boats with 25 %"),
        (document(STABLE, replace(SECOND, weight=3)), NEW, "arm v2 of boats with 75 %"),
        (document(STABLE, mirror=Mirror(id="m", arm=SECOND, fraction=0.5)), NEW, "the mirror of boats"),
    ],
)
def test_a_version_that_somebody_is_given_to_stays(held: RoutingSnapshot, place: Place, words: str) -> None:
    assert words in ", ".join(users(held, "boats", place))
    with pytest.raises(NotPossible, match=words):
        without_version(held, "boats", place)


def test_a_rollout_finds_an_arm_by_its_name() -> None:
    held = document(STABLE, SECOND)
    assert registered(held, "boats", Arm(name="v2")) == SECOND
    other = Arm(name="v2", group="elsewhere")
    assert registered(held, "boats", other) is other
    unknown = Arm(name="v3")
    assert registered(held, "boats", unknown) is unknown
    assert registered(RoutingSnapshot(), "boats", unknown) is unknown
