"""What can happen to a rollout, and in which order."""

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from control_plane.errors import NotPossible
from control_plane.rollouts import state
from control_plane.rollouts.state import OPEN, Action, Decision, Definition, Rollout, Rules
from gateway.core.snapshot import Arm
from tests.unit.control_plane.making import NEW, OLD, definition, rollout


@pytest.mark.parametrize("steps", [(100,), (1, 5), (5, 1, 100), (1, 1, 100)])
def test_steps_must_grow_to_everything(steps: tuple[int, ...]) -> None:
    with pytest.raises(NotPossible, match="steps must grow and end with 100"):
        rollout(Rules(steps=steps))


def test_a_tolerance_beyond_the_margin_is_refused() -> None:
    with pytest.raises(NotPossible, match="latency_tolerance"):
        rollout(Rules(latency_tolerance=1.3))


def test_the_arms_must_be_told_apart() -> None:
    same = Definition(model="m", stable=OLD, canary=Arm(name="old", group="other"))
    with pytest.raises(NotPossible, match="another name"):
        state.start("ro_1", same, "ann", 0.0)


def test_a_step_begins_with_no_looks_and_a_hold_counts_one() -> None:
    held = state.decided(rollout(), decision("hold"), 60)
    assert (held.looks, held.looked_at, held.next_look) == (1, 60, 120)
    advanced = state.decided(held, decision("advance"), 130)
    assert (advanced.step, advanced.looks, advanced.next_look, advanced.since) == (1, 0, 50, 1500.0)


def decision(action: Action) -> Decision:
    return Decision(at=1500.0, by="control plane", action=action, share=1, reason="")


class Life(RuleBasedStateMachine):
    """Whatever comes, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout: Rollout = rollout()
        self.before = self.rollout

    def go(self, after: Rollout) -> None:
        self.before, self.rollout = self.rollout, after
        assert after.revision == self.before.revision + 1
        assert after.history[: len(self.before.history)] == self.before.history

    @precondition(lambda self: self.rollout.status == "running")
    @rule(action=st.sampled_from(["hold", "advance", "roll_back"]), samples=st.integers(1, 10_000))
    def look(self, action: Action, samples: int) -> None:
        if action == "advance" and self.rollout.last_step:
            action = "promote"
        self.go(state.decided(self.rollout, decision(action), samples))

    @rule(command=st.sampled_from([state.pause, state.resume, state.abort]))
    def command(self, command: object) -> None:
        allowed = {state.pause: {"running"}, state.resume: {"paused"}, state.abort: OPEN}[command]
        if self.rollout.status in allowed:
            self.go(command(self.rollout, "ann", 1500.0))  # type: ignore[operator]
            return
        with pytest.raises(NotPossible):
            command(self.rollout, "ann", 1500.0)  # type: ignore[operator]

    @invariant()
    def the_share_fits_the_status(self) -> None:
        one = self.rollout
        shares = {"promoted": {100}, "rolled_back": {0}, "aborted": {0}}.get(one.status, {1, 5, 25, 50})
        assert one.share in shares

    @invariant()
    def an_end_is_an_end(self) -> None:
        if self.before.status not in OPEN:
            assert self.rollout.status == self.before.status

    @invariant()
    def it_can_be_stored(self) -> None:
        assert msgspec.json.decode(msgspec.json.encode(self.rollout), type=Rollout) == self.rollout


TestLife = Life.TestCase


def test_the_definition_is_kept() -> None:
    assert rollout().definition == definition()
    assert (rollout().definition.stable, rollout().definition.canary) == (OLD, NEW)
