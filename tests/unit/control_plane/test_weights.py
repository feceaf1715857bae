"""What the routing document must say."""

import pytest

from control_plane.errors import NotPossible
from control_plane.rollouts import state
from control_plane.rollouts.state import Rules
from control_plane.rollouts.weights import define, with_weights
from gateway.core.call import Model
from gateway.core.snapshot import Arm, ModelRoute, RoutingSnapshot
from gateway.routing.sources import default_routes
from tests.unit.control_plane.making import NEW, OLD, QUICK, rollout

OTHER = ModelRoute(name="ships", arms=(OLD,))
DOCUMENT = RoutingSnapshot(version=7, models=(ModelRoute(name="boats", arms=(OLD,), aliases=("b",)), OTHER))


def weights(document: RoutingSnapshot) -> dict[str, int]:
    (route,) = [one for one in document.models if one.name == "boats"]
    return {arm.name: arm.weight for arm in route.arms}


def test_the_canary_gets_its_share_and_the_rest_of_the_document_stays() -> None:
    changed = with_weights(DOCUMENT, rollout())
    assert weights(changed) == {"new": 1, "old": 99}
    assert changed.validate() == []
    assert OTHER in changed.models
    assert changed.aliases() == {"b": "boats"}


def test_the_canary_comes_first_so_that_who_has_it_keeps_it() -> None:
    assert list(weights(with_weights(DOCUMENT, rollout()))) == ["new", "old"]


def test_a_document_that_says_so_already_is_not_changed() -> None:
    once = with_weights(DOCUMENT, rollout())
    assert with_weights(once, rollout()) is once


def test_at_the_end_only_the_winner_is_left() -> None:
    begun = with_weights(DOCUMENT, rollout())
    assert weights(with_weights(begun, state.abort(rollout(), "ann", 1.0))) == {"old": 1}
    last = rollout(Rules(steps=(50, 100)))
    promote = state.Decision(at=1.0, by="", action="promote", share=50, reason="")
    assert weights(with_weights(begun, state.decided(last, promote, 1))) == {"new": 1}


def test_a_model_that_nobody_has_changed_is_served_as_the_gateway_does_by_itself() -> None:
    (route,) = default_routes([Model(name="boats", task="generate", max_model_len=1, created=0)])
    assert define(RoutingSnapshot(), "boats", NEW, QUICK).stable == route.arms[0]


def test_a_rollout_begins_from_one_arm_and_leads_somewhere_else() -> None:
    two = RoutingSnapshot(models=(ModelRoute(name="boats", arms=(OLD, NEW)),))
    with pytest.raises(NotPossible, match="boats is served by old, new"):
        define(two, "boats", Arm(name="third", version="3"), QUICK)
    with pytest.raises(NotPossible, match="the canary is where the stable arm is: group default, model chat"):
        define(DOCUMENT, "boats", Arm(name="new"), QUICK)
    assert define(DOCUMENT, "boats", Arm(name="new", version="2"), QUICK).stable == OLD


def test_loaded_versions_can_be_asked_for_before_meanwhile_and_after() -> None:
    second, third = (Arm(name=f"v{one}", triton_model=f"chat_{one}", version=one, weight=0) for one in ("2", "3"))
    before = RoutingSnapshot(models=(ModelRoute(name="boats", arms=(OLD, second, third)),))
    rules = Rules(steps=(50, 100))
    one = state.start("ro_1", define(before, "boats", second, rules), "ann", 0.0)
    begun = with_weights(before, one)
    assert weights(begun) == {"v2": 50, "old": 50, "v3": 0}
    back = with_weights(begun, state.abort(one, "ann", 1.0))
    assert weights(back) == {"old": 1, "v2": 0, "v3": 0}
    promote = state.Decision(at=1.0, by="", action="promote", share=50, reason="")
    promoted = with_weights(begun, state.decided(one, promote, 1))
    assert weights(promoted) == {"v2": 1, "v3": 0}
    two = state.start("ro_2", define(promoted, "boats", third, rules), "ann", 0.0)
    assert weights(with_weights(promoted, state.decided(two, promote, 1))) == {"v3": 1, "v2": 0}
